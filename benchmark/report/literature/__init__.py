"""What the papers print."""
