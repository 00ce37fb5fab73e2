"""The mixture of several teachers: a weighted mean of calibrated logits, how it is fitted, and how it is measured.

Shapes: M teachers, N texts (or tokens, of tasks that label those), C outputs. A teacher that is a file of logits may
lack texts, whose rows are NaN; the others make up the mixture there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...errors import ConfigError
from ..ragged import Ragged, Rows, flat, like
from .config import FIT
from .logits_file import missing_rows

if TYPE_CHECKING:
    from ..tasks import Mode, Task
    from .config import TeacherConfig

VALIDATION = "validation"
LEAST_TEXTS = 100
"""Validation texts for each weight below which a fit is so uncertain that a warning is given."""
_COLDEST, _HOTTEST = 0.02, 50.0  # bounds of a temperature
_BISECTIONS = 40
_MOST_STEPS = 300  # of the fit of the weights
_LEAST_CHANGE = 1e-5  # of any weight in a step; a smaller one ends the fit
_MOST_HALVINGS = 40
Measure = Callable[[str, Rows, np.ndarray | None], Mapping[str, float | None]]
"""Function from the name of a split and logits on its texts, or on those of the numbers given, to their metrics."""


@dataclass(frozen=True)
class Mixture:
    """A weighted mean of the logits of M teachers, each divided by its own temperature.

    Where classes exclude one another this is the logarithmic opinion pool of the teachers: its softmax is their
    normalised weighted geometric mean (Heskes, "Selecting weighting factors in logarithmic opinion pools", NIPS 1997).

    Attributes:
        weights: One for each teacher, none negative, which sum to 1.
        temperatures: One for each teacher.
    """

    weights: tuple[float, ...]
    temperatures: tuple[float, ...]

    def of(self, logits: Sequence[Rows]) -> Rows:
        """Return the mixture of M teachers' logits, float32[N, C] or rows of [L, C], in the form of the first.

        Where some teachers lack a row, it is the mean of the others; it is NaN if no teacher with a weight has it.
        """
        total, present = np.zeros(1), np.zeros(1)
        for weight, temperature, rows in zip(self.weights, self.temperatures, logits, strict=True):
            values = flat(rows)
            lacking = missing_rows(values)
            scaled = np.multiply(values, weight / temperature, dtype=np.float64)
            total = total + np.where(lacking[:, None], 0.0, scaled)
            present = present + np.where(lacking, 0.0, weight)
        with np.errstate(invalid="ignore"):
            mean = total / present[:, None]
        return like(logits[0], mean.astype(np.float32))

    def without(self, number: int) -> Mixture:
        """Return the mixture in which one teacher has no weight, and the others share its weight in proportion."""
        rest = 1 - self.weights[number]
        others = [0.0 if place == number else weight for place, weight in enumerate(self.weights)]
        num = len(others) - 1
        if rest <= 0:  # it had all the weight
            others = [0.0 if place == number else 1 / num for place in range(len(others))]
        total = sum(others)
        return Mixture(tuple(weight / total for weight in others), self.temperatures)


def fit_mixture(config: TeacherConfig, logits: Sequence[Rows], labels: Rows, task: Task) -> Mixture:
    """Return the mixture of a job's teachers: its temperatures, and its weights where ``weights`` is ``fit``.

    Teachers that differ in their seed alone have logits of one scale, which are not changed.

    Args:
        config: The section ``teacher``.
        logits: Of each teacher on the validation split, float32[N, C] or rows of [L, C].
        labels: Of the same texts.
        task: The task.

    Raises:
        ConfigError: Weights are to be fitted, and no validation text has the logits of all teachers.
    """
    given, values = config.given_weights, [flat(each) for each in logits]
    weights, temperatures = tuple(weight / sum(given) for weight in given), (1.0,) * len(given)
    if not config.are_different and config.weights != FIT:
        return Mixture(weights, temperatures)
    known = flat(task.known_labels(labels, values[0].shape[1]))
    values = [_for_loss(each, labels, task) for each in logits]
    if config.are_different:
        temperatures = tuple(fit_temperature(each, known, task) for each in values)
    if config.weights != FIT:
        return Mixture(weights, temperatures)
    complete = ~np.any([_missing(each) for each in values], axis=0)
    check_covered(int(complete.sum()))
    scaled = [each[complete] / temperature for each, temperature in zip(values, temperatures, strict=True)]
    return Mixture(fit_weights(scaled, known[complete], task), temperatures)


def _for_loss(logits: Rows, labels: Rows, task: Task) -> np.ndarray:
    """Return logits as the hard loss of their task takes them: of all tokens, or padded where a text has one label."""
    if isinstance(logits, Ragged) and not isinstance(labels, Ragged):
        return logits.padded(task.padding_logit)
    return flat(logits)


def _missing(values: np.ndarray) -> np.ndarray:
    """Return whether each of N rows is missing, bool[N], from values[N, ...]."""
    return np.asarray(np.isnan(values).reshape(len(values), -1).any(axis=1))


def check_covered(num_texts: int) -> None:
    """Reject the fitting of weights if no validation text has the logits of all teachers.

    Raises:
        ConfigError: ``num_texts``, the number of such texts, is 0.
    """
    if num_texts == 0:
        raise ConfigError(
            "teacher.weights: 'fit' given, but no validation text has the logits of all teachers; add them to the file "
            "of logits, or remove the key"
        )


def fit_temperature(logits: np.ndarray, labels: np.ndarray, task: Task) -> float:
    """Fit T so that logits / T have the smallest loss against the labels.

    Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017), which makes the scales of
    different models comparable and changes no prediction. The labels are smoothed as if there were one more text with
    equal weight on every label, since a model that is right on all texts cannot be certain of all others (Platt,
    "Probabilistic Outputs for Support Vector Machines", 1999, section 2.2). The loss is convex in 1/T.

    Args:
        logits: float32[N, ...] as the hard loss takes them; rows of NaN are ignored.
        labels: Of the same rows; missing ones are ignored.
        task: The task; 1 is returned for one whose outputs have a unit, such as numbers.

    Returns:
        T, from 0.02 to 50; 1 where no row has logits and a label.
    """
    rows = ~_missing(logits)
    if not task.has_temperature or not rows.any():
        return 1.0
    values, truth = (torch.from_numpy(np.array(each[rows])) for each in (logits, labels))
    smoothing = 1 / (len(values) + 1)
    is_padding = values == task.padding_logit  # the loss recognises it by this value

    def slope(inverse: float) -> float:
        scale = torch.tensor(inverse, dtype=torch.float32, requires_grad=True)
        loss = task.hard_loss(values.where(is_padding, values * scale), truth, label_smoothing=smoothing)
        return float(torch.autograd.grad(loss, scale)[0])

    if slope(1.0) == 0:  # nothing to learn from
        return 1.0
    low, high = math.log(1 / _HOTTEST), math.log(1 / _COLDEST)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def fit_weights(logits: Sequence[np.ndarray], labels: np.ndarray, task: Task) -> tuple[float, ...]:
    """Fit weights, none negative, which sum to 1, so that the weighted mean of logits has the smallest hard loss.

    The loss is convex in them. Each step of gradient descent is projected onto these weights (Duchi et al., "Efficient
    Projections onto the l1-Ball", ICML 2008, figure 1), and shortened until the loss falls.

    Args:
        logits: Of each teacher, float32[N, ...] as the hard loss takes them, none missing.
        labels: Of the same rows; missing ones are ignored.
        task: The task.
    """
    values, truth = torch.from_numpy(np.stack(logits)), torch.from_numpy(np.array(labels))

    def loss_and_slope(weights: np.ndarray) -> tuple[float, np.ndarray]:
        held = torch.tensor(weights, dtype=torch.float32, requires_grad=True)
        loss = task.hard_loss(torch.tensordot(held, values, dims=1), truth)
        (slope,) = torch.autograd.grad(loss, held)
        return float(loss.detach()), slope.double().numpy()

    weights = np.full(len(logits), 1 / len(logits))
    loss, slope = loss_and_slope(weights)
    step = 1 / max(float(np.abs(slope).max()), 1e-12)
    for _ in range(_MOST_STEPS):
        for _ in range(_MOST_HALVINGS):
            moved = _projected(weights - step * slope)
            found = loss_and_slope(moved)
            if found[0] < loss:
                break
            step /= 2
        else:
            break
        change = float(np.abs(moved - weights).max())
        weights, (loss, slope), step = moved, found, 2 * step
        if change < _LEAST_CHANGE:
            break
    return tuple(float(weight) for weight in weights)


def _projected(point: np.ndarray) -> np.ndarray:
    """Return the nearest point whose numbers are not negative and sum to 1."""
    falling = np.sort(point)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(point) + 1)
    return np.maximum(point - excess[np.flatnonzero(falling > excess)[-1]], 0)


def measure_mixture(
    config: TeacherConfig,
    mixture: Mixture,
    splits: Mapping[str, Sequence[Rows]],
    measure: Measure,
    metric: str,
    mode: Mode,
) -> dict[str, Any]:
    """Measure a mixture, each of its teachers, and the mixture without each of them, for the record.

    Args:
        config: The section ``teacher``.
        mixture: The mixture.
        splits: The logits of each teacher on the validation and the test split.
        measure: Returns the metrics of logits.
        metric: The job's metric.
        mode: Whether higher or lower is better in it.

    Returns:
        ``weights`` (``given`` or ``fit``), ``metric``, ``mixture`` (the metrics by split), ``best`` (the place of the
        teacher that is best on the validation split, None if none is measured), and for each of ``members``
        ``teacher`` (its description), ``weight``, ``temperature``, and by split its metrics on the texts that it has
        (None if it has none), ``missing``, the number of texts that it lacks, and ``others``, the metrics of the
        mixture without it.
    """
    members: list[dict[str, Any]] = []
    for number, teacher in enumerate(config.members):
        member: dict[str, Any] = {
            "teacher": teacher.in_words(),
            "weight": mixture.weights[number],
            "temperature": mixture.temperatures[number],
            "missing": {},
            "others": {},
        }
        for split, logits in splits.items():
            member[split], member["missing"][split] = _of_known(split, logits[number], measure)
            member["others"][split], _ = _of_known(split, mixture.without(number).of(logits), measure)
        members.append(member)
    whole = {split: _of_known(split, mixture.of(logits), measure)[0] for split, logits in splits.items()}
    sign = 1 if mode == "max" else -1
    reached = {
        number: sign * each[VALIDATION][metric]
        for number, each in enumerate(members)
        if each[VALIDATION] is not None and each[VALIDATION][metric] is not None
    }
    best = max(reached, key=lambda number: reached[number]) if reached else None
    return {"weights": config.weights, "metric": metric, "members": members, "mixture": whole, "best": best}


def _of_known(split: str, logits: Rows, measure: Measure) -> tuple[dict[str, float | None] | None, int]:
    """Return the metrics of the texts with logits, None where there are none, and the number of the others."""
    if isinstance(logits, Ragged):  # of a model, which has all of them
        return dict(measure(split, logits, None)), 0
    known = np.flatnonzero(~missing_rows(logits))
    found = dict(measure(split, logits[known], known)) if len(known) else None
    return found, len(logits) - len(known)
