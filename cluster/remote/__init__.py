"""Functions that run inside Ray tasks."""
