"""Results on their way between machines: what lies where, archives of it, and what is checked first."""
