"""Detectors of adversarial images: their networks, scores, thresholds, and unions of detectors."""
