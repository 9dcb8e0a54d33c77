"""The papers' tables, filled from a store: what they share (``cells``, ``tables``), then each paper."""
