"""Exchange of results between machines: layout of a store, archives, and checks before import."""
