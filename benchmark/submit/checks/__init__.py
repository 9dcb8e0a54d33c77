"""Checks that a submission must pass before it runs."""
