"""ONNX export, quantization, benchmark, artifact, torch-free runtime and report, without Ray or Optuna."""

import os

# Read when onnxruntime is imported: without it, builds with telemetry write files to the home directory.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
