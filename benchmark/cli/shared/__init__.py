"""What several verbs share: options, remedies, execution with progress."""
