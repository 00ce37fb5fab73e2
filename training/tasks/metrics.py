"""One metric of a task: how it is measured on predictions, and on the counts of many resamples.

Shapes: N texts, C labels; ``...`` are resamples. Importing this loads NumPy alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...errors import InputError, shown

Mode = Literal["max", "min"]

_TITLES = {
    "f1": "F1",
    "map": "mAP",
    "mcc": "MCC",
    "pearson": "Pearson",
    "rmse": "RMSE",
    "spearman": "Spearman",
}
_NUM_NAMED = 12  # labels that an error lists


@dataclass(frozen=True)
class LabelCounts:
    """Numbers of texts of each label, all of shape [..., C].

    Attributes:
        texts: Texts with this label.
        predicted: Texts with this prediction.
        right: Texts with both.
    """

    texts: np.ndarray
    predicted: np.ndarray
    right: np.ndarray

    @classmethod
    def of_sums(cls, sums: np.ndarray) -> LabelCounts:
        """Read counts from numbers [..., 3 · C], as ``of_sets`` returns them, or their sums."""
        return cls(*np.split(sums, 3, axis=-1))

    @staticmethod
    def of_sets(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return what each of N texts adds to the counts, float32[N, 3 · C], from bool[N, C] with several labels."""
        return np.concatenate([labels, predictions, labels & predictions], axis=1).astype(np.float32)

    @classmethod
    def of(cls, predictions: np.ndarray, labels: np.ndarray) -> LabelCounts:
        """Count predictions int[N] and labels int[N], with as many labels C as the largest number needs."""
        predictions, labels = (np.asarray(each).astype(np.int64) for each in (predictions, labels))
        num = 1 + int(max(np.max(predictions, initial=0), np.max(labels, initial=0)))
        both = labels[predictions == labels]
        return cls(*(np.bincount(each, minlength=num) for each in (labels, predictions, both)))


@dataclass(frozen=True)
class Metric:
    """One metric of a task, for the labels of one data set.

    Attributes:
        name: Its name, as in the job's key ``metric``.
        mode: Whether higher or lower is better.
        measure: Function of predictions and labels of N texts; None where the metric is undefined on them.
        of_counts: Function of counts [..., C] to values [...]; None for a metric that counts do not determine.
        statistics: Function of predictions and labels of N texts to float[N, K], numbers of each text whose sums over
            texts determine the metric, also that of a resample; None if there are no such numbers.
        of_statistics: Function of those sums, [..., K], to values [...]; None without ``statistics``.
        of_draws: Function of predictions and labels of N texts that returns a function of resamples: from how often
            each of R resamples draws each text, int[R, N], to values float[R], 0 where the metric is undefined. None
            for a metric without it.
        is_accuracy: Whether it is the share of texts that are right, compared text by text, without a bootstrap.
        concerns: Function of labels[N] to bool[N], the texts that the metric is about; None: all of them.
    """

    name: str
    mode: Mode
    measure: Callable[[np.ndarray, np.ndarray], float | None]
    of_counts: Callable[[LabelCounts], np.ndarray] | None = None
    concerns: Callable[[np.ndarray], np.ndarray] | None = None
    statistics: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    of_statistics: Callable[[np.ndarray], np.ndarray] | None = None
    of_draws: Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]] | None = None
    is_accuracy: bool = False

    @property
    def sign(self) -> int:
        """1 where higher is better, otherwise -1."""
        return 1 if self.mode == "max" else -1

    @property
    def title(self) -> str:
        """The name for display."""
        return title_of(self.name)


def title_of(name: str) -> str:
    """Return a metric's name for display: ``macro_f1`` as ``macro F1``, ``recall.refund`` as ``recall of refund``."""
    kind, _, label = name.partition(".")
    words = " ".join(_TITLES.get(word, word) for word in kind.split("_"))
    return f"{words} of {label}" if label else words


def unknown_metric(name: str, names: Sequence[str], label_metrics: Iterable[str]) -> str:
    """Return the message for a name that is not a metric, with the nearest one and all that are accepted."""
    patterns = [f"{kind}.LABEL" for kind in label_metrics]
    near = difflib.get_close_matches(name, [*names, *patterns], 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{shown(name)} is not a metric of this task; {hint}accepted: {', '.join([*names, *patterns])}"


def position_of(label: str, name: str, label_names: Sequence[str]) -> int:
    """Return the position of the label in a metric's name.

    Raises:
        InputError: The data has no such label; gives the nearest one.
    """
    if label in label_names:
        return list(label_names).index(label)
    near = difflib.get_close_matches(label, list(label_names), 1, 0.5)
    some = ", ".join(label_names[:_NUM_NAMED]) + (", …" if len(label_names) > _NUM_NAMED else "")
    hint = f"did you mean {name.partition('.')[0]}.{near[0]}?" if near else f"its labels: {some}"
    raise InputError(f"metric: {shown(name)} given, but the data has no label {shown(label)}; {hint}")
