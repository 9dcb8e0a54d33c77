"""Tables 1 and 2 of Hsu et al. 2018."""
