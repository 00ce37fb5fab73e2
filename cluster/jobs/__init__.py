"""Runs on a cluster: shipping, checks, submission and the driver."""
