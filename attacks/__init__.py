"""Attacks: one file each. This package imports torch, and never ``benchmark`` or ``defenses``."""
