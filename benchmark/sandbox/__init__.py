"""Submitted code in a confined process that can do no harm and whose output is never trusted."""
