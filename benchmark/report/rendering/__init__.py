"""A finished table and the forms it is written in."""
