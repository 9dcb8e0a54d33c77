"""Read a submission's files from a folder or an archive, without trusting them."""
