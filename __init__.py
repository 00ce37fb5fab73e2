"""Turn a large text classifier into the smallest and fastest one that keeps its accuracy."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .export.benchmark import PerformanceBenchmark
    from .export.runtime import TextClassifier
    from .training.arguments import DistillationTrainingArguments
    from .training.pretraining import PretrainingTrainer
    from .training.pretraining_arguments import PretrainingArguments
    from .training.trainer import DistillationTrainer

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
    "DistillationTrainer": ".training.trainer",
    "DistillationTrainingArguments": ".training.arguments",
    "PerformanceBenchmark": ".export.benchmark",
    "PretrainingArguments": ".training.pretraining_arguments",
    "PretrainingTrainer": ".training.pretraining",
    "TextClassifier": ".export.runtime",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that importing the package stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
