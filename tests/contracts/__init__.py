"""One suite for each registry, which each of its entries passes."""
