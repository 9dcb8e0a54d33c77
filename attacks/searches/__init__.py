"""Searches that AutoAttack is made of."""
