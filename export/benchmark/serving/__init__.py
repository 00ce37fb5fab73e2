"""Measurements of an artifact in serving: sweeps, load, startup."""
