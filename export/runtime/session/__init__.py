"""The ONNX Runtime session: its options, providers, buffers and inputs."""
