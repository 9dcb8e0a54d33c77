"""The verbs of `bench submit`."""
