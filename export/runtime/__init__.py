"""The torch-free classifier, which needs only onnxruntime, tokenizers and numpy."""
