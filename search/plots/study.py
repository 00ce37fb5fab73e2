"""Plots of a search: its history, argument importance, parallel coordinates and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...drawing import legend_below, new_figure, save, tidy
from ..student_arguments import STUDENT_KIND
from ..study.importance import weights
from .figures import (
    BEST_COLOR,
    FAILED_COLOR,
    MUTED_COLOR,
    SERIES_COLORS,
    TRIAL_COLOR,
    show_millions,
    shown_span,
    words,
)
from .parallel_coordinates import parallel_coordinates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial

HISTORY_FILE = "search-history.png"
IMPORTANCE_FILE = "search-importance.png"
PARALLEL_FILE = "search-parallel.png"
FRONT_FILE = "search-front.png"
_MARKERS = "osD^vP*X"  # one for each kind of student


@dataclass(frozen=True)
class StudyPictures:
    """The plots of a search.

    Attributes:
        paths: Paths of the PNGs.
        left_out: For each plot that was not drawn, the reason by the file's name.
    """

    paths: list[Path]
    left_out: dict[str, str]


def draw_study(
    trials: Sequence[FrozenTrial],
    folder: Path,
    *,
    metric_names: Sequence[str],
    directions: Sequence[str],
    chosen: int | None = None,
    front: Collection[int] | None = None,
) -> StudyPictures:
    """Draw the plots of a search as PNGs; the same trials give the same plots.

    Args:
        trials: All trials that have ended, such as ``study.trials``, with their numbers.
        folder: Output folder, created if needed; plots of an earlier call are replaced, or removed.
        metric_names: Names of the objectives.
        directions: ``maximize`` or ``minimize`` for each objective.
        chosen: Number of the selected trial. Default: the best in the first objective.
        front: Numbers of the trials on the Pareto front. Default: the finished trials that no other dominates.

    Returns:
        The plots, and those that were left out.
    """
    search = _Search(
        sorted(trials, key=lambda trial: trial.number), list(metric_names), list(directions), chosen, front
    )
    pictures = {
        HISTORY_FILE: _history,
        IMPORTANCE_FILE: _importance,
        PARALLEL_FILE: _parallel,
        FRONT_FILE: _front,
    }
    paths, left_out = [], {}
    for name, draw in pictures.items():
        figure = draw(search) if search.finished else "no trial has finished"
        if isinstance(figure, str):
            (folder / name).unlink(missing_ok=True)
            left_out[name] = figure
        else:
            paths.append(save(figure, folder / name))
    return StudyPictures(paths, left_out)


class _Search:
    """The trials, grouped as the plots need them."""

    def __init__(
        self,
        trials: Sequence[FrozenTrial],
        metric_names: list[str],
        directions: list[str],
        chosen: int | None,
        front: Collection[int] | None,
    ) -> None:
        from optuna.trial import TrialState

        self.trials = trials
        self.metric_names = metric_names
        self.directions = directions
        self.finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        self.pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
        self.failed = [trial for trial in trials if trial.state == TrialState.FAIL]
        self._chosen = chosen
        self._front = front

    def is_higher_better(self, place: int = 0) -> bool:
        return self.directions[place] == "maximize"

    @property
    def chosen(self) -> FrozenTrial:
        given = next((trial for trial in self.finished if trial.number == self._chosen), None)
        sign = 1 if self.is_higher_better() else -1
        return given or max(self.finished, key=lambda trial: sign * trial.values[0])

    @property
    def front(self) -> list[FrozenTrial]:
        if self._front is not None:
            return [trial for trial in self.finished if trial.number in self._front]
        losses = [self._losses(trial) for trial in self.finished]
        return [
            trial
            for trial, own in zip(self.finished, losses, strict=True)
            if not any(other != own and all(map(float.__le__, other, own)) for other in losses)
        ]

    def _losses(self, trial: FrozenTrial) -> list[float]:
        return [
            float(-value if self.is_higher_better(place) else value)
            for place, value in enumerate(trial.values)
        ]


def _history(search: _Search) -> Figure:
    count = len(search.metric_names)
    figure = new_figure(height=5.5 if count == 1 else 1.0 + 3.2 * count)
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for place, axes in enumerate(panels):
        _history_panel(tidy(axes), search, place)
    first = panels[0]
    first.set_title("Trials in the order of their suggestions; dashed: selected", fontsize=11)
    last = panels[-1]
    last.set_xlabel("trial")
    last.xaxis.get_major_locator().set_params(integer=True)
    numbers = [trial.number for trial in search.trials]
    last.set_xlim(min(numbers) - 0.7, max(numbers) + 0.7)
    legend_below(figure, first)
    return figure


def _history_panel(axes: Axes, search: _Search, place: int) -> None:
    higher = search.is_higher_better(place)
    values = [trial.values[place] for trial in search.finished]
    reached = [
        (trial.number, value) for trial in search.pruned if (value := _reached(trial, place)) is not None
    ]
    low, high = shown_span(values, higher, [value for _, value in reached])
    room = 0.07 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - room, high + room
    axes.set_ylim(low, high)
    axes.set_ylabel(words(search.metric_names[place]))
    show_millions(axes.yaxis, values)
    points = [(trial.number, value) for trial, value in zip(search.finished, values, strict=True)]
    inside = [point for point in points if low <= point[1] <= high]
    _scatter(axes, inside, label="finished", s=34, color=TRIAL_COLOR, edgecolor="white", linewidth=0.6)
    seen = [point for point in reached if low <= point[1] <= high]
    _scatter(axes, seen, label="stopped early", s=26, facecolor="none", edgecolor=MUTED_COLOR, linewidth=1.2)
    beyond = [
        (number, low if value < low else high)
        for number, value in points + reached
        if not low <= value <= high
    ]
    marker = "v" if higher else "^"
    _scatter(axes, beyond, label="off the scale", s=34, color=MUTED_COLOR, marker=marker, clip_on=False)
    failed = [trial.number for trial in search.failed]
    if failed:
        edge = axes.get_xaxis_transform()
        heights = [0.025] * len(failed)
        axes.scatter(
            failed, heights, s=34, color=FAILED_COLOR, marker="x", label="failed", transform=edge, zorder=3
        )
    _best_so_far(axes, search, points, higher)
    dashed = (search.chosen.number, search.chosen.values[place])
    axes.scatter(*dashed, s=130, facecolor="none", edgecolor="black", linewidth=1.3, linestyle="--", zorder=4)


def _best_so_far(axes: Axes, search: _Search, points: Sequence[tuple[int, float]], higher: bool) -> None:
    better = max if higher else min
    steps: list[tuple[int, float]] = []
    for number, value in points:
        steps.append((number, better(value, steps[-1][1]) if steps else value))
    steps.append((max(trial.number for trial in search.trials), steps[-1][1]))
    numbers, best = zip(*steps, strict=True)
    axes.plot(
        numbers, best, color=BEST_COLOR, linewidth=1.6, drawstyle="steps-post", label="best so far", zorder=2
    )


def _reached(trial: FrozenTrial, place: int) -> float | None:
    """Return the value that a trial had reached when it was stopped early; None if it is unknown."""
    if trial.values is not None:
        return trial.values[place] if math.isfinite(trial.values[place]) else None
    if place == 0 and trial.intermediate_values:
        return trial.intermediate_values[max(trial.intermediate_values)]
    return None


def _scatter(axes: Axes, points: Sequence[tuple[float, float]], **look: Any) -> None:
    if points:
        axes.scatter(*zip(*points, strict=True), zorder=3, **look)


def _importance(search: _Search) -> Figure | str:
    found = weights(search.finished, search.metric_names, search.directions)
    if isinstance(found, str):
        return found
    names = list(next(iter(found.values())))
    figure = new_figure(height=1.9 + 0.42 * len(names) * max(1.0, 0.6 * len(found)))
    axes = tidy(figure.add_subplot())
    thickness = 0.75 / len(found)
    for place, (metric, weight_of) in enumerate(found.items()):
        heights = [row + (place - (len(found) - 1) / 2) * thickness for row in range(len(names))]
        color = SERIES_COLORS[place % len(SERIES_COLORS)]
        values = [weight_of[name] for name in names]
        bars = axes.barh(heights, values, height=0.92 * thickness, color=color, label=words(metric), zorder=3)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.1 * max(max(weight_of.values()) for weight_of in found.values()))
    axes.set_xlabel("importance for reaching the better half of the trials (PED-ANOVA)")
    axes.set_title(f"Argument importance over {len(search.finished)} finished trials", fontsize=11)
    if len(found) > 1:
        legend_below(figure, axes)
    return figure


def _parallel(search: _Search) -> Figure | str:
    if not any(trial.params for trial in search.finished):
        return "nothing was searched"
    return parallel_coordinates(search.finished, search.metric_names, search.directions, search.chosen)


def _front(search: _Search) -> Figure | str:
    count = len(search.metric_names)
    if count == 1:
        return "there is one objective"
    figure = new_figure(width=9.0 if count == 2 else 5.5 * (count - 1))
    panels = figure.subplots(1, count - 1, sharey=True, squeeze=False)[0]
    for place, axes in enumerate(panels, start=1):
        _front_panel(tidy(axes), search, place)
    panels[0].set_ylabel(words(search.metric_names[0]))
    figure.suptitle(
        f"Pareto front: {len(search.front)} of {len(search.finished)} finished trials; dashed: selected",
        fontsize=11,
    )
    legend_below(figure, panels[0])
    return figure


def _front_panel(axes: Axes, search: _Search, place: int) -> None:
    """Draw the first objective against another; the front is drawn as a line only with two objectives."""

    def point(trial: FrozenTrial) -> tuple[float, float]:
        return trial.values[place], trial.values[0]

    front = sorted(search.front, key=point)
    others = [trial for trial in search.finished if trial not in front]
    markers = _markers(search.finished)
    for kind, marker in markers.items():
        shown = [point(trial) for trial in others if trial.params.get(STUDENT_KIND) == kind]
        _scatter(axes, shown, marker=marker, s=30, color=TRIAL_COLOR, alpha=0.55)
        shown = [point(trial) for trial in front if trial.params.get(STUDENT_KIND) == kind]
        _scatter(axes, shown, marker=marker, s=48, color=BEST_COLOR, edgecolor="white")
    axes.scatter([], [], label="dominated", s=30, color=TRIAL_COLOR, alpha=0.55)
    axes.scatter([], [], label="Pareto front", s=48, color=BEST_COLOR, edgecolor="white")
    for kind, marker in markers.items() if len(markers) > 1 else ():
        axes.scatter([], [], label=kind, marker=marker, s=36, facecolor="none", edgecolor=MUTED_COLOR)
    if len(search.metric_names) == 2 and len(front) > 1:
        style = "steps-post" if search.is_higher_better() != search.is_higher_better(place) else "steps-pre"
        axes.plot(
            *zip(*map(point, front), strict=True), color=BEST_COLOR, linewidth=1.2, drawstyle=style, zorder=2
        )
    axes.scatter(
        *point(search.chosen),
        s=140,
        facecolor="none",
        edgecolor="black",
        linewidth=1.3,
        linestyle="--",
        zorder=4,
    )
    axes.margins(x=0.14, y=0.12)
    axes.set_xlabel(words(search.metric_names[place]))
    show_millions(axes.xaxis, [trial.values[place] for trial in search.finished])
    right = 1 if search.is_higher_better(place) else -1
    up = 1 if search.is_higher_better() else -1
    _label(axes, {trial.number: point(trial) for trial in front}, search.chosen.number, right, up)


def _markers(trials: Sequence[FrozenTrial]) -> dict[str | None, str]:
    """Return a marker for each kind of student among the trials, in the order of their names."""
    kinds = sorted({trial.params.get(STUDENT_KIND) for trial in trials}, key=str)
    return {kind: _MARKERS[place % len(_MARKERS)] for place, kind in enumerate(kinds)}


def _label(axes: Axes, points: dict[int, tuple[float, float]], chosen: int, right: int, up: int) -> None:
    """Label trials on the side of better values, where no trials are; of overlapping labels, keep one."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    taken: list[Any] = []
    for number in sorted(points, key=lambda number: (number != chosen, number)):
        label = axes.annotate(
            f"trial {number}",
            points[number],
            xytext=(7 * right, 5 * up),
            textcoords="offset points",
            ha="left" if right > 0 else "right",
            va="bottom" if up > 0 else "top",
            fontsize=8,
            zorder=5,
        )
        box = label.get_window_extent()
        if any(box.overlaps(other) for other in taken):
            label.remove()
        else:
            taken.append(box)
