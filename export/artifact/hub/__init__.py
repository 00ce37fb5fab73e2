"""Artifacts on a model hub: push one to a repository, and pull it from there."""
