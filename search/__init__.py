"""The search space, the trial, the tuner, and what the trials found."""
