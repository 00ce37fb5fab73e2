"""ONNX graphs: made, fused and looked into."""
