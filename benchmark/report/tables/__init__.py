"""Tables of a run and of a comparison, from lines."""
