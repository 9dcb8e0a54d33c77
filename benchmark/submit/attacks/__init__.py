"""Submitted attacks and adversarial images against the models of a store."""
