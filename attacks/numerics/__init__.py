"""What the attacks compute with: norms, losses, noise per sample, Adam, optimal transport."""
