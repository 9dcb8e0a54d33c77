"""A finished table and its output formats."""
