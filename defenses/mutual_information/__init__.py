"""Estimating the mutual information between images, or their noise, and a model's output."""
