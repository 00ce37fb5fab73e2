"""Build the student that every trial starts from."""
