"""The data that each kind of page shows."""
