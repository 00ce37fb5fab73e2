"""Views of runs for the user, built only from their records in the store."""
