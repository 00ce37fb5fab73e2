"""Model families and their parts, changes to models, and inference."""
