"""ONNX, quantization, benchmark, artifact, torch-free runtime and report; knows nothing of Ray or Optuna."""

import os

# Read when onnxruntime is imported: without it, a copy of it that was built with telemetry leaves files in the home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
