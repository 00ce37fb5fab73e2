"""ONNX, quantization, benchmark, artifact, torch-free runtime and report; knows nothing of Ray or Optuna."""
