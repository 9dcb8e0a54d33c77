"""Defenses: one file each. This package knows torch and ``attacks`` and nothing of ``benchmark``."""
