"""What the attacks compute with: norms, losses, margins, noise per sample, optimal transport."""
