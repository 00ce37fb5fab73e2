"""Plot accuracy against latency: circle area by size on disk, the chosen row dashed, and the Pareto front."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....drawing import new_figure, save, tidy
from ....training.tasks import TASKS, title_of
from ...benchmark import targets

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

_LARGEST_AREA = 2600.0  # points squared
_LARGEST_OF_MANY = 350.0
_SMALLEST_AREA = 30.0
_LOG_SPAN = 20.0
_LINE_COLOR = "#777777"
_FRONT_COLOR = "#d62728"
_TITLE = "{} against latency; area: size on disk; dashed: selected; red: Pareto front"
_MOST_POINTS = 10  # in one panel
_NUMBER_SIZE = 9.0  # points


def draw_accuracy_latency(variants: Sequence[dict[str, Any]], chosen: str | None, path: str | Path) -> Path:
    """Plot test accuracy (%), or the job's metric where there is none, against p50 latency of one text (ms) as a PNG.

    A circle's area grows with the row's size on disk; the chosen row has a dashed outline; a row without accuracy
    (the untrained reference) is a vertical line, and one without latency (a file of logits) is left out. A stepped line
    joins the rows of the Pareto front. The latency axis is logarithmic when it spans more than 20x. Circles have
    numbers, which a key beside the plot explains. With more than ten points, a second panel zooms in on the ONNX rows.

    Args:
        variants: ``report["variants"]``.
        chosen: name of the chosen row.
        path: the PNG, written atomically.

    Returns:
        ``path``.
    """
    run, values = [row for row in variants if row.get("latency_ms")], _values(variants)
    points = [row for row in run if values.of(row) is not None]
    lines = [row for row in run if values.of(row) is None]
    sealed = [row for row in points if targets.get(row["kind"]).can_be_sealed]
    closer = sealed if len(points) > _MOST_POINTS else []
    drawn = _Drawn(points, lines, chosen, values, largest_area=_LARGEST_OF_MANY if closer else _LARGEST_AREA)
    figure = new_figure(15.0, 6.0) if closer else new_figure(11.5, 5.5)
    panels = [(tidy(figure.add_subplot(1, 2 if closer else 1, 1)), points)]
    if closer:
        panels.append((tidy(figure.add_subplot(1, 2, 2)), closer))
    _draw_key(figure, drawn)
    for axes, shown in panels:
        rows = [*shown, *lines] if shown is points else shown
        _scale(
            axes, rows, [drawn.height(row) for row in shown], log_span=_LOG_SPAN if shown is points else 1.0
        )
        _draw_rows(axes, drawn)
        axes.set_xlabel("latency of one text, p50 (ms)")
        axes.set_title("the ONNX variants, enlarged" if shown is closer else "", fontsize=10)
    heading = _TITLE.format(values.title[:1].upper() + values.title[1:])
    figure.suptitle(heading, fontsize=11, x=0.01, horizontalalignment="left")
    panels[0][0].set_ylabel(f"test {values.title}{' (%)' if values.is_share else ''}")
    figure.draw_without_rendering()
    for axes, shown in panels:
        # Each point is numbered in only one panel.
        _draw_numbers(axes, drawn, shown if shown is closer else [row for row in shown if row not in closer])
    return save(figure, Path(path))


@dataclass(frozen=True)
class _Drawn:
    """The rows in the plot, and the size of their circles."""

    points: list[dict[str, Any]]
    lines: list[dict[str, Any]]
    chosen: str | None
    values: _Values
    largest_area: float

    def height(self, row: dict[str, Any]) -> float:
        """Return the height of a row's circle on the axis."""
        return (self.values.of(row) or 0.0) * (100 if self.values.is_share else 1)

    def number(self, row: dict[str, Any]) -> int:
        """Return the number of a row's circle: 1 is the fastest."""
        return sorted(self.points, key=_latency).index(row) + 1

    def label(self, group: Sequence[dict[str, Any]]) -> str:
        """Return the numbers of rows that share a label."""
        return ", ".join(str(number) for number in sorted(map(self.number, group)))

    def area(self, row: dict[str, Any]) -> float:
        """Return a circle's area in points squared, proportional to size, with a visible minimum."""
        largest = max(each["size_mb"] for each in self.points)
        return max(_SMALLEST_AREA, self.largest_area * row["size_mb"] / largest)

    def radius(self, row: dict[str, Any]) -> float:
        """Return a circle's radius in points."""
        return math.sqrt(self.area(row) / math.pi)


def _latency(row: dict[str, Any]) -> float:
    return row["latency_ms"]["p50"]


def _draw_rows(axes: Axes, drawn: _Drawn) -> None:
    for row in sorted(drawn.points, key=lambda row: -row["size_mb"]):
        axes.scatter(
            _latency(row),
            drawn.height(row),
            s=drawn.area(row),
            facecolor=_color(row) + "b0",
            edgecolor="black",
            linewidth=1.6 if row["name"] == drawn.chosen else 0.6,
            linestyle="--" if row["name"] == drawn.chosen else "-",
            zorder=3,
        )
    for row in drawn.lines:
        axes.axvline(_latency(row), color=_LINE_COLOR, linewidth=1.2, linestyle=":", zorder=1)
    corners = np.array(_corners(drawn)).reshape(-1, 2)
    axes.plot(corners[:, 0], corners[:, 1], color=_FRONT_COLOR, linewidth=1.4, alpha=0.6, zorder=2)


