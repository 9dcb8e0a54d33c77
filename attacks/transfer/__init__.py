"""Attacks whose images are meant for a model other than the one they are made on."""
