"""Measurements of accuracy, latency, size and memory."""
