"""The variants of a model: quantized and exported."""
