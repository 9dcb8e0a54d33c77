"""Robustness Bench: everything that runs, keeps and shows."""
