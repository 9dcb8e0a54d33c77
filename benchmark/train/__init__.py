"""From a task to a trained network: the loop, the defenses, the detectors' parts and thresholds."""
