"""Robustness Bench: everything that runs evaluations, stores results and shows them."""
