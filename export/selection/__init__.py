"""The gate, and the choice among the variants."""
