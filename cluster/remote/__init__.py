"""What runs inside of Ray tasks."""
