"""Early stopping and budgets."""
