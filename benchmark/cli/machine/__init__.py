"""Verbs that look: at this machine, and at a run elsewhere."""
