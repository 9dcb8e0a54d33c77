"""Plots, images and figures as the pages show them."""
