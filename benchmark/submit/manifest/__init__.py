"""What a submission says of itself: ``submission.toml``, checked in full."""
