"""Attacks that see less than the model: another model in its place (transfer), or only its labels."""
