"""Verbs about a whole folder of results."""
