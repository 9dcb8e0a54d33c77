"""The manifest of a submission: ``submission.toml``, fully checked."""
