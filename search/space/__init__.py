"""The search space, and its validation."""
