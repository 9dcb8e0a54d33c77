"""From a model to a record: attacks, detectors, mutual information, hidden gradients."""
