"""What may be searched, and the checks of it."""
