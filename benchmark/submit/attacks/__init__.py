"""Attacks and adversarial images that others send in, against the models of a store."""
