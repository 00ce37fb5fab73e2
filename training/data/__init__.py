"""Load texts from their sources, check them and tokenize them."""
