"""Hyperparameter search: the space, trials, early stopping, the driver, and the selection of a trial."""
