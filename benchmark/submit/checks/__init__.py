"""What a submission must show before it runs."""
