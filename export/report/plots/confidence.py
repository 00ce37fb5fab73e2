"""Plot the confidence of rows: accuracy against rejected share, ROC of out-of-scope detection, reliability."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....drawing import legend_below, new_figure, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = ("#f58518", "#4c78a8", "#9a9a9a")


def draw_scope(rows: Sequence[dict[str, Any]], path: str | Path) -> Path:
    """Draw up to three panels: accuracy against rejected share, ROC of the score, reliability diagram.

    Args:
        rows: Rows of ``report["variants"]``: the main one first, then those to compare it with, at most three in all.
        path: The PNG, written atomically.

    Returns:
        ``path``.
    """
    rows = list(rows)[: len(_COLORS)]
    panels = [_draw_reliability]
    if all(row.get("with_threshold") for row in rows):
        panels = [_draw_refused, *([_draw_roc] if rows[0]["curves"]["roc"] else []), *panels]
    figure = new_figure(4.6 * len(panels), 4.8)
    for number, panel in enumerate(panels, 1):
        panel(tidy(figure.add_subplot(1, len(panels), number)), rows)
    legend_below(figure, figure.axes[0])
    return save(figure, Path(path))


def _draw_refused(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    for row, color in zip(rows, _COLORS, strict=False):
        curve = row["curves"]["refused"]
        axes.plot(_percent(curve["share"]), _percent(curve["accuracy"]), color=color, label=row["name"])
    axes.set_xlabel("texts rejected (%)")
    axes.set_ylabel("accuracy of the accepted texts (%)")
    axes.set_title("Accuracy against share of rejected texts", fontsize=10)


def _draw_roc(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    for row, color in zip(rows, _COLORS, strict=False):
        roc = row["curves"]["roc"]
        axes.plot(_percent(roc["in_scope"]), _percent(roc["recall"]), color=color)
        chosen = _percent([roc["chosen"]["in_scope"]]), _percent([roc["chosen"]["recall"]])
        axes.plot(*chosen, "o", color=color, markeredgecolor="black")
    axes.plot([0, 100], [0, 100], color="#bbbbbb", linewidth=0.8, linestyle=":")
    areas = ", ".join(f"{row['with_threshold']['auroc']:.3f}" for row in rows)
    axes.set_xlabel("in-scope texts rejected (%)")
    axes.set_ylabel("out-of-scope texts detected (%)")
    score = rows[0]["with_threshold"]["score"]
    axes.set_title(f"ROC by {score}, AUROC {areas}\ndot: the threshold", fontsize=10)


def _draw_reliability(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    for row, color in zip(rows, _COLORS, strict=False):
        bins = row["curves"]["reliability"]
        right = _percent([each["accuracy"] for each in bins])
        confidence = _percent([each["confidence"] for each in bins])
        axes.plot(confidence, right, "o-", color=color, markersize=4, label=row["name"])
    axes.plot([0, 100], [0, 100], color="#bbbbbb", linewidth=0.8, linestyle=":")
    errors = ", ".join(f"{row['calibration']['in_scope_error_after']:.3f}" for row in rows)
    axes.set_xlabel("probability of the prediction (%)")
    axes.set_ylabel("correct (%)")
    axes.set_title(f"Reliability, without threshold\nexpected calibration error {errors}", fontsize=10)


def _percent(shares: Sequence[float]) -> list[float]:
    return [share * 100 for share in shares]
