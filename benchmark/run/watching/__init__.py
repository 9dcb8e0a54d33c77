"""What a run says of itself while it runs: a journal in its folder, and trackers."""
