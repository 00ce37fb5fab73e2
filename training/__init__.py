"""Data, teacher, student, losses and the ``DistillationTrainer``; knows nothing of Ray, Optuna or ONNX."""
