"""One suite for each registry, which all of its entries pass."""
