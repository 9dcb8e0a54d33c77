"""What the figures show, as values."""
