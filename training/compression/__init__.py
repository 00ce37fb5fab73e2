"""Pruning and quantization-aware training of a student."""
