"""What several verbs share: options, remedies, running in front of the user."""
