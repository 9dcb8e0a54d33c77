"""Submitted defenses beside the results: entries, claims, rows that others published."""
