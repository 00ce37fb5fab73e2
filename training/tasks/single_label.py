"""One label for each text: cross-entropy and soft targets over the softmax of logits[N, C]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .base import LEAST_PROBABILITY, TASKS, OutOfScope, Task
from .label_metrics import LABEL_METRICS, METRICS, accuracy_of, of_label, of_one, recalls
from .metrics import LabelCounts, Metric, Mode, position_of

if TYPE_CHECKING:
    from torch import Tensor


class SingleLabel(Task):
    """Classify texts with one label each; labels and predictions are class numbers int[N], -100 for no label."""

    name: ClassVar[str] = "single_label"
    description: ClassVar[str] = "one label for each text"
    label_dtype: ClassVar[str] = "int64"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    problem_type: ClassVar[str | None] = "single_label_classification"
    metric_modes: ClassVar[Mapping[str, Mode]] = {
        "accuracy": "max",
        "in_scope_accuracy": "max",
        "oos_recall": "max",
    }
    further_metrics: ClassVar[Mapping[str, Mode]] = {name: "max" for name in METRICS if name != "accuracy"}
    epoch_metrics: ClassVar[tuple[str, ...]] = ("balanced_accuracy", "macro_f1", "weighted_f1")
    label_metrics: ClassVar[Mapping[str, Mode]] = dict.fromkeys(LABEL_METRICS, "max")

    def __init__(self) -> None:
        self.out_of_scope = OutOfScope(self.predictions)

    def missing_labels(self, num_texts: int, num_outputs: int) -> np.ndarray:
        """Return -100 for each text."""
        from ..data.tokenized import IGNORED_LABEL

        return np.full(num_texts, IGNORED_LABEL, dtype=self.label_dtype)

    def num_outputs(self, label_names: Sequence[str]) -> int:
        """Return the number of labels; each has one logit."""
        return len(label_names)

    def hard_loss(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        num_items: Tensor | int | None = None,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Compute the cross-entropy of logits[B, C] and labels[B]."""
        from .losses import cross_entropy

        return cross_entropy(
            logits,
            labels,
            num_items=num_items,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
        )

    def soft_loss(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        *,
        temperature: float,
        num_items: Tensor | int | None = None,
    ) -> Tensor:
        """Compute T² · KL(softmax(z_t/T) ‖ softmax(z_s/T)) of logits[B, C]."""
        from .losses import soft_target_loss

        return soft_target_loss(student_logits, teacher_logits, temperature=temperature, num_items=num_items)

    def with_own_labels(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return labels[B] with -100 replaced by the class of the largest logit."""
        from ..data.tokenized import IGNORED_LABEL

        return logits.argmax(-1).where(labels == IGNORED_LABEL, labels)

    def known_labels(self, labels: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return labels[N] with -100 for an out-of-scope class that only a threshold predicts."""
        from ..data.tokenized import IGNORED_LABEL

        return np.where(labels < num_outputs, labels, IGNORED_LABEL)

    def text_classes(self, labels: np.ndarray) -> np.ndarray:
        """Return the labels, int[N]."""
        return labels

    def label_sets(self, labels: Tensor, num_outputs: int) -> Tensor:
        """Return the one-hot form of labels[N], bool[N, C]; the row of a label beyond the outputs is all False."""
        import torch

        return labels[:, None] == torch.arange(num_outputs, device=labels.device)

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """Return the class of the largest logit, int64[N]; of equal ones, the first."""
        return logits.argmax(axis=-1)

    def class_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return softmax(logits[N, C])."""
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponents / exponents.sum(axis=1, keepdims=True)

    def logits_of_probabilities(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the logarithms of probabilities[N, C] of the classes, which add up to 1."""
        return np.log(np.clip(probabilities, LEAST_PROBABILITY, None))

    def correct(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return whether each predicted class is the label, bool[N]."""
        return predictions == labels

    def label_counts(self, predictions: np.ndarray, labels: np.ndarray, num_labels: int) -> LabelCounts:
        """Count the texts of each class, [C]."""
        pairs = labels, predictions, labels[predictions == labels]
        return LabelCounts(*(np.bincount(each, minlength=num_labels) for each in pairs))

    def metrics(
        self, predictions: np.ndarray, labels: np.ndarray, out_of_scope_id: int | None = None
    ) -> dict[str, float | None]:
        """Compute shares of correct predictions, 0 to 1.

        Returns:
            ``accuracy`` over all texts; ``in_scope_accuracy`` over those with an in-scope label (equal to accuracy
            without an out-of-scope class); ``oos_recall``, the share of out-of-scope texts recognised (None without
            such a class or such a text).

        Raises:
            ValueError: There are no labels, or their number differs from that of the predictions.
        """
        predictions, labels = np.asarray(predictions), np.asarray(labels)
        if labels.size == 0 or len(predictions) != len(labels):
            raise ValueError(
                f"{len(predictions)} predictions for {labels.size} labels; the counts must be equal and above 0"
            )
        right = self.correct(predictions, labels)
        accuracy = float(right.mean())
        if out_of_scope_id is None:
            return {"accuracy": accuracy, "in_scope_accuracy": accuracy, "oos_recall": None}
        outside = labels == out_of_scope_id
        return {
            "accuracy": accuracy,
            "in_scope_accuracy": accuracy if outside.all() else float(right[~outside].mean()),
            "oos_recall": float(right[outside].mean()) if outside.any() else None,
        }

    def metric(self, name: str, label_names: Sequence[str], out_of_scope_id: int | None = None) -> Metric:
        """Return a metric by its name; averages treat the out-of-scope class, if there is one, like any other label."""
        mode, (kind, _, label) = self.metric_mode(name), name.partition(".")
        if label:
            number = position_of(label, name, label_names)
            return Metric(name, mode, *of_label(kind, number), concerns=lambda labels: labels == number)
        if name in METRICS:
            return Metric(name, mode, *METRICS[name], is_accuracy=name == "accuracy")
        found = super().metric(name, label_names, out_of_scope_id)
        if out_of_scope_id is None:
            return replace(found, of_counts=accuracy_of) if name == "in_scope_accuracy" else found
        outside = out_of_scope_id
        if name == "oos_recall":
            return replace(
                found,
                of_counts=lambda counts: of_one(recalls(counts), outside),
                concerns=lambda labels: labels == outside,
            )
        if name != "in_scope_accuracy":
            return found
        return replace(
            found,
            of_counts=lambda counts: _in_scope_accuracy(counts, outside),
            concerns=lambda labels: labels != outside,
        )

    def compute_metrics(self, evaluated: Any) -> dict[str, float]:
        """Compute the metrics of logits[N, C], or of classes int[N] from ``preprocess_logits_for_metrics``."""
        given = np.asarray(evaluated.predictions)
        predictions = self.predictions(given) if given.ndim == 2 else given
        found = self.metrics(predictions, evaluated.label_ids)
        return {name: value for name, value in found.items() if value is not None}


def _in_scope_accuracy(counts: LabelCounts, outside: int) -> np.ndarray:
    """Return the accuracy over the texts of all other labels, [...]; over all texts if there are no others."""
    if outside >= counts.texts.shape[-1]:  # no text and no prediction is outside
        return accuracy_of(counts)
    inside = accuracy_of(
        LabelCounts(
            *(np.delete(each, outside, axis=-1) for each in (counts.texts, counts.predicted, counts.right))
        )
    )
    has_any = np.delete(counts.texts, outside, axis=-1).any(axis=-1)
    return np.where(has_any, inside, accuracy_of(counts))


SINGLE_LABEL = TASKS.register(SingleLabel())
