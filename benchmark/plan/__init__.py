"""Planning: the protocol, its tasks and their ids, and their cost."""
