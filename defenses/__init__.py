"""Defenses: one file each. This package imports torch and ``attacks``, and never ``benchmark``."""
