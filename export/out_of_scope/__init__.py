"""Thresholds for texts outside every intent."""
