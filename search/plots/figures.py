"""What the pictures of a search have in common: colours, axes, words."""

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
    """A metric's name to read: ``validation_accuracy`` as ``validation accuracy``, a unit in brackets."""
    for unit in ("ms", "mb"):
        if name.endswith(f"_{unit}"):
            return f"{words(name.removesuffix(f'_{unit}'))} ({unit.replace('mb', 'MB')})"
    return name.replace("_", " ")


def shown_span(
    values: Sequence[float], is_higher_better: bool, others: Sequence[float] = ()
) -> tuple[float, float]:
    """Lowest and highest value to show, of ``values`` and ``others``.

    One diverged trial must not press all the rest into a line: what is farther on the bad side of the median of
    ``values`` than six times the way from there to the best is left outside.
    """
    best, middle = max(values) if is_higher_better else min(values), median(values)
    fence = middle - _WORSE_SPANS * (best - middle) if best != middle else None
    every = [*values, *others]
    if fence is not None:
        every = [value for value in every if (value >= fence if is_higher_better else value <= fence)]
    return min(every), max(every)


def show_millions(axis: Axis, values: Sequence[float]) -> None:
    """Label an axis of large numbers with ``2M`` in place of a 2 and a power of ten at its end."""
    from matplotlib.ticker import FuncFormatter

    if max(map(abs, values)) >= _MANY:
        axis.set_major_formatter(FuncFormatter(lambda value, _: text_of(value)))


def text_of(value: Any, longest: int = 14) -> str:
    """A value as a label: short numbers, and a long text cut in its middle."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value / 1e6:.4g}M" if abs(value) >= _MANY else f"{value:.4g}"
    text = str(value)
    return text if len(text) <= longest else f"{text[: longest - 6]}…{text[-5:]}"
