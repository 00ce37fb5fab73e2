"""Parallel coordinates plot: one line for each finished trial, through its values and arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...drawing import new_figure
from .figures import BEST_COLOR, MUTED_COLOR, shown_span, text_of, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial

_UNUSED, _UNUSED_SPREAD = -0.13, 0.06  # height, and its spread, of arguments that a trial does not use
_TICK_DISTANCE = 0.07
_DARK, _LIGHT = 1.0, 0.2  # of the colour map


@dataclass(frozen=True)
class _Scale:
    """One vertical axis: its name, ticks at heights 0..1, and the height of a value."""

    name: str
    ticks: list[tuple[float, str]]
    height: Callable[[Any], float]
    spread: float = 0.0
    """Range of heights over which trials with the same value are spread."""


def parallel_coordinates(
    finished: Sequence[FrozenTrial],
    metric_names: Sequence[str],
    directions: Sequence[str],
    emphasised: FrozenTrial,
) -> Figure:
    """Draw the finished trials; darker lines are better in the first objective.

    Args:
        finished: At least one trial, with a value for each objective.
        metric_names: Names of the objectives.
        directions: ``maximize`` or ``minimize`` for each objective.
        emphasised: One of the trials, drawn on top.
    """
    names = list({name: None for trial in finished for name in trial.params})
    columns = [[trial.values[place] for trial in finished] for place in range(len(metric_names))]
    scales = [
        *(
            _objective_scale(words(name), column, direction == "maximize")
            for name, column, direction in zip(metric_names, columns, directions, strict=True)
        ),
        *(_argument_scale(name, finished) for name in names),
    ]
    figure = new_figure(width=max(9.0, 1.5 * len(scales)))
    axes = figure.add_subplot()
    _draw_scales(axes, scales, has_unused=any(set(names) - set(trial.params) for trial in finished))
    sign = 1 if directions[0] == "maximize" else -1
    ordered = sorted(finished, key=lambda trial: sign * trial.values[0])  # the best on top
    lines = [_heights(trial, scales, names, rank / len(ordered) - 0.5) for rank, trial in enumerate(ordered)]
    colors = _colors(figure, axes, columns[0], metric_names[0], directions[0])
    for trial, heights in zip(ordered, lines, strict=True):
        is_chosen = trial is emphasised
        axes.plot(
            range(len(heights)),
            heights,
            color=BEST_COLOR if is_chosen else colors(trial.values[0]),
            linewidth=2.6 if is_chosen else 1.3,
            zorder=5 if is_chosen else 2,
        )
    axes.set_title(
        f"{len(finished)} finished trials; orange: the selected one, trial {emphasised.number}",
        fontsize=11,
        pad=12,
    )
    return figure


def _heights(trial: FrozenTrial, scales: Sequence[_Scale], names: Sequence[str], aside: float) -> list[float]:
    """Return the heights of a trial's line; ``aside``, in -0.5..0.5, separates trials with the same value."""
    num_objectives = len(scales) - len(names)
    objectives = [scale.height(value) for scale, value in zip(scales, trial.values, strict=False)]
    arguments = [
        scale.height(trial.params[name]) + aside * scale.spread
        if name in trial.params
        else _UNUSED + aside * _UNUSED_SPREAD
        for scale, name in zip(scales[num_objectives:], names, strict=True)
    ]
    return [*objectives, *arguments]


def _objective_scale(name: str, values: Sequence[float], is_higher_better: bool) -> _Scale:
    low, high = shown_span(values, is_higher_better)
    scale = _linear(name, low, high, whole=False)
    if low > min(values) or high < max(values):
        # Values beyond the scale are drawn at its end, and its label there gets a sign.
        end, sign = (0.0, "≤") if is_higher_better else (1.0, "≥")
        ticks = [(at, f"{sign} {text}" if at == end else text) for at, text in scale.ticks]
        return _Scale(name, ticks, lambda value: min(max(scale.height(value), 0.0), 1.0))
    return scale