def _scale(axes: Axes, rows: Sequence[dict[str, Any]], heights: Sequence[float], *, log_span: float) -> None:
    """Set axis limits with room for circles and labels."""
    latencies = [_latency(row) for row in rows] or [1.0]
    low, high = min(latencies), max(latencies)
    if high / low > log_span:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 5 else range(1, 10)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        margin = (high / low) ** 0.15
        axes.set_xlim(low / margin, high * margin)
    else:
        margin = 0.18 * (high - low) or 0.5 * high
        axes.set_xlim(max(0.0, low - margin), high + margin)
    low, high = min(heights, default=0.0), max(heights, default=100.0)
    room = max(0.45 * (high - low), 0.05 if log_span == 1.0 else 0.5)
    axes.set_ylim(low - room, high + room)


@dataclass(frozen=True)
class _Values:
    """What is plotted: accuracy, or the job's metric where no row has an accuracy."""

    title: str = "accuracy"
    is_share: bool = True
    sign: int = 1
    metric: str | None = None

    def of(self, row: dict[str, Any]) -> float | None:
        """Return a row's value on the test split."""
        if self.metric is None:
            return row.get("accuracy")
        return ((row.get("metrics") or {}).get(self.metric) or row.get("metric") or {}).get("test")


def _values(variants: Sequence[dict[str, Any]]) -> _Values:
    own = next((row["metric"] for row in variants if row.get("metric")), None)
    if own is None or any(row.get("accuracy") is not None for row in variants):
        return _Values()
    lower = [
        task for task in TASKS if {**task.metric_modes, **task.further_metrics}.get(own["name"]) == "min"
    ]
    return _Values(title_of(own["name"]), not lower, -1 if lower else 1, own["name"])


def front_of(points: Sequence[dict[str, Any]], values: _Values = _Values()) -> list[dict[str, Any]]:
    """Return the Pareto-optimal rows in latency and accuracy, or in another value, fastest first."""
    front: list[tuple[float, dict[str, Any]]] = []
    ranked = [(values.sign * (values.of(row) or 0.0), row) for row in points]
    for value, row in sorted(ranked, key=lambda each: (_latency(each[1]), -each[0])):
        if not front or value > front[-1][0]:
            front.append((value, row))
    return [row for _, row in front]


def _corners(drawn: _Drawn) -> list[tuple[float, float]]:
    """Return the corners of the stepped line along the front: latency in ms, and height."""
    front = [(_latency(row), drawn.height(row)) for row in front_of(drawn.points, drawn.values)]
    turns = [(after[0], before[1]) for before, after in itertools.pairwise(front)]
    return [corner for pair in itertools.zip_longest(front, turns) for corner in pair if corner is not None]


def _draw_numbers(axes: Axes, drawn: _Drawn, rows: Sequence[dict[str, Any]]) -> None:
    """Draw each circle's number at its upper right; numbers that would overlap share one label."""
    from matplotlib.patheffects import withStroke

    for group in _group_labels(axes, drawn, rows):
        outer, offset = _anchor(drawn, group)
        axes.annotate(
            drawn.label(group),
            (_latency(outer), drawn.height(outer)),
            xytext=(offset, offset),
            textcoords="offset points",
            fontsize=_NUMBER_SIZE,
            fontweight="bold" if drawn.chosen in [row["name"] for row in group] else "normal",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            zorder=5,
        )


def _group_labels(axes: Axes, drawn: _Drawn, rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Group rows until no two labels overlap."""
    groups = [[row] for row in sorted(rows, key=_latency)]
    while True:
        boxes = [_label_box(axes, drawn, group) for group in groups]
        pairs = itertools.combinations(range(len(groups)), 2)
        covered = next(((i, j) for i, j in pairs if boxes[i].overlaps(boxes[j])), None)
        if covered is None:
            return groups
        groups[covered[0]] += groups.pop(covered[1])


def _label_box(axes: Axes, drawn: _Drawn, group: Sequence[dict[str, Any]]) -> Bbox:
    """Return a label's bounding box in pixels; a character is at most 0.7 of the font size wide."""
    from matplotlib.transforms import Bbox

    outer, offset = _anchor(drawn, group)
    x, y = axes.transData.transform((_latency(outer), drawn.height(outer)))
    pixels = axes.figure.dpi / 72
    width = 0.7 * _NUMBER_SIZE * len(drawn.label(group))
    return Bbox.from_bounds(x + offset * pixels, y + offset * pixels, width * pixels, _NUMBER_SIZE * pixels)


def _anchor(drawn: _Drawn, group: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], float]:
    """Return the row with the largest circle, and its label's offset to the upper right of the center, in points."""
    outer = max(group, key=drawn.radius)
    return outer, drawn.radius(outer) / math.sqrt(2) + 1


def _draw_key(figure: Figure, drawn: _Drawn) -> None:
    """Draw the key to the numbers and lines, beside the plot."""
    from matplotlib.lines import Line2D

    rows = sorted(drawn.points, key=_latency)
    handles = [Line2D([], [], marker="o", linestyle="", markersize=6, color=_color(row)) for row in rows]
    handles += [Line2D([], [], linestyle=":", color=_LINE_COLOR) for _ in drawn.lines]
    texts = [f"{drawn.number(row)}  {_described(row)}" for row in rows]
    texts += [f"{_described(row)}, untrained" for row in drawn.lines]
    key = figure.legend(handles, texts, loc="outside right upper", frameon=False, fontsize=8)
    for row, text in zip([*rows, *drawn.lines], key.get_texts(), strict=True):
        text.set_fontweight("bold" if row["name"] == drawn.chosen else "normal")


def _described(row: dict[str, Any]) -> str:
    return f"{row['name']}: {row['size_mb']:.1f} MB, {_latency(row):.2f} ms"


def _color(row: dict[str, Any]) -> str:
    return targets.get(row["kind"]).color or _LINE_COLOR
