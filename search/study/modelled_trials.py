"""The trials of a study that a sampler models: all trials of a small study, a limited selection of a large one."""

from __future__ import annotations

import copy
import math
from collections.abc import Container, Iterable, Sequence

import numpy as np
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

_GOOD_SHARE, _MOST_GOOD = 0.1, 25
"""TPE models this share of the trials as good ones; with one objective, at most this many."""


class ModelledTrials(InMemoryStorage):
    """Storage of one study that shows at most ``most`` of its finished trials, and all unfinished ones.

    For every suggestion, TPE sorts all trials that it sees and fits its densities to them, and a Gaussian process
    inverts a matrix of their number. With all trials, the time of a suggestion would grow with their number, and that
    of a search with its square. Up to ``most`` finished trials, all are shown. Beyond that, two groups are: as many of
    the best as TPE models as good ones (more would be overrepresented among the others), and every k-th trial in the
    order in which they ended, an even sample of the whole search. Failed trials are then left out. The selection
    depends only on the finished trials and their order.

    Args:
        most: Maximum number of finished trials to show.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._num_good = 0
        self._directions: list[StudyDirection] = []
        self._unfinished: dict[int, None] = {}
        self._finished: list[FrozenTrial] = []  # without failed ones, in the order in which they ended
        self._candidates: list[FrozenTrial] = []  # includes the good ones
        self._good: list[FrozenTrial] | None = []  # None: to be computed

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Create the study."""
        self._directions = list(directions)
        num_good = math.ceil(_GOOD_SHARE * self._most)
        self._num_good = num_good if len(directions) > 1 else min(num_good, _MOST_GOOD)
        return super().create_new_study(directions, study_name)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Add a trial."""
        trial_id = super().create_new_trial(study_id, template_trial)
        self._note(trial_id)
        return trial_id

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Set a trial's state; it does not change after the trial has finished."""
        is_set = super().set_trial_state_values(trial_id, state, values)
        self._note(trial_id)
        return is_set

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials to model, in the order of their numbers."""
        if len(self._finished) <= self._most or states == (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        if self._good is None:
            self._good = best_trials(self._candidates, self._directions, self._num_good)
        good = self._good
        num_others, num = self._most - len(good), len(self._finished)
        others = [self._finished[place * num // num_others] for place in range(num_others)]
        unfinished = [self.get_trial(each) for each in self._unfinished]
        shown = {trial.number: trial for trial in (*others, *good, *unfinished)}
        found = [shown[number] for number in sorted(shown) if states is None or shown[number].state in states]
        return copy.deepcopy(found) if deepcopy else found

    def _note(self, trial_id: int) -> None:
        trial = self.get_trial(trial_id)
        if not trial.state.is_finished():
            self._unfinished[trial_id] = None
            return
        self._unfinished.pop(trial_id, None)
        if trial.state == TrialState.FAIL:
            return
        self._finished.append(trial)
        self._candidates.append(trial)
        self._good = None
        if len(self._candidates) > 4 * self._num_good:
            self._candidates = best_trials(self._candidates, self._directions, self._num_good)


def best_trials(
    trials: Iterable[FrozenTrial], directions: Sequence[StudyDirection], num: int
) -> list[FrozenTrial]:
    """Return the ``num`` best trials, in the order in which TPE prefers them.

    The order is: complete trials that meet all constraints, by value, or by Pareto front if there are several
    objectives; then pruned trials, latest pruning first; then trials that violate constraints, by their violation.
    """
    complete, pruned, violating = [], [], []
    for trial in trials:
        is_met = all(excess <= 0 for excess in trial.constraints.values())
        kind = violating if not is_met else complete if trial.state == TrialState.COMPLETE else pruned
        kind.append(trial)
    signs = np.array([-1.0 if each == StudyDirection.MAXIMIZE else 1.0 for each in directions])
    values = np.array([trial.values for trial in complete], dtype=float).reshape(len(complete), len(signs))
    found = [complete[place] for place in _by_front(signs * values, num)]
    pruned.sort(key=lambda trial: _pruned_rank(trial, float(signs[0])))
    violating.sort(key=lambda trial: sum(max(0.0, excess) for excess in trial.constraints.values()))
    return [*found, *pruned, *violating][:num]


def _by_front(losses: np.ndarray, num: int) -> list[int]:
    """Return at most ``num`` rows of ``losses[N, objectives]`` (lower is better), from the first Pareto fronts on.

    If the last front does not fit as a whole, its rows are sampled evenly along the first objective.
    """
    if losses.shape[1] == 1:
        return np.argsort(losses[:, 0], kind="stable")[:num].tolist()
    found: list[int] = []
    left = np.arange(len(losses))
    while len(left) and len(found) < num:
        each = losses[left]
        # Both are [N, N]: whether the column is no worse, or better in some objective, than the row.
        no_worse = (each[None, :] <= each[:, None]).all(axis=-1)
        better = (each[None, :] < each[:, None]).any(axis=-1)
        is_dominated = (no_worse & better).any(axis=-1)
        front = left[~is_dominated]
        front = front[np.argsort(losses[front, 0], kind="stable")]
        room = min(num - len(found), len(front))
        found += front[np.linspace(0, len(front) - 1, room).round().astype(int)].tolist()
        left = left[is_dominated]
    return found


def _pruned_rank(trial: FrozenTrial, sign: float) -> tuple[float, float]:
    if not trial.intermediate_values:
        return (1.0, 0.0)
    step, value = max(trial.intermediate_values.items())
    return (-step, sign * value)