def _argument_scale(name: str, trials: Sequence[FrozenTrial]) -> _Scale:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    distribution: Any = next(trial.distributions[name] for trial in trials if name in trial.distributions)
    if isinstance(distribution, CategoricalDistribution):
        return _categories(name, distribution.choices)
    if distribution.log:
        return _logarithmic(name, distribution.low, distribution.high)
    return _linear(name, distribution.low, distribution.high, whole=isinstance(distribution, IntDistribution))


def _linear(name: str, low: float, high: float, *, whole: bool) -> _Scale:
    from matplotlib.ticker import MaxNLocator

    def height(value: float) -> float:
        return (value - low) / (high - low) if high > low else 0.5

    inner = MaxNLocator(5, integer=whole, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return _Scale(name, _ticks([low, high], [at for at in inner if low < at < high], height), height)


def _logarithmic(name: str, low: float, high: float) -> _Scale:
    def height(value: float) -> float:
        return math.log(value / low) / math.log(high / low) if high > low else 0.5

    decades = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    return _Scale(name, _ticks([low, high], [10.0**power for power in decades], height), height)


def _categories(name: str, choices: Sequence[Any]) -> _Scale:
    heights = {choice: (place + 0.5) / len(choices) for place, choice in enumerate(choices)}
    ticks = [(at, text_of(choice)) for choice, at in heights.items()]
    return _Scale(name, ticks, lambda value: heights[value], spread=0.4 / len(choices))


def _ticks(
    ends: Sequence[float], inner: Sequence[float], height: Callable[[float], float]
) -> list[tuple[float, str]]:
    """Return ticks at both ends, and at those values between them whose labels have room."""
    ticks = {height(end): text_of(end) for end in ends}
    for value in inner:
        if all(abs(height(value) - at) >= _TICK_DISTANCE for at in ticks):
            ticks[height(value)] = text_of(value)
    return sorted(ticks.items())


def _draw_scales(axes: Axes, scales: Sequence[_Scale], *, has_unused: bool) -> None:
    from matplotlib.patheffects import withStroke

    axes.set_xlim(-0.35, len(scales) - 0.85)
    axes.set_ylim(_UNUSED - 0.07 if has_unused else -0.04, 1.04)
    axes.set_yticks([])
    slanted = len(scales) > 6 or max(len(scale.name) for scale in scales) > 18
    axes.set_xticks(
        range(len(scales)),
        [scale.name for scale in scales],
        rotation=20 if slanted else 0,
        ha="right" if slanted else "center",
        fontsize=9,
    )
    axes.tick_params(axis="x", length=0)
    axes.spines[:].set_visible(False)
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for place, scale in enumerate(scales):
        axes.plot([place, place], [0, 1], color="#555555", linewidth=1.0, zorder=4)
        for at, text in scale.ticks:
            axes.plot([place - 0.02, place], [at, at], color="#555555", linewidth=1.0, zorder=4)
            axes.text(
                place - 0.04, at, text, ha="right", va="center", fontsize=8, path_effects=halo, zorder=6
            )
    if has_unused:
        ends = [0, len(scales) - 1]
        axes.plot(ends, [_UNUSED, _UNUSED], color=MUTED_COLOR, linewidth=0.8, linestyle=":", zorder=1)
        axes.text(-0.04, _UNUSED, "not used", ha="right", va="center", fontsize=8, color="#666666", zorder=6)


def _colors(
    figure: Figure, axes: Axes, values: Sequence[float], metric: str, direction: str
) -> Callable[[float], Any]:
    """Draw a colour bar, and return the colour of a value: the better, the darker."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    is_higher_better = direction == "maximize"
    shades = (_LIGHT, _DARK) if is_higher_better else (_DARK, _LIGHT)
    colors = ListedColormap(colormaps["Blues"](np.linspace(*shades, 256)))
    low, high = shown_span(values, is_higher_better)
    scale = Normalize(low, high if high > low else low + 1e-9, clip=True)
    bar = figure.colorbar(ScalarMappable(scale, colors), ax=axes, pad=0.02, aspect=30)
    bar.set_label(words(metric))
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return lambda value: colors(scale(value))
