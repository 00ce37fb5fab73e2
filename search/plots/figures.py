"""Shared parts of the plots of a search: colours, axes, labels."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axis import Axis

TRIAL_COLOR = "#4c78a8"
BEST_COLOR = "#f58518"
FAILED_COLOR = "#c23b3b"
MUTED_COLOR = "#9a9a9a"
SERIES_COLORS = (TRIAL_COLOR, "#72b7b2", "#b279a2", "#9d755d")
_WORSE_SPANS = 6.0
_MANY = 1e5


def words(name: str) -> str:
    """Return a metric's name for display: ``validation_accuracy`` as ``validation accuracy``, a unit in brackets."""
    for unit in ("ms", "mb"):
        if name.endswith(f"_{unit}"):
            return f"{words(name.removesuffix(f'_{unit}'))} ({unit.replace('mb', 'MB')})"
    return name.replace("_", " ")


def shown_span(
    values: Sequence[float], is_higher_better: bool, others: Sequence[float] = ()
) -> tuple[float, float]:
    """Return the lowest and highest value to show, of ``values`` and ``others``.

    One diverged trial must not compress all the others into a line: values that are worse than the median of
    ``values`` by more than six times the distance from the median to the best are left out.
    """
    best, middle = max(values) if is_higher_better else min(values), median(values)
    fence = middle - _WORSE_SPANS * (best - middle) if best != middle else None
    every = [*values, *others]
    if fence is not None:
        every = [value for value in every if (value >= fence if is_higher_better else value <= fence)]
    return min(every), max(every)


def show_millions(axis: Axis, values: Sequence[float]) -> None:
    """Label an axis of large numbers with ``2M`` instead of a 2 and a power of ten at the end of the axis."""
    from matplotlib.ticker import FuncFormatter

    if max(map(abs, values)) >= _MANY:
        axis.set_major_formatter(FuncFormatter(lambda value, _: text_of(value)))


def text_of(value: Any, longest: int = 14) -> str:
    """Format a value as a label: numbers in short form, long texts shortened in the middle."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value / 1e6:.4g}M" if abs(value) >= _MANY else f"{value:.4g}"
    text = str(value)
    return text if len(text) <= longest else f"{text[: longest - 6]}…{text[-5:]}"
