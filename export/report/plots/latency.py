"""The picture of the report: accuracy against latency, circle area by size, the chosen one dashed, the Pareto front."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....drawing import new_figure, save, tidy
from ...benchmark import targets
from .labels import Labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LARGEST_AREA = 2600.0  # points squared
_LARGEST_OF_MANY = 350.0
_SMALLEST_AREA = 30.0
_LOG_SPAN = 20.0
_LINE_COLOR = "#777777"
_FRONT_COLOR = "#d62728"
_TITLE = "Accuracy against latency; area by size on disk; dashed: chosen; red: Pareto front"
_MOST_NAMES = 10  # points whose names have room in the picture


def draw_accuracy_latency(variants: Sequence[dict[str, Any]], chosen: str | None, path: str | Path) -> Path:
    """Draw test accuracy (%) against p50 latency of one text (ms) into a PNG.

    A circle's area grows with the row's size on disk, the chosen row has a dashed outline, a row without accuracy
    (the untrained reference) is a vertical line. A stepped line joins the rows of the Pareto front. The latency axis
    is logarithmic when it spans over 20x. Where there are more than ten points they have numbers and a key, and a
    second panel shows the ONNX ones closer.

    Args:
        variants: ``report["variants"]``.
        chosen: name of the chosen row.
        path: the PNG; written whole or not at all.

    Returns:
        ``path``.
    """
    points = [row for row in variants if row.get("accuracy") is not None]
    lines = [row for row in variants if row.get("accuracy") is None]
    sealed = [row for row in points if targets.get(row["kind"]).can_be_sealed]
    closer = sealed if len(points) > _MOST_NAMES else []
    drawn = _Drawn(points, lines, chosen, numbered=bool(closer))
    figure = new_figure(15.0, 6.0) if closer else new_figure()
    panels = [(tidy(figure.add_subplot(1, 2 if closer else 1, 1)), points)]
    if closer:
        panels.append((tidy(figure.add_subplot(1, 2, 2)), closer))
        _draw_key(figure, drawn)
    for axes, shown in panels:
        rows = [*shown, *lines] if shown is points else shown
        _scale(axes, rows, shown, log_span=_LOG_SPAN if shown is points else 1.0)
        _draw_rows(axes, drawn)
        axes.set_xlabel("latency of one text, p50 (ms)")
        axes.set_title("the ONNX variants, closer" if shown is closer else "", fontsize=10)
    figure.suptitle(_TITLE, fontsize=11)
    panels[0][0].set_ylabel("test accuracy (%)")
    figure.draw_without_rendering()
    for axes, shown in panels:
        # Each point has its label in one panel.
        _label_all(axes, drawn, shown if shown is closer else [row for row in shown if row not in closer])
    return save(figure, Path(path))


@dataclass(frozen=True)
class _Drawn:
    """What is in the picture; ``numbers``: by name, where the names are in the key."""

    points: list[dict[str, Any]]
    lines: list[dict[str, Any]]
    chosen: str | None
    numbered: bool

    @property
    def numbers(self) -> dict[str, int]:
        ordered = sorted(self.points, key=_latency) if self.numbered else []
        return {row["name"]: number for number, row in enumerate(ordered, 1)}

    def area(self, row: dict[str, Any]) -> float:
        """In points squared, in proportion to size, but never too small to be seen."""
        largest = max(each["size_mb"] for each in self.points)
        most = _LARGEST_OF_MANY if self.numbered else _LARGEST_AREA
        return max(_SMALLEST_AREA, most * row["size_mb"] / largest)

    def radius(self, row: dict[str, Any]) -> float:
        """In points."""
        return math.sqrt(self.area(row) / math.pi)


def _latency(row: dict[str, Any]) -> float:
    return row["latency_ms"]["p50"]


def _draw_rows(axes: Axes, drawn: _Drawn) -> None:
    for row in sorted(drawn.points, key=lambda row: -row["size_mb"]):
        axes.scatter(
            _latency(row),
            row["accuracy"] * 100,
            s=drawn.area(row),
            facecolor=_color(row) + "b0",
            edgecolor="black",
            linewidth=1.6 if row["name"] == drawn.chosen else 0.6,
            linestyle="--" if row["name"] == drawn.chosen else "-",
            zorder=3,
        )
    for row in drawn.lines:
        axes.axvline(_latency(row), color=_LINE_COLOR, linewidth=1.2, linestyle=":", zorder=1)
    corners = np.array(_corners(drawn.points)).reshape(-1, 2)
    axes.plot(corners[:, 0], corners[:, 1], color=_FRONT_COLOR, linewidth=1.4, alpha=0.6, zorder=2)


def _scale(
    axes: Axes, rows: Sequence[dict[str, Any]], points: Sequence[dict[str, Any]], *, log_span: float
) -> None:
    """Limits with room for circles and labels."""
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
    accuracies = [row["accuracy"] * 100 for row in points] or [0.0, 100.0]
    room = max(0.45 * (max(accuracies) - min(accuracies)), 0.05 if log_span == 1.0 else 0.5)
    axes.set_ylim(min(accuracies) - room, max(accuracies) + room)


def front_of(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that no other is faster than and as accurate as, or more accurate than and as fast; fastest first."""
    front: list[dict[str, Any]] = []
    for row in sorted(points, key=lambda row: (_latency(row), -row["accuracy"])):
        if not front or row["accuracy"] > front[-1]["accuracy"]:
            front.append(row)
    return front


