"""The distillation trainer: its arguments, losses and metrics."""
