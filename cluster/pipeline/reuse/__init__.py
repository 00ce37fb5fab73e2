"""Reuse of results in the storage: those of other runs, and a run's own search, which can be extended."""
