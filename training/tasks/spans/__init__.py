"""Answers that are spans of a context: windows of tokens, decoding and scores in NumPy alone, and the model's head."""
