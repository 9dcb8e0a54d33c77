"""Plots, images and numbers as the pages show them."""
