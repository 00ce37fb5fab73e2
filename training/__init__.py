"""Data, teacher, student, losses and the ``DistillationTrainer``; independent of Ray, Optuna and ONNX."""
