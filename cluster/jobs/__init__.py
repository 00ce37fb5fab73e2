"""Runs on a cluster: what is sent there, checked there and works there."""
