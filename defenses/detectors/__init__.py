"""Detectors of adversarial images: networks they look through, scores, thresholds, and their unions."""
