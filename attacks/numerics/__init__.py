"""What the attacks compute with: norms, losses, noise per sample, optimal transport."""
