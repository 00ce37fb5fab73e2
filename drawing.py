"""Shared parts of all plots: figures that need no display, axes, legends, and image files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .storage.folders import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(width: float = 9.0, height: float = 5.5) -> Figure:
    """Create an empty figure that needs no display; width and height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # pyplot would keep global state and select a backend that needs a display.
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes) -> Axes:
    """Draw a light grid behind the marks."""
    axes.grid(color="#e5e5e5", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    return axes


def legend_below(figure: Figure, axes: Axes) -> None:
    """Draw the legend below the axes, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9
        )


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as a PNG, atomically."""
    with new_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
