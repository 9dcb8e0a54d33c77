"""Robustness Bench: attacks, defenses, and the benchmark that runs, keeps and shows them."""
