"""Measurements of an artifact that serves: sweeps, load, start-up."""
