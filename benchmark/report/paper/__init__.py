"""The tables of the papers, from results of ours."""
