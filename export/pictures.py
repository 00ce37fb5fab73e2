"""The picture of the report: accuracy against latency, circle area by size, the chosen one dashed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..drawing import new_figure, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

_LARGEST_AREA = 2600.0  # points squared
_SMALLEST_AREA = 30.0
_LOG_SPAN = 20.0
_COLORS = {"pytorch": "#4c78a8", "pytorch-int8": "#72b7b2", "onnx": "#f58518"}
_LINE_COLOR = "#777777"


def draw_accuracy_latency(variants: Sequence[dict[str, Any]], chosen: str | None, path: str | Path) -> Path:
    """Draw test accuracy (%) against p50 latency of one text (ms) into a PNG.

    A circle's area grows with the row's size on disk, the chosen row has a dashed outline, a row without accuracy
    (the untrained reference) is a vertical line. The latency axis is logarithmic when it spans over 20x.

    Args:
        variants: ``report["variants"]``.
        chosen: name of the chosen row.
        path: the PNG; written whole or not at all.

    Returns:
        ``path``.
    """
    figure = new_figure()
    canvas: Any = figure.canvas
    axes = tidy(figure.add_subplot())
    points = [row for row in variants if row.get("accuracy") is not None]
    lines = [row for row in variants if row.get("accuracy") is None]
    _scale(axes, variants, points)
    largest = max((row["size_mb"] for row in points), default=1.0)
    for row in sorted(points, key=lambda row: -row["size_mb"]):
        axes.scatter(
            _latency(row),
            row["accuracy"] * 100,
            s=_area(row, largest),
            facecolor=_COLORS.get(row.get("kind", ""), _LINE_COLOR) + "b0",
            edgecolor="black",
            linewidth=1.6 if row["name"] == chosen else 0.6,
            linestyle="--" if row["name"] == chosen else "-",
            zorder=3,
        )
    for row in lines:
        axes.axvline(_latency(row), color=_LINE_COLOR, linewidth=1.2, linestyle=":", zorder=1)
    axes.set_xlabel("latency of one text, p50 (ms)")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title("Accuracy against latency; area by size on disk; dashed: chosen", fontsize=11)
    figure.draw_without_rendering()
    _label_all(axes, canvas, points, lines, largest, chosen)
    return save(figure, Path(path))


def _latency(row: dict[str, Any]) -> float:
    return row["latency_ms"]["p50"]


def _area(row: dict[str, Any], largest: float) -> float:
    """Area in points squared, in proportion to size, but never too small to be seen."""
    return max(_SMALLEST_AREA, _LARGEST_AREA * row["size_mb"] / largest)


def _scale(axes: Axes, variants: Sequence[dict[str, Any]], points: Sequence[dict[str, Any]]) -> None:
    """Limits with room for circles and labels."""
    latencies = [_latency(row) for row in variants] or [1.0]
    low, high = min(latencies), max(latencies)
    if high / low > _LOG_SPAN:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        margin = (high / low) ** 0.15
        axes.set_xlim(low / margin, high * margin)
    else:
        margin = 0.18 * (high - low) or 0.5 * high
        axes.set_xlim(max(0.0, low - margin), high + margin)
    accuracies = [row["accuracy"] * 100 for row in points] or [0.0, 100.0]
    room = max(0.45 * (max(accuracies) - min(accuracies)), 0.5)
    axes.set_ylim(min(accuracies) - room, max(accuracies) + room)


def _label_all(
    axes: Axes,
    canvas: FigureCanvasAgg,
    points: Sequence[dict[str, Any]],
    lines: Sequence[dict[str, Any]],
    largest: float,
    chosen: str | None,
) -> None:
    """Put each label where it covers no other label and no circle, with a thin line back if it had to move."""
    circles = [_circle_box(axes, row, largest) for row in points]
    taken: list[Bbox] = []
    for row in lines:
        x = axes.transData.transform((_latency(row), axes.get_ylim()[0]))[0]
        taken.append(_box(x - 2, axes.bbox.y0, x + 2, axes.bbox.y1))
    for row in lines:
        start = (_latency(row), sum(axes.get_ylim()) / 2)
        text = f"{row['name']}\n{row['size_mb']:.0f} MB, untrained:\nno accuracy"
        _place(axes, canvas, text, start, 6.0, circles, taken, leader=False)
    # The crowded ones first, while there is room near them.
    for row in sorted(points, key=lambda row: (row["name"] != chosen, row["size_mb"])):
        radius = math.sqrt(_area(row, largest) / math.pi)
        text = f"{row['name']}\n{row['size_mb']:.1f} MB, {_latency(row):.2f} ms"
        anchor = (_latency(row), row["accuracy"] * 100)
        _place(axes, canvas, text, anchor, radius, circles, taken, leader=True)


def _place(
    axes: Axes,
    canvas: FigureCanvasAgg,
    text: str,
    anchor: tuple[float, float],
    radius: float,
    circles: list[Bbox],
    taken: list[Bbox],
    *,
    leader: bool,
) -> None:
    """Try positions ever farther from ``anchor`` (data units), ``radius`` in points; take the first free one."""
    label = axes.annotate(text, anchor, xytext=(0, 0), textcoords="offset points", fontsize=8, zorder=5)
    renderer = canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    best: tuple[float, tuple[float, float, str, str], list[Bbox]] | None = None
    for x, y, horizontal, vertical in _positions(radius):
        label.set(position=(x, y), horizontalalignment=horizontal, verticalalignment=vertical)
        box = label.get_window_extent(renderer).padded(3)
        outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
        line = _leader_boxes(axes, anchor, (x, y), radius) if leader else []
        covered = sum(_overlap(part, other) for part in [box, *line] for other in taken)
        # A line may cross a circle, of which its box has corners besides; a label may not.
        covered += sum(_overlap(box, other) for other in circles)
        covered += 1e9 if outside else 0
        if best is None or covered < best[0]:
            best = (covered, (x, y, horizontal, vertical), [box, *line])
        if covered == 0:
            break
    assert best is not None
    _, (x, y, horizontal, vertical), boxes = best
    label.set(position=(x, y), horizontalalignment=horizontal, verticalalignment=vertical)
    taken.extend(boxes)
    if len(boxes) > 1:
        axes.annotate(
            "",
            anchor,
            xytext=(x, y),
            textcoords="offset points",
            arrowprops={
                "arrowstyle": "-",
                "color": _LINE_COLOR,
                "linewidth": 0.7,
                "shrinkA": 0,
                "shrinkB": 0.8 * radius,
            },
            zorder=4,
        )


def _positions(radius: float) -> Iterator[tuple[float, float, str, str]]:
    """Offsets in points with the alignment that turns the label's near edge to the circle."""
    for distance in range(5, 260, 8):
        for degrees in (0, 180, 30, -30, 150, -150, 60, -60, 120, -120, 90, -90, 75, -75, 105, -105, 45, -45):
            x = (radius + distance) * math.cos(math.radians(degrees))
            y = (radius + distance) * math.sin(math.radians(degrees))
            horizontal = "center" if abs(degrees) == 90 else "left" if abs(degrees) < 90 else "right"
            vertical = "center" if degrees in (0, 180) else "bottom" if degrees > 0 else "top"
            yield x, y, horizontal, vertical


