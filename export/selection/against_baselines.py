"""Compare the selected variant with the baselines on the test split, in one sentence each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...training.tasks import Metric
from ..baselines import BASELINES
from ..benchmark.measure_models import Measurement
from ..benchmark.targets.baseline import BASELINE
from ..config import ChooseConfig
from .against_teacher import INTERVAL
from .gate import ACCURACY, accuracy_kind, answers_of, compare_answers, value_of

AS_GOOD = 0.01
"""Loss of the metric up to which a baseline is as good: the default limit of the gate (``max_drop_from_student``)."""


@dataclass(frozen=True)
class BaselineComparison:
    """A variant against a baseline on the N texts of the test split.

    Attributes:
        name: Name of the baseline.
        accuracy_kind: ``with_threshold`` or ``without_threshold``, the same for both.
        metric: Name of the metric that is compared.
        title: That name for display.
        value, baseline_value: Its values.
        difference, low, high: Variant minus baseline with the limits of its 95 % interval, two-sided: Tango's for
            accuracy, a paired bootstrap's for any other metric. Where lower is better, the sign is reversed.
        p_value: Two-sided p-value of no difference.
        num_texts: N.
        faster: Ratio of the baseline's to the variant's latency (p50 of one text).
        smaller: Ratio of their sizes: of the baseline's vocabulary and weights, and of every file that the variant's
            runtime reads.
        has_attention: Whether the variant is a model with attention.
    """

    name: str
    accuracy_kind: str
    metric: str
    title: str
    value: float
    baseline_value: float
    difference: float
    low: float
    high: float
    p_value: float
    num_texts: int
    faster: float
    smaller: float
    has_attention: bool = True

    @property
    def text(self) -> str:
        """What the variant gains, in one sentence without a full stop."""
        low, high = (f"{100 * limit:+.1f}" for limit in (self.low, self.high))
        gained = f"{100 * self.difference:+.1f} points {self.title} (95 %: {low} to {high})"
        speed, size = (
            _times(self.faster, "faster", "slower", "as fast"),
            _times(self.smaller, "smaller", "larger", "of the same size"),
        )
        return f"against {self.name}: {gained}, {speed}, {size}"

    @property
    def verdict(self) -> str | None:
        """What the comparison does not show, in plain words; None where the variant is better."""
        if self.low > 0:
            return None
        title = BASELINES[self.name].title
        advice = f"{'a model without attention' if self.has_attention else 'it'} may be enough"
        if self.high < 0:
            return f"{title} is better on these texts: {advice}"
        if self.high <= AS_GOOD:
            return f"{title} is as good on these texts, at most {100 * self.high:.1f} points below: {advice}"
        return f"{self.num_texts:,} test texts do not show that it is better than {title}: more would tell"

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values, with ``text`` and ``verdict``."""
        return {**asdict(self), "text": self.text, "verdict": self.verdict}


def compare_with_baselines(
    variant: Measurement,
    measurements: Iterable[Measurement],
    config: ChooseConfig,
    *,
    metric: Metric = ACCURACY,
    has_attention: bool = True,
) -> list[BaselineComparison]:
    """Compare a variant on the test split with each baseline among the measurements.

    Args:
        variant: The measurement of the variant, with predictions.
        measurements: All measurements.
        config: The section ``export.choose``, which determines whether predictions with a threshold are compared.
        metric: The job's metric.
        has_attention: Whether the variant is a model with attention.

    Returns:
        The comparisons in order; none with a baseline that has no predictions for the test split.
    """
    found = (_compared(variant, each, config, metric) for each in measurements if each.kind == BASELINE)
    return [replace(each, has_attention=has_attention) for each in found if each is not None]


def _compared(
    variant: Measurement, baseline: Measurement, config: ChooseConfig, metric: Metric
) -> BaselineComparison | None:
    kind = accuracy_kind(config, variant)
    own, base = answers_of(variant, "test", kind), answers_of(baseline, "test", kind)
    if own is None or base is None:
        return None
    paired = compare_answers(own, base, metric, confidence=(1 + INTERVAL) / 2)
    value, base_value = value_of(own, metric), value_of(base, metric)
    if paired is None or value is None or base_value is None:
        return None
    return BaselineComparison(
        name=baseline.name,
        accuracy_kind=kind,
        metric=metric.name,
        title=metric.title,
        value=value,
        baseline_value=base_value,
        difference=paired.difference,
        low=paired.low,
        high=paired.high,
        p_value=paired.p_value,
        num_texts=paired.num_texts,
        faster=baseline.p50_ms / variant.p50_ms,
        smaller=_num_bytes(baseline) / _num_bytes(variant),
    )


def _num_bytes(measured: Measurement) -> float:
    """Return the bytes of every file that the runtime reads where they are known, else those of the model."""
    return measured.megabytes * 2**20 if measured.files_mb is None else measured.files_mb * 10**6


def _times(ratio: float, more: str, less: str, equal: str) -> str:
    """Return a ratio in words, such as ``4.6x smaller`` or ``1.3x larger``; ``equal`` where it rounds to 1."""
    times, word = (ratio, more) if ratio >= 1 else (1 / ratio, less)
    shown = f"{times:.{0 if times >= 100 else 1}f}"
    return equal if shown == "1.0" else f"{shown}x {word}"
