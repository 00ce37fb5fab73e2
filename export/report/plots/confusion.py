"""Plot a confusion matrix of up to about forty labels as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ....drawing import new_figure, save

_MOST_CHARACTERS = 24  # of a label
_CELL, _LEAST_SIDE, _MARGIN = 0.36, 3.4, 2.9  # inches


def draw_confusion(labels: Sequence[str], counts: Sequence[Sequence[int]], path: str | Path) -> Path:
    """Draw the share of each true label's texts that is predicted as each label, with the number of texts in the cell.

    Args:
        labels: C labels.
        counts: int[C][C], ``counts[true][predicted]``.
        path: The PNG, written atomically.

    Returns:
        ``path``.
    """
    values = np.asarray(counts)
    shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1)
    side = max(_LEAST_SIDE, _CELL * len(labels))
    figure = new_figure(side + _MARGIN, side + _MARGIN - 0.4)
    figure.set_layout_engine("compressed")  # for axes of a fixed aspect
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [_short(label) for label in labels]
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 6 else 30, fontsize=8)
    if len(names) <= 6:
        for tick in axes.get_xticklabels():
            tick.set_horizontalalignment("right")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("predicted label")
    axes.set_ylabel("true label")
    axes.set_title("Test texts by true and predicted label", fontsize=10)
    for row, column in zip(*np.nonzero(values), strict=True):
        count = f"{values[row, column]:,}"
        axes.text(
            column,
            row,
            count,
            ha="center",
            va="center",
            fontsize=min(9.0, 100 * side / len(names) / max(len(count), 4)),  # points that fit the cell
            color="white" if shares[row, column] > 0.5 else "black",
            parse_math=False,
        )
    # Lines between the cells, drawn by the minor ticks.
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e5e5e5", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    beside = axes.inset_axes((1 + 0.1 / side, 0, 0.15 / side, 1))
    bar = figure.colorbar(image, cax=beside)
    bar.set_label("share of the true label's texts", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return save(figure, Path(path))


def _short(label: str) -> str:
    """Return a label on one line, cut to a length that fits beside the axes, without mathematical notation."""
    line = " ".join(label.split()).replace("$", r"\$")
    return line if len(line) <= _MOST_CHARACTERS else f"{line[: _MOST_CHARACTERS - 1]}…"
