"""One number or several for each text: squared errors to the labels and to the teacher's outputs[N, K]."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..data.label_kinds import NUMBERS, LabelKind
from .base import TASKS, Task
from .metrics import Metric, Mode

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_SCALE, _MOST_SCALE = 1e-4, 1e6


class Regression(Task):
    """Predict numbers; labels and predictions are float32[N, K] in the unit of the data, NaN for no label."""

    name: ClassVar[str] = "regression"
    description: ClassVar[str] = "one or several numbers for each text"
    title: ClassVar[str] = "Text regressor"
    does: ClassVar[str] = "Predicts {num} number(s) for a text."
    answer: ClassVar[str] = '{"value": …}, or {"values": {name: …}} of several numbers'
    label_kind: ClassVar[LabelKind] = NUMBERS
    label_dtype: ClassVar[str] = "float32"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    problem_type: ClassVar[str | None] = "regression"
    metric_modes: ClassVar[Mapping[str, Mode]] = {"pearson": "max", "spearman": "max", "rmse": "min"}
    starts_head: ClassVar[bool] = True
    scales_head: ClassVar[bool] = True
    has_temperature: ClassVar[bool] = False
    has_label_smoothing: ClassVar[bool] = False

    def missing_labels(self, num_texts: int, num_outputs: int) -> np.ndarray:
        """Return rows of NaN."""
        return np.full((num_texts, num_outputs), np.nan, dtype=self.label_dtype)

    def num_outputs(self, label_names: Sequence[str]) -> int:
        """Return how many numbers a text has."""
        return len(label_names)

    def head_scale(self, labels: np.ndarray) -> float:
        """Return the mean standard deviation of the labels: the head learns as if they were standardized."""
        known = labels[~np.isnan(labels).any(axis=1)].astype(np.float64)
        return float(np.clip(known.std(axis=0).mean(), _LEAST_SCALE, _MOST_SCALE)) if len(known) > 1 else 1.0

    def start_head(self, head: Any, labels: np.ndarray) -> None:
        """Initialize a new head to predict about the mean of the labels, in their unit."""
        import torch

        means = np.nanmean(labels.astype(np.float64), axis=0)
        with torch.no_grad():
            head.weight.mul_(self.head_scale(labels))
            if head.bias is not None:
                head.bias.copy_(torch.from_numpy(means))

    def hard_loss(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        num_items: Tensor | int | None = None,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Compute the squared error of outputs[B, K] and labels[B, K], averaged over the numbers."""
        from .losses import squared_error

        del label_smoothing, class_weights  # jobs with either are rejected
        return squared_error(logits, labels, num_items=num_items)

    def soft_loss(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        *,
        temperature: float,
        num_items: Tensor | int | None = None,
    ) -> Tensor:
        """Compute the squared error of the student's and the teacher's outputs[B, K]; the temperature has no effect."""
        from .losses import squared_error

        del temperature
        return squared_error(student_logits, teacher_logits, num_items=num_items)

    def with_own_labels(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return labels[B, K] with NaN replaced by the outputs plus 1, since an error of 0 would have no gradient."""
        return (logits.detach() + 1).to(labels.dtype).where(labels.isnan(), labels)

    def known_labels(self, labels: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return a copy of the labels."""
        del num_outputs
        return np.array(labels)

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """Return the outputs, float32[N, K]."""
        return np.asarray(logits, dtype=np.float32)

    def correct(self, predictions: np.ndarray, labels: np.ndarray) -> None:
        """Return None: a number is neither right nor wrong."""
        del predictions, labels

    def metrics(
        self, predictions: np.ndarray, labels: np.ndarray, out_of_scope_id: int | None = None
    ) -> dict[str, float | None]:
        """Compute Pearson's and Spearman's correlation, -1 to 1, and root mean squared error, averaged over numbers.

        A correlation with outputs that are all equal is 0.

        Raises:
            ValueError: There are no labels, or their number differs from that of the predictions.
        """
        del out_of_scope_id
        return self.each_metric(predictions, labels)

    def metric(self, name: str, label_names: Sequence[str], out_of_scope_id: int | None = None) -> Metric:
        """Return a metric by its name."""
        del label_names
        mode = self.metric_mode(name)
        if name == "spearman":
            return Metric(name, mode, _spearman)
        statistics, of_statistics = _STATISTICS[name]

        def measure(predictions: np.ndarray, labels: np.ndarray) -> float:
            return float(of_statistics(statistics(predictions, labels).sum(axis=0)))

        return Metric(name, mode, measure, statistics=statistics, of_statistics=of_statistics)


def _products(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return 1, and x, y, x², y² and x · y of each number, float64[N, 1 + 5 · K], where x and y have mean 0."""
    x, y = (np.asarray(each, dtype=np.float64) for each in (predictions, labels))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)  # avoids cancellation where means are large
    return np.concatenate([np.ones((len(x), 1)), x, y, x * x, y * y, x * y], axis=1)


def _pearson(sums: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of sums [..., 1 + 5 · K], the mean over the numbers, [...]."""
    num, (x, y, xx, yy, xy) = sums[..., :1], np.split(sums[..., 1:], 5, axis=-1)
    spread = np.maximum(num * xx - x * x, 0) * np.maximum(num * yy - y * y, 0)
    least = 1e-12 * (num * xx) * (num * yy)  # below it, x or y is constant except for rounding
    shared = num * xy - x * y
    is_defined = spread > least
    found = np.divide(shared, np.sqrt(spread), out=np.zeros(spread.shape), where=is_defined)
    return np.clip(found, -1, 1).mean(axis=-1)


def _squares(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return 1, and the squared error of each number, float64[N, 1 + K]."""
    errors = np.asarray(predictions, dtype=np.float64) - labels
    return np.concatenate([np.ones((len(errors), 1)), errors**2], axis=1)


def _rmse(sums: np.ndarray) -> np.ndarray:
    return np.sqrt(sums[..., 1:] / sums[..., :1]).mean(axis=-1)


def _spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return Pearson's correlation of the ranks, where equal numbers share their mean rank."""
    return float(_pearson(_products(_ranks(predictions), _ranks(labels)).sum(axis=0)))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value in its column of [N, K], the mean of the ranks of equal ones, float64[N, K]."""
    columns = []
    for column in np.asarray(values).T:
        _, places, counts = np.unique(column, return_inverse=True, return_counts=True)
        columns.append((np.cumsum(counts) - (counts - 1) / 2)[places])
    return np.stack(columns, axis=1)


_STATISTICS: dict[
    str, tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]
] = {"pearson": (_products, _pearson), "rmse": (_squares, _rmse)}

REGRESSION = TASKS.register(Regression())
