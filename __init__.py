"""Turn a large text classifier into the smallest and fastest one that keeps its accuracy."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .export.benchmark.measurements import PerformanceBenchmark
    from .export.runtime.classifier import TextClassifier
    from .training.distillation.arguments import DistillationTrainingArguments
    from .training.distillation.trainer import DistillationTrainer
    from .training.pretraining.arguments import PretrainingArguments
    from .training.pretraining.trainer import PretrainingTrainer

__version__ = "0.1.0"

__all__ = [
    "DistillationTrainer",
    "DistillationTrainingArguments",
    "PerformanceBenchmark",
    "PretrainingArguments",
    "PretrainingTrainer",
    "TextClassifier",
]

_HOMES = {
    "DistillationTrainer": ".training.distillation.trainer",
    "DistillationTrainingArguments": ".training.distillation.arguments",
    "PerformanceBenchmark": ".export.benchmark.measurements",
    "PretrainingArguments": ".training.pretraining.arguments",
    "PretrainingTrainer": ".training.pretraining.trainer",
    "TextClassifier": ".export.runtime.classifier",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first access, so that importing the package stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name], __name__), name)
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        from .export.runtime.session.providers import NOT_INSTALLED

        raise ModuleNotFoundError(NOT_INSTALLED, name=error.name) from error
