"""The contents of the figures, as values."""
