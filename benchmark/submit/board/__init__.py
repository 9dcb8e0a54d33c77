"""Submitted defenses next to the results: entries, claims, rows that others published."""
