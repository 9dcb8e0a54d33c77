"""Submissions: a folder with a manifest and weights, read and checked before anything runs."""
