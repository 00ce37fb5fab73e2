"""What is known of a model's parts, and how one is computed with."""
