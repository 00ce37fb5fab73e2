"""Exported and quantized variants of a model."""
