"""The searcher: an Optuna study that Tune asks and tells, in the trials' order so that a seed repeats a search."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from ..config import Constraint, Objective, SearchConfig
from ..parameters import Parameter, as_category
from ..space.space import draw
from ..space.students import student_name
from ..trial_record import counted, counts, trial_name

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial
    from ray.tune.experiment import Trial as TuneTrial

restored_searchers: list[StudySearcher] = []
"""Those that Tune has just restored, and that have not met its trials yet."""


def side_by_side(config: SearchConfig, num_slots: int) -> int:
    """How many of the search's trials run at a time where the resources hold ``num_slots``.

    TPE learns only from trials that have ended. Unless ``max_concurrent_trials`` says otherwise, it is given
    the time: at most a quarter of the trials, and 2 at least, run side by side. Without a modelled trial there
    is nothing to wait for.
    """
    if config.max_concurrent_trials is not None:
        return min(config.max_concurrent_trials, num_slots)
    modelled = config.num_trials > config.num_startup_trials
    return min(num_slots, max(2, config.num_trials // 4)) if modelled else num_slots


def window_of(num_trials: int, num_side_by_side: int) -> int:
    """The window of a search: half as many again as run side by side, but no more than half of all trials.

    More would leave TPE blind, fewer than run side by side would leave resources idle, and with no room at all
    every suggestion would wait for the slowest trial.
    """
    roomy = num_side_by_side + num_side_by_side // 2
    return max(num_side_by_side, min(roomy, num_trials // 2))


class StudySearcher(Searcher):
    """TPE whose suggestion number n knows the results of trials 0 … n - ``window``, never of later ones.

    Trials that run side by side end in an order that differs between runs. Telling Optuna as they end would
    make every suggestion after the random ones depend on that order; telling it in the trials' own order,
    with a window, makes suggestion n a function of the seed and the results alone. Trials inside the window
    count as running for TPE ("constant liar"). A suggestion waits for a trial that is too far behind.

    The study stays in memory, and Tune's snapshots hold it: with a stored one, a search whose driver was killed
    cannot be restored. A trial that was stopped early is told as pruned, with its curve as intermediate
    values; one that failed, as failed. A trial's values are those of the epoch that is best in the first
    objective, of those that count.

    Args:
        space: The parameters by argument name; at least one is searched.
        objectives: What is optimised; the first decides which epoch of a trial counts.
        constraints: Bounds that TPE prefers to keep.
        student_metrics: By the name of a student (``student_name``): metrics that its trials share.
        seed: Seed of the sampler.
        num_trials: How many suggestions there are.
        num_startup_trials: Random trials before TPE begins.
        window: See above; 1 tells every result before the next suggestion.
        max_concurrent: Most trials at a time; also keeps Tune from asking before a trial can start.
        points: Values to try first.
        known: Trials of a former search to learn from.
    """

    def __init__(
        self,
        space: Mapping[str, Parameter],
        *,
        objectives: list[Objective],
        constraints: list[Constraint] | None = None,
        student_metrics: Mapping[str, Mapping[str, float]] | None = None,
        seed: int,
        num_trials: int,
        num_startup_trials: int,
        window: int,
        max_concurrent: int,
        points: list[dict[str, Any]] | None = None,
        known: list[FrozenTrial] | None = None,
    ) -> None:
        import optuna

        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = dict(space)
        self._objectives = objectives
        self._constraints = constraints or []
        self._student_metrics = dict(student_metrics or {})
        # Optuna counts results; of the random trials so many are told when the first modelled one is asked for.
        sampler = optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=max(1, num_startup_trials - window + 1),
            constant_liar=True,
        )
        self.study = optuna.create_study(directions=[each.direction for each in objectives], sampler=sampler)
        self.study.add_trials(known or [])
        for point in points or []:
            self.study.enqueue_trial({name: as_category(value) for name, value in point.items()})
        self._num_trials = num_trials
        self._num_startup_trials = num_startup_trials
        self._window = window
        self._max_concurrent = max_concurrent
        self._asked: dict[str, Trial] = {}
        self._order: list[str] = []
        self._numbers: dict[str, int] = {}
        self._arguments: list[dict[str, Any]] = []
        self._lost: list[int] = []
        self._foreign: set[str] = set()
        self._reported: dict[str, dict[str, Any]] = {}
        self._curves: dict[str, list[list[float]]] = {}
        self._ended: dict[str, str] = {}
        self._num_told = 0

    def suggest(self, trial_id: str) -> Any:
        """Return ``{"number": int, "arguments": {name: value}}`` of the next trial.

        None: ask again later; ``Searcher.FINISHED``: there are no more, and all have ended. Said earlier, a snapshot
        that holds it but not the last trials could never ask for them again.
        """
        if self._lost:
            return self._again(self._lost.pop(0), trial_id)
        number = len(self._order)
        if number >= self._num_trials:
            return Searcher.FINISHED if len(self._ended) >= number else None
        if number - len(self._ended) >= self._max_concurrent:
            return None
        if number >= self._num_startup_trials and not self._tell(number - self._window + 1):
            return None
        self._ask(trial_id)
        return {"number": number, "arguments": self._arguments[number]}

    def _ask(self, trial_id: str) -> None:
        trial = self.study.ask()
        self._asked[trial_id] = trial
        self._numbers[trial_id] = len(self._order)
        self._order.append(trial_id)
        self._arguments.append(draw(trial, self._space))

    def _again(self, number: int, trial_id: str) -> dict[str, Any]:
        """Suggest once more what was suggested to a trial that Tune has forgotten."""
        forgotten = self._order[number]
        self._order[number] = trial_id
        for kept in (self._ended, self._reported, self._curves):
            kept.pop(forgotten, None)
        self._numbers[trial_id] = self._numbers.pop(forgotten)
        if forgotten in self._asked:
            self._asked[trial_id] = self._asked.pop(forgotten)
        return {"number": number, "arguments": self._arguments[number]}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Remember the best epoch; Optuna is told when the trial has ended and its turn has come."""
        if result.get("failure"):
            self._ended[trial_id] = "failed"
            return
        first = self._objectives[0]
        better = 1 if first.mode == "max" else -1
        best = self._reported.get(trial_id)
        rank = (counts(result), better * result[first.metric])
        if best is None or rank >= (best.get("counts", True), better * best[first.metric]):
            names = {each.metric for each in (*self._objectives, *self._constraints)}
            shared = self._student_metrics.get(student_name(self._arguments[self._numbers[trial_id]]), {})
            found = {name: result[name] for name in names - set(shared)} | dict(shared)
            self._reported[trial_id] = {**found, "counts": counts(result)}
        self._curves[trial_id] = result.get("curve", [])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Remember how the trial ended."""
        if self._ended.get(trial_id) == "failed":
            return
        stopped = result is not None and result.get("progress", 1.0) < 1
        if result is not None and stopped and not error:  # Tune told the scheduler only
            self.on_trial_result(trial_id, result)
        self._ended[trial_id] = "failed" if error else "pruned" if stopped else "finished"

    def _tell(self, num_trials: int) -> bool:
        """Tell Optuna of the first ``num_trials`` trials in order; False when one of them has not ended."""
        while self._num_told < num_trials:
            trial_id = self._order[self._num_told]
            if trial_id not in self._ended:
                return False
            self._tell_one(trial_id)
            self._num_told += 1
        return True

    def _tell_one(self, trial_id: str) -> None:
        from optuna.trial import TrialState

        trial, metrics = self._asked.pop(trial_id), self._reported.pop(trial_id, None)
        curve = self._curves.pop(trial_id, [])
        trial.set_user_attr("trial_id", trial_name(self._numbers[trial_id]))
        if metrics is None or self._ended[trial_id] == "failed" or trial_id in self._foreign:
            self.study.tell(trial, state=TrialState.FAIL)
            return
        for constraint in self._constraints:
            trial.set_constraint(str(constraint), constraint.excess(metrics))
        if self._ended[trial_id] == "pruned":
            for progress, value in curve if len(self._objectives) == 1 else []:
                trial.report(value, round(100 * progress))
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, [metrics[each.metric] for each in self._objectives])

    def save(self, checkpoint_path: str) -> None:
        """Write the state for Tune's snapshot."""
        Path(checkpoint_path).write_bytes(pickle.dumps(self.__dict__))

    def restore(self, checkpoint_path: str) -> None:
        """Take up a state that ``save`` wrote; from storage that you trust."""
        self.__dict__.update(pickle.loads(Path(checkpoint_path).read_bytes()))
        restored_searchers.append(self)

    def reconcile(self, trials: Iterable[TuneTrial]) -> None:
        """Agree with the trials that Tune has restored.

        The files of a snapshot are written one after the other: after a kill or on a full disk the searcher's
        may be older or newer than that of the trials.
        """
        known = {trial.trial_id: trial for trial in trials}
        self._lost = []
        for trial in sorted(known.values(), key=lambda each: each.config["number"]):
            if trial.trial_id not in self._numbers:
                self._adopt(trial)
            if trial.status in ("TERMINATED", "ERROR"):
                self._hear_of_end(trial)
            elif trial.trial_id in self._asked:  # it failed, and is tried again
                self._ended.pop(trial.trial_id, None)
        for number, trial_id in enumerate(self._order):
            if trial_id not in known:
                self._ended.pop(trial_id, None)
                self._lost.append(number)

    def _adopt(self, trial: TuneTrial) -> None:
        """Take a trial for our own that a later state than this one suggested."""
        number, arguments = trial.config["number"], trial.config["arguments"]
        if number < len(self._order):
            self._again(number, trial.trial_id)
        else:
            self._tell(max(0, number - self._window + 1))
            self._ask(trial.trial_id)
        if self._arguments[number] != arguments:  # then Optuna is not to learn from what it did not suggest
            self._arguments[number] = arguments
            self._foreign.add(trial.trial_id)

    def _hear_of_end(self, trial: TuneTrial) -> None:
        """Catch up with a trial whose end this state does not know."""
        last, first = trial.last_result or {}, self._objectives[0]
        if trial.trial_id in self._ended:
            return
        if last.get("failure"):
            self.on_trial_result(trial.trial_id, last)
        elif last.get("curve"):
            values = counted(last) or [value for _, value in last["curve"]]
            best = (max if first.mode == "max" else min)(values)
            self.on_trial_result(trial.trial_id, {**last, first.metric: best})
        self.on_trial_complete(trial.trial_id, last, trial.status == "ERROR")
