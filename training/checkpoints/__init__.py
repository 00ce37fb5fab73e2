"""Checkpoints: found, checked against their configuration, loaded and saved."""
