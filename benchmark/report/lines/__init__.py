"""From records to lines: statistics over seeds and images, one line per cell."""
