"""What makes a student smaller or quantizable while it is trained."""
