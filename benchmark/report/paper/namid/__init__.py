"""Tables 1 to 6 of Zhou et al. 2022."""
