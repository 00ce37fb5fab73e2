"""The torch-free classifier: onnxruntime, tokenizers and numpy alone."""
