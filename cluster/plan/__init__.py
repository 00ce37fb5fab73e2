"""Trying changes of a job one after another."""