def _leader_boxes(
    axes: Axes, anchor: tuple[float, float], offset: tuple[float, float], radius: float
) -> list[Bbox]:
    """Small boxes in pixels along the line from circle to label; none where the label touches the circle."""
    distance = math.hypot(*offset)
    if distance <= radius + 10:
        return []
    x, y = axes.transData.transform(anchor)
    scale = axes.figure.dpi / 72
    steps = [radius + 2 + i * 4 for i in range(int((distance - radius - 4) / 4) + 1)]
    centers = [
        (x + offset[0] * step / distance * scale, y + offset[1] * step / distance * scale) for step in steps
    ]
    return [_box(cx - 2, cy - 2, cx + 2, cy + 2) for cx, cy in centers]


def _circle_box(axes: Axes, row: dict[str, Any], largest: float) -> Bbox:
    """The circle's box in pixels."""
    x, y = axes.transData.transform((_latency(row), row["accuracy"] * 100))
    radius = math.sqrt(_area(row, largest) / math.pi) * axes.figure.dpi / 72
    return _box(x - radius, y - radius, x + radius, y + radius)


def _box(x0: float, y0: float, x1: float, y1: float) -> Bbox:
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(x0, y0, x1, y1)


def _overlap(one: Bbox, other: Bbox) -> float:
    """Area in pixels squared that two boxes share."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)
