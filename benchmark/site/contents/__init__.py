"""The contents of the pages: read from the stores and computed, without HTML."""
