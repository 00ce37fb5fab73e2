"""Checks before a job does expensive work: its specification, models and texts, and the cluster that it runs on."""
