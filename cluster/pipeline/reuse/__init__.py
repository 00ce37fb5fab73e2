"""What exists in the storage already: results of other runs to reuse, and a run's own search to extend."""
