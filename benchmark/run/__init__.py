"""Running tasks in worker processes."""
