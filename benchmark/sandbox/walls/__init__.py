"""The walls around submitted code: what the kernel, and bubblewrap where it is installed, enforce."""