def _corners(points: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """Of the stepped line that joins the front: latency in ms, accuracy in percent."""
    front = [(_latency(row), row["accuracy"] * 100) for row in front_of(points)]
    turns = [(after[0], before[1]) for before, after in itertools.pairwise(front)]
    return [corner for pair in itertools.zip_longest(front, turns) for corner in pair if corner is not None]


def _label_all(axes: Axes, drawn: _Drawn, labelled: Sequence[dict[str, Any]]) -> None:
    """A label for each of these rows: its name, size and latency, or its number where those are in the key."""
    frame = axes.bbox
    corners = axes.transData.transform(_corners(drawn.points) or np.empty((0, 2)))
    steps = [(*np.minimum(a, b) - 1, *np.maximum(a, b) + 1) for a, b in itertools.pairwise(corners)]
    circles = [_circle_box(axes, row, drawn.radius(row)) for row in drawn.points]
    canvas: Any = axes.figure.canvas
    labels = Labels(axes, canvas, [*circles, *steps])
    low, high = axes.get_xlim()
    lines = [row for row in drawn.lines if low < _latency(row) < high]
    for row in lines:
        x = axes.transData.transform((_latency(row), axes.get_ylim()[0]))[0]
        labels.block((x - 2, frame.y0, x + 2, frame.y1))
    for row in lines:
        start = (_latency(row), sum(axes.get_ylim()) / 2)
        text = f"{row['name']}\n{row['size_mb']:.0f} MB, untrained:\nno accuracy"
        labels.place(text, start, 6.0, line=False)
    # The crowded ones first, while there is room near them.
    for row in sorted(labelled, key=lambda row: (row["name"] != drawn.chosen, row["size_mb"])):
        text = f"{row['name']}\n{row['size_mb']:.1f} MB, {_latency(row):.2f} ms"
        if drawn.numbered:
            text = str(drawn.numbers[row["name"]])
        anchor = (_latency(row), row["accuracy"] * 100)
        bold = drawn.numbered and row["name"] == drawn.chosen
        labels.place(text, anchor, drawn.radius(row), bold=bold)


def _draw_key(figure: Figure, drawn: _Drawn) -> None:
    """What the numbers stand for, beside the picture."""
    from matplotlib.lines import Line2D

    rows = sorted(drawn.points, key=_latency)
    handles = [Line2D([], [], marker="o", linestyle="", markersize=6, color=_color(row)) for row in rows]
    texts = [
        f"{drawn.numbers[row['name']]}  {row['name']}: {row['size_mb']:.1f} MB, {_latency(row):.2f} ms"
        for row in rows
    ]
    key = figure.legend(handles, texts, loc="outside right upper", frameon=False, fontsize=8)
    for row, text in zip(rows, key.get_texts(), strict=True):
        text.set_fontweight("bold" if row["name"] == drawn.chosen else "normal")


def _color(row: dict[str, Any]) -> str:
    return targets.get(row["kind"]).color or _LINE_COLOR


def _circle_box(axes: Axes, row: dict[str, Any], radius: float) -> tuple[float, float, float, float]:
    """The circle's box in pixels; the radius is in points."""
    x, y = axes.transData.transform((_latency(row), row["accuracy"] * 100))
    radius *= axes.figure.dpi / 72
    return x - radius, y - radius, x + radius, y + radius
