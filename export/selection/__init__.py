"""The gate, and the selection among the variants."""
