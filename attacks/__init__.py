"""Attacks: one file each. This package knows torch and nothing of ``benchmark`` or ``defenses``."""
