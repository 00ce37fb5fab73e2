"""What a person sees of runs, from their records in the store alone."""
