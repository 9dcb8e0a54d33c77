"""The tables of the papers, from our results."""
