"""Several labels for each text: binary cross-entropy and soft targets over the sigmoid of each of logits[N, C]."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..data.label_kinds import NAME_SETS, LabelKind
from .base import LEAST_PROBABILITY, TASKS, Task
from .label_metrics import f1_scores, macro, of_one, precisions, ratio, recalls, weighted_f1
from .metrics import LabelCounts, Metric, Mode, position_of

if TYPE_CHECKING:
    from torch import Tensor

_OF_COUNTS: dict[str, Callable[[LabelCounts], np.ndarray]] = {
    "macro_f1": macro(f1_scores),
    "micro_f1": lambda counts: f1_scores(_summed(counts))[..., 0],
    "weighted_f1": weighted_f1,
    "macro_precision": macro(precisions),
    "macro_recall": macro(recalls),
    "micro_precision": lambda counts: precisions(_summed(counts))[..., 0],
    "micro_recall": lambda counts: recalls(_summed(counts))[..., 0],
}
_OF_LABEL = {"recall": recalls, "precision": precisions, "f1": f1_scores}
_SUBSET, _MAP = "subset_accuracy", "map"
_SMALLEST_POSITIVE = np.float16(6e-8)


class MultiLabel(Task):
    """Classify texts with any number of labels.

    Labels are int8[N, C] of 0 and 1; a row of -100 has unknown labels. Predictions are float16[N, C], the logits minus
    any thresholds: those above 0 predict their label.
    """

    name: ClassVar[str] = "multi_label"
    description: ClassVar[str] = "any number of labels for each text"
    does: ClassVar[str] = (
        "Assigns a text any number of {num} labels: each whose score is above its own threshold."
    )
    answer: ClassVar[str] = '{"labels": [{"label": …, "score": …}, …]}'
    label_kind: ClassVar[LabelKind] = NAME_SETS
    label_dtype: ClassVar[str] = "int8"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    problem_type: ClassVar[str | None] = "multi_label_classification"
    metric_modes: ClassVar[Mapping[str, Mode]] = dict.fromkeys(("macro_f1", "micro_f1", _SUBSET, _MAP), "max")
    further_metrics: ClassVar[Mapping[str, Mode]] = {
        name: "max" for name in _OF_COUNTS if name not in ("macro_f1", "micro_f1")
    }
    label_metrics: ClassVar[Mapping[str, Mode]] = dict.fromkeys(_OF_LABEL, "max")
    starts_head: ClassVar[bool] = True
    has_label_sets: ClassVar[bool] = True

    def missing_labels(self, num_texts: int, num_outputs: int) -> np.ndarray:
        """Return rows of -100."""
        from ..data.tokenized import IGNORED_LABEL

        return np.full((num_texts, num_outputs), IGNORED_LABEL, dtype=self.label_dtype)

    def num_outputs(self, label_names: Sequence[str]) -> int:
        """Return the number of labels; each has one logit."""
        return len(label_names)

    def start_head(self, head: Any, labels: np.ndarray) -> None:
        """Initialize the bias of a new head so that each label begins with about its share of the texts as its score.

        Most labels are rare. A head that begins with scores of 0.5 first learns to lower all of them, which drives the
        layers below into saturation, and hardly recovers. (Lin et al., "Focal Loss for Dense Object Detection", 2017,
        section 4.1, initialize a detector's rare classes in this way.)
        """
        import torch

        if head.bias is None:
            return
        shares = (labels.sum(axis=0, dtype=np.float64) + 0.5) / (len(labels) + 1)
        with torch.no_grad():
            head.bias.copy_(torch.from_numpy(np.log(shares / (1 - shares))))

    def hard_loss(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        num_items: Tensor | int | None = None,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Compute the binary cross-entropy of logits[B, C] and labels[B, C], averaged over the labels."""
        from .losses import binary_cross_entropy

        del class_weights  # given only to a task that has text_classes
        return binary_cross_entropy(logits, labels, num_items=num_items, label_smoothing=label_smoothing)

    def soft_loss(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        *,
        temperature: float,
        num_items: Tensor | int | None = None,
    ) -> Tensor:
        """Compute T² · KL of the Bernoulli distributions of sigmoid(z/T) of logits[B, C], averaged over the labels."""
        from .losses import soft_label_loss

        return soft_label_loss(student_logits, teacher_logits, temperature=temperature, num_items=num_items)

    def with_own_labels(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return labels[B, C] with -100 replaced by whether the logit is above 0."""
        from ..data.tokenized import IGNORED_LABEL

        return (logits > 0).to(labels.dtype).where(labels == IGNORED_LABEL, labels)

    def known_labels(self, labels: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return a copy of the labels."""
        del num_outputs
        return np.array(labels)

    def label_sets(self, labels: Tensor, num_outputs: int) -> Tensor:
        """Return where labels[N, C] are 1, bool[N, C]."""
        del num_outputs
        return labels > 0

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """Return the logits, float16[N, C]; those above 0 stay above it."""
        bounded = np.clip(logits, -65504, 65504).astype(np.float16)
        return np.where((logits > 0) & (bounded <= 0), _SMALLEST_POSITIVE, bounded)

    def logits_of_probabilities(self, probabilities: np.ndarray) -> np.ndarray:
        """Return log(p / (1 - p)) of the probability of each label, [N, C]."""
        kept = np.clip(probabilities, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        return np.log(kept / (1 - kept))

    def correct(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return whether a text's predicted labels are exactly its labels, bool[N]."""
        return (_sets(predictions) == _sets(labels)).all(axis=1)

    def label_counts(self, predictions: np.ndarray, labels: np.ndarray, num_labels: int) -> LabelCounts:
        """Count the texts of each label, [C]."""
        del num_labels
        sums = LabelCounts.of_sets(_sets(predictions), _sets(labels)).sum(axis=0, dtype=np.int64)
        return LabelCounts.of_sums(sums)

    def metrics(
        self, predictions: np.ndarray, labels: np.ndarray, out_of_scope_id: int | None = None
    ) -> dict[str, float | None]:
        """Compute macro F1, micro F1, subset accuracy and mean average precision, each 0 to 1.

        Macro averages are over the labels that texts or predictions have. Average precision, of a label's texts ranked
        by its logit, is averaged over the labels that texts have; None where there is none.

        Raises:
            ValueError: There are no labels, or their number differs from that of the predictions.
        """
        del out_of_scope_id
        return self.each_metric(predictions, labels)

    def metric(self, name: str, label_names: Sequence[str], out_of_scope_id: int | None = None) -> Metric:
        """Return a metric by its name."""
        mode, (kind, _, label) = self.metric_mode(name), name.partition(".")
        if name == _MAP:
            return Metric(name, mode, mean_average_precision, of_draws=precision_of_draws)
        if name == _SUBSET:
            return _metric_of_sums(
                name, mode, self._rights, lambda sums: ratio(sums[..., 0], sums[..., 1]), is_accuracy=True
            )
        if not label:
            return _metric_of_sums(
                name, mode, _text_counts, lambda sums: _OF_COUNTS[name](LabelCounts.of_sums(sums))
            )
        number = position_of(label, name, label_names)
        return _metric_of_sums(
            name,
            mode,
            _text_counts,
            lambda sums: of_one(_OF_LABEL[kind](LabelCounts.of_sums(sums)), number),
            concerns=lambda labels: _sets(labels)[:, number],
        )

    def _rights(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return whether each text is right, and 1, float32[N, 2]."""
        right = self.correct(predictions, labels)
        return np.stack([right, np.ones(len(right), bool)], axis=1).astype(np.float32)


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the mean over labels of the average precision of N texts ranked by their scores.

    Average precision is the sum over ranks of precision times the increase of recall, as scikit-learn's
    ``average_precision_score``; texts of equal score share a rank.

    Args:
        scores: float[N, C], higher for texts that more likely have the label.
        labels: [N, C], above 0 where a text has the label.

    Returns:
        0 to 1; None where no text has any label.
    """
    if not _sets(labels).any():
        return None
    return float(precision_of_draws(scores, labels)(np.ones((1, len(labels)), np.int32))[0])


def precision_of_draws(scores: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Rank N texts once, to compute ``mean_average_precision`` of many resamples of them.

    Returns:
        A function from how often each of R resamples draws each text, int[R, N], to float64[R]; 0 for a resample in
        which no text has any label.
    """
    truth = _sets(labels)
    rankings = [_Ranking.of(scores[:, each], truth[:, each]) for each in np.flatnonzero(truth.any(axis=0))]

    def values(times: np.ndarray) -> np.ndarray:
        by_text = np.ascontiguousarray(times.T, dtype=np.int32)
        total, num = np.zeros(len(times)), np.zeros(len(times))
        for ranking in rankings:
            found, is_there = ranking.average_precision(by_text)
            total += found
            num += is_there
        return ratio(total, num)

    return values


@dataclass(frozen=True)
class _Ranking:
    """The ranking of N texts for one label, divided into the G ranks that contain a text with the label.

    Attributes:
        order: The texts up to the last of these ranks, by descending score, int[M].
        starts: Index in ``order`` of the first text after the previous of these ranks, int[G].
        right: The texts with the label, by descending score.
        right_starts: Index in ``right`` of the first text of each rank, int[G].
    """

    order: np.ndarray
    starts: np.ndarray
    right: np.ndarray
    right_starts: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, truth: np.ndarray) -> _Ranking:
        """Rank texts by scores float[N]; at least one has the label, bool[N]."""
        order = np.argsort(-scores.astype(np.float32), kind="stable")
        ranked, has_label = scores[order], truth[order]
        is_last = np.append(ranked[1:] != ranked[:-1], True)  # of the texts with one score
        rank = np.cumsum(is_last) - is_last
        of_right = rank[has_label]
        ends = np.flatnonzero(is_last)[np.unique(of_right)] + 1
        return cls(
            order[: ends[-1]],
            np.concatenate([[0], ends[:-1]]),
            order[has_label],
            np.unique(of_right, return_index=True)[1],
        )

    def average_precision(self, by_text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the average precision of each resample, and whether it has a text with the label, from int[N, R]."""
        passed = np.add.reduceat(by_text[self.order], self.starts, axis=0).cumsum(axis=0)  # [G, R]
        gained = np.add.reduceat(by_text[self.right], self.right_starts, axis=0)
        hits = gained.cumsum(axis=0)
        return ratio((gained * ratio(hits, passed)).sum(axis=0), hits[-1]), hits[-1] > 0


def _sets(values: np.ndarray) -> np.ndarray:
    """Return which labels predictions or labels [N, C] stand for, bool[N, C]."""
    return np.asarray(values) > 0


def _text_counts(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return LabelCounts.of_sets(_sets(predictions), _sets(labels))


def _summed(counts: LabelCounts) -> LabelCounts:
    """Return the counts of all labels together, [..., 1]."""
    return LabelCounts(
        *(each.sum(axis=-1, keepdims=True) for each in (counts.texts, counts.predicted, counts.right))
    )


def _metric_of_sums(
    name: str,
    mode: Mode,
    statistics: Callable[[np.ndarray, np.ndarray], np.ndarray],
    of_statistics: Callable[[np.ndarray], np.ndarray],
    *,
    concerns: Callable[[np.ndarray], np.ndarray] | None = None,
    is_accuracy: bool = False,
) -> Metric:
    def measure(predictions: np.ndarray, labels: np.ndarray) -> float:
        return float(of_statistics(statistics(predictions, labels).sum(axis=0, dtype=np.float64)))

    return Metric(
        name,
        mode,
        measure,
        concerns=concerns,
        statistics=statistics,
        of_statistics=of_statistics,
        is_accuracy=is_accuracy,
    )


MULTI_LABEL = TASKS.register(MultiLabel())
