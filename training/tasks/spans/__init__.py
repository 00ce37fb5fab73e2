"""Answers that are spans of a context: windows of tokens, their decoding and its scores, in NumPy alone; the head."""
