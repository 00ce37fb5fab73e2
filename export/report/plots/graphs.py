"""Plot the contents of exported graphs: size by part, sensitivity by part, weights before and after quantization."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....drawing import legend_below, new_figure, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_FILE = "size-by-part.png"
SENSITIVITY_FILE = "sensitivity-by-part.png"
WEIGHTS_FILE = "weights-before-after.png"

_MOST_PANELS = 3
_ZOOMED_STEPS = 6
_REST = "rest of the graph"
_COLORS = {
    "word embeddings": "#4c78a8",
    "other embeddings": "#9ecae9",
    "attention": "#f58518",
    "feed-forward": "#54a24b",
    "blocks": "#eeca3b",
    "filters": "#72b7b2",
    "hidden layer": "#e45756",
    "head": "#b279a2",
    _REST: "#9a9a9a",
}
_IN_A_LAYER = (
    "query, key, value",
    "attention products",
    "attention output",
    "feed-forward in",
    "feed-forward out",
    "block in",
    "block out",
)


def draw_graphs(records: dict[str, dict[str, Any]], chosen: str | None, folder: Path) -> list[Path]:
    """Draw every plot that the records contain data for.

    Args:
        records: Variant -> its ``graph_record.GraphRecord`` as JSON.
        chosen: Name of the chosen variant, which has priority where not all variants are shown.
        folder: Output folder, created if missing.

    Returns:
        The PNGs, each written atomically.
    """
    names = sorted(records, key=lambda name: name != chosen)
    paths = []
    if records:
        sizes = {name: record["bytes_by_part"] for name, record in records.items()}
        paths.append(draw_sizes(sizes, folder / SIZE_FILE, chosen=chosen))
    ranked = {name: records[name]["sensitivity"] for name in names if records[name]["sensitivity"]}
    if ranked:
        paths.append(draw_sensitivity(ranked, folder / SENSITIVITY_FILE))
    shown = next((name for name in names if records[name]["weights"]), None)
    if shown is not None:
        paths.append(draw_weights(records[shown]["weights"], shown, folder / WEIGHTS_FILE))
    return paths


def draw_sizes(sizes: dict[str, dict[str, int]], path: Path, *, chosen: str | None = None) -> Path:
    """Draw a bar for each variant, the smallest on top, stacked from the sizes of its parts.

    Args:
        sizes: Variant -> part, as in ``GraphRecord.bytes_by_part`` -> bytes.
        path: The PNG.
        chosen: Name of the variant to mark.
    """
    names = sorted(sizes, key=lambda name: sum(sizes[name].values()), reverse=True)
    figure = new_figure(9.0, 1.6 + 0.3 * len(names))
    axes = tidy(figure.add_subplot())
    left = [0.0] * len(names)
    for part, color in _COLORS.items():
        widths = [_megabytes(sizes[name], part) for name in names]
        if not any(widths):
            continue
        axes.barh(range(len(names)), widths, left=left, height=0.72, color=color, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, total in enumerate(left):
        axes.text(total + 0.01 * max(left), place, f"{total:.2f}", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), [f"{name} (chosen)" if name == chosen else name for name in names])
    axes.tick_params(axis="y", labelsize=9, length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.1 * max(left))
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("size of the file (MB of 2^20 bytes)")
    axes.set_title("Size by part of the model", fontsize=11)
    legend_below(figure, axes)
    return save(figure, path)


def draw_sensitivity(rankings: dict[str, Sequence[dict[str, Any]]], path: Path) -> Path:
    """Draw the error when each part alone is quantized to 8 bits, by layer; a panel for each of up to three variants.

    Args:
        rankings: Variant -> the result of ``sensitivity.rank_parts``, as JSON.
        path: The PNG.
    """
    shown = dict(list(rankings.items())[:_MOST_PANELS])
    parts = {each["part"]: each for ranking in shown.values() for each in ranking}
    order = sorted(parts, key=lambda part: _place(parts[part]))
    figure = new_figure(2.6 + 3.4 * len(shown), 1.4 + 0.26 * len(order))
    first: Axes | None = None
    for number, (name, ranking) in enumerate(shown.items(), 1):
        axes = tidy(figure.add_subplot(1, len(shown), number, sharey=first))
        _draw_errors(axes, {each["part"]: each for each in ranking}, order)
        axes.set_title(name, fontsize=10)
        if first is None:
            first = axes
            axes.set_yticks(range(len(order)), order, fontsize=8)
            axes.set_ylim(len(order) - 0.4, -0.6)
        else:
            axes.tick_params(labelleft=False)
    figure.suptitle("Error of the logits with only this part in 8 bits, on training texts", fontsize=11)
    figure.supxlabel("mean squared error of the logits (% of their variance)", fontsize=10)
    return save(figure, path)


def _draw_errors(axes: Axes, errors: dict[str, dict[str, Any]], order: Sequence[str]) -> None:
    """Draw a bar for each part with its value, and a line between layers."""
    most = max(each["error"] for each in errors.values()) * 100
    for place, part in enumerate(order):
        each = errors.get(part)
        if each is None:
            continue
        percent = each["error"] * 100
        axes.barh(place, percent, height=0.72, color=_COLORS.get(each["group"], _COLORS[_REST]))
        axes.text(percent + 0.015 * most, place, f"{percent:.2g}", va="center", fontsize=7)
        before = errors.get(order[place - 1]) if place else None
        if before is not None and before["layer"] != each["layer"]:
            axes.axhline(place - 0.5, color="#bbbbbb", linewidth=0.8)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlim(0, 1.22 * most or 1.0)


def draw_weights(weights: dict[str, Any], variant: str, path: Path) -> Path:
    """Draw histograms of a matrix's weights before and after quantization, with an inset of a few steps.

    Args:
        weights: A ``graph_record.WeightHistogram`` as JSON.
        variant: Name of the variant with the quantized matrix.
        path: The PNG.
    """
    step, lowest = weights["step"], weights["lowest"]
    bins = len(weights["before"]) // len(weights["after"])
    edges = [lowest + step / bins * i for i in range(len(weights["before"]) + 1)]
    levels = [lowest + step * (i + 0.5) for i in range(len(weights["after"]))]
    per_step = [count * bins for count in weights["before"]]  # scaled to the width of a whole step
    figure = new_figure()
    axes = tidy(figure.add_subplot())
    before, after = _COLORS["word embeddings"], _COLORS["attention"]
    axes.stairs(per_step, edges, fill=True, color=before, alpha=0.45, label="32 bits")
    axes.stairs(
        weights["after"], [lowest + step * i for i in range(len(levels) + 1)], color=after, label="8 bits"
    )
    most = max(max(per_step), *weights["after"])
    axes.set_yscale("log")
    axes.set_ylim(0.5, most**2.1)  # the upper half is for the inset
    axes.set_yticks([10**power for power in range(len(str(int(most))))])
    axes.minorticks_off()
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("weight")
    axes.set_ylabel("weights within one step")
    axes.set_title(
        f"{weights['part']} before and after quantization ({variant}): {sum(weights['after']):,} weights, "
        f"{sum(1 for count in weights['after'] if count)} values, step {step:.3g}",
        fontsize=10,
    )
    center, half = levels[weights["after"].index(max(weights["after"]))], (_ZOOMED_STEPS + 0.5) * step
    inset = axes.inset_axes((0.42, 0.56, 0.56, 0.41))
    inset.stairs(per_step, edges, fill=True, color=before, alpha=0.45)
    inset.vlines(levels, 0, weights["after"], color=after, linewidth=2)
    inset.plot(levels, weights["after"], "o", color=after, markersize=3)
    inset.set_xlim(center - half, center + half)
    inset.set_ylim(0, 1.12 * most)
    inset.tick_params(labelsize=7)
    inset.ticklabel_format(axis="y", style="plain")
    inset.locator_params(axis="y", nbins=5)
    inset.text(0.985, 0.93, "closer", transform=inset.transAxes, ha="right", va="top", fontsize=8)
    axes.indicate_inset((center - half, 0.5, 2 * half, most - 0.5), inset, edgecolor="#777777")
    legend_below(figure, axes)
    return save(figure, path)


def _megabytes(parts: dict[str, int], part: str) -> float:
    names = [name for name in parts if name not in _COLORS] if part == _REST else [part]
    return sum(parts.get(name, 0) for name in names) / 2**20


def _place(each: dict[str, Any]) -> tuple[int, int, int]:
    """Return the sort key of a part: embeddings first, then the layers from input to output, then the rest."""
    if each["layer"] is None:
        groups = [*_COLORS]
        group = groups.index(each["group"]) if each["group"] in groups else len(groups)
        return (0 if "embeddings" in each["group"] else 2), group, 0
    name = next((name for name in _IN_A_LAYER if each["part"].endswith(name)), "")
    return 1, each["layer"], _IN_A_LAYER.index(name) if name else len(_IN_A_LAYER)
