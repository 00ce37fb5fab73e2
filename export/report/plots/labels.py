"""Where the labels of a picture's points go: near them, covering nothing, with a thin line back if they had to move."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg

_LINE_COLOR = "#777777"
_ROOM = 3.0  # pixels around a label
_DISTANCES = range(3, 260, 8)
_DEGREES = (0, 180, 30, -30, 150, -150, 60, -60, 120, -120, 90, -90, 75, -75, 105, -105, 45, -45)


class Labels:
    """Places one label after the other; boxes are rows ``[x0, y0, x1, y1]`` in pixels.

    Args:
        axes: With its limits set and its layout done.
        canvas: Of its figure.
        points: What no label may cover, boxes [N, 4]. A line to a label may.
    """

    def __init__(self, axes: Axes, canvas: FigureCanvasAgg, points: Sequence[Sequence[float]]) -> None:
        self._axes = axes
        self._renderer = canvas.get_renderer()
        self._scale = axes.figure.dpi / 72
        self.points = np.array(points, dtype=float).reshape(-1, 4)
        self.taken = np.empty((0, 4))

    def block(self, box: Sequence[float]) -> None:
        """Keep labels and lines out of a box."""
        self.taken = np.vstack([self.taken, box])

    def place(
        self, text: str, anchor: tuple[float, float], radius: float, *, line: bool = True, bold: bool = False
    ) -> None:
        """Try positions ever farther from a point, and take the first free one, or the one that covers least.

        Args:
            text: The label.
            anchor: The point, in units of the data.
            radius: Of its circle, in points.
            line: Whether a label that is not beside its circle gets a line to it.
            bold: Whether it is printed so.
        """
        label = self._axes.annotate(
            text,
            anchor,
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
            fontweight="bold" if bold else "normal",
            zorder=5,
        )
        extent = label.get_window_extent(self._renderer)
        size, start = (extent.width, extent.height), self._axes.transData.transform(anchor)
        frame = self._axes.get_window_extent(self._renderer).extents
        best = None
        for x, y, horizontal, vertical in _positions(radius):
            center = start + np.array([x, y]) * self._scale
            box = _box(center, size, horizontal, vertical)
            outside = box[0] < frame[0] or box[2] > frame[2] or box[1] < frame[1] or box[3] > frame[3]
            steps = self._line(start, (x, y), radius) if line else np.empty((0, 4))
            covered = overlap(np.vstack([box, steps]), self.taken) + overlap(box[None], self.points)
            covered += 1e9 if outside else 0.0
            if best is None or covered < best[0]:
                best = covered, (x, y, horizontal, vertical), box, steps
            if covered == 0:
                break
        assert best is not None
        _, (x, y, horizontal, vertical), box, steps = best
        label.set(position=(x, y), horizontalalignment=horizontal, verticalalignment=vertical)
        self.taken = np.vstack([self.taken, box, steps])
        if len(steps):
            self._draw_line(anchor, (x, y), radius)

    def _line(self, start: np.ndarray, offset: tuple[float, float], radius: float) -> np.ndarray:
        """Small boxes along the line from circle to label; none where the label touches the circle."""
        distance = math.hypot(*offset)
        if distance <= radius + 10:
            return np.empty((0, 4))
        steps = np.arange(radius + 2, distance - 2, 4)[:, None]
        centers = start + np.array(offset) / distance * self._scale * steps
        return np.hstack([centers - 2, centers + 2])

    def _draw_line(self, anchor: tuple[float, float], offset: tuple[float, float], radius: float) -> None:
        self._axes.annotate(
            "",
            anchor,
            xytext=offset,
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


def overlap(boxes: np.ndarray, others: np.ndarray) -> float:
    """Area in pixels squared that boxes [A, 4] share with others [B, 4], pair by pair."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return float(np.prod(np.clip(high - low, 0, None), axis=-1).sum())


def _positions(radius: float) -> Iterator[tuple[float, float, str, str]]:
    """Offsets in points with the alignment that turns the label's near edge to the circle."""
    for distance in _DISTANCES:
        for degrees in _DEGREES:
            x = (radius + distance) * math.cos(math.radians(degrees))
            y = (radius + distance) * math.sin(math.radians(degrees))
            horizontal = "center" if abs(degrees) == 90 else "left" if abs(degrees) < 90 else "right"
            vertical = "center" if degrees in (0, 180) else "bottom" if degrees > 0 else "top"
            yield x, y, horizontal, vertical


def _box(at: np.ndarray, size: tuple[float, float], horizontal: str, vertical: str) -> np.ndarray:
    """The box of a label of that size whose named edge or middle lies at a point."""
    x0 = at[0] - size[0] * {"left": 0.0, "center": 0.5, "right": 1.0}[horizontal]
    y0 = at[1] - size[1] * {"bottom": 0.0, "center": 0.5, "top": 1.0}[vertical]
    return np.array([x0 - _ROOM, y0 - _ROOM, x0 + size[0] + _ROOM, y0 + size[1] + _ROOM])
