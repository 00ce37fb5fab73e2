"""A trial: the code that runs on a worker."""
