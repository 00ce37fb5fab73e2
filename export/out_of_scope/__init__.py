"""Thresholds for texts outside of every intent."""
