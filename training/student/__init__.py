"""The student that every trial starts from."""
