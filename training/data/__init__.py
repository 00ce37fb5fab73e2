"""The texts: where they come from, their checks, and their token ids."""
