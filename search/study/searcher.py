"""Searcher for Tune: an Optuna study that receives results in the trials' order, which makes a search repeatable."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from ..config import Constraint, Objective, SearchConfig
from ..parameters import Parameter, as_category
from ..samplers.base import Sampler, SamplerInputs
from ..samplers.tpe import Tpe
from ..space.space import by_condition, draw
from ..space.students import agrees, student_name
from ..trial_record import is_selectable, selectable_values, trial_name

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial
    from ray.tune.experiment import Trial as TuneTrial

_POINT = "point"  # user attribute of a trial: the values that the job asks for
restored_searchers: list[StudySearcher] = []
"""Searchers that Tune has restored, and that have not been reconciled with its trials yet."""


def num_parallel_trials(config: SearchConfig, num_slots: int, *, on_gpus: bool = False) -> int:
    """Return how many trials run in parallel if the resources allow ``num_slots``.

    A sampler learns only from trials that have ended. Unless ``max_concurrent_trials`` is set, at most a quarter of
    the trials, but at least 2, run in parallel, so that it has results to learn from. On GPUs at most half of the
    trials do, since idle GPUs cost more than suggestions from fewer results. There is no such limit if the sampler
    learns from no results.
    """
    if config.max_concurrent_trials is not None:
        return min(config.max_concurrent_trials, num_slots)
    startup = config.sampler.num_startup_trials(config.num_startup_trials, config.num_trials)
    modelled = config.num_trials > startup
    share = config.num_trials // (2 if on_gpus else 4)
    return min(num_slots, max(2, share)) if modelled else num_slots


def window_of(num_trials: int, num_parallel: int) -> int:
    """Return the window of a search: 1.5 times the parallel trials, but no more than half of all trials.

    A larger window would leave the sampler without results, and one smaller than the number of parallel trials would
    leave resources idle; with an equal one, every suggestion would wait for the slowest trial.
    """
    preferred = num_parallel + num_parallel // 2
    return max(num_parallel, min(preferred, num_trials // 2))


class StudySearcher(Searcher):
    """Suggest trials; suggestion n uses the results of trials 0 … n - ``window``, never of later ones.

    Parallel trials end in an order that differs between runs. Passing results to Optuna as trials end would make
    every suggestion after the random ones depend on that order; passing them in the trials' own order, with a
    window, makes suggestion n a function of the seed and the results alone. Trials inside the window count as
    running for the sampler. A suggestion waits for a trial that is too far behind, unless the sampler learns nothing
    from results.

    The study is kept in memory and in Tune's snapshots; with a stored study, a search whose driver was killed could
    not be restored. A trial that was stopped early is passed to Optuna as pruned, with its curve as intermediate
    values; a failed trial is passed as failed. A trial's values are those of its best epoch in the first objective,
    among the epochs that can be selected.

    Args:
        space: The parameters by argument name; at least one is searched.
        objectives: The objectives; the first decides which epoch of a trial is its best.
        constraints: Bounds that the sampler prefers to meet.
        student_metrics: Metrics that all trials of a student share, by the student's name (``student_name``).
        students: Arguments of the students that may be suggested, by the student's name; None: every student. Instead
            of another student, the most similar one of these is suggested.
        seed: Seed of the sampler.
        num_trials: Number of suggestions.
        num_startup_trials: Random trials before the sampler models results.
        window: See above; with 1, every result is passed before the next suggestion.
        max_concurrent: Maximum number of parallel trials; also keeps Tune from requesting trials before they can start.
        points: Values to try first.
        known: Trials of an earlier search, for a warm start.
        sampler: The sampler; TPE by default.
    """

    def __init__(
        self,
        space: Mapping[str, Parameter],
        *,
        objectives: list[Objective],
        constraints: list[Constraint] | None = None,
        student_metrics: Mapping[str, Mapping[str, float]] | None = None,
        students: Mapping[str, Mapping[str, Any]] | None = None,
        seed: int,
        num_trials: int,
        num_startup_trials: int,
        window: int,
        max_concurrent: int,
        points: list[dict[str, Any]] | None = None,
        known: list[FrozenTrial] | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        import optuna

        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = dict(space)
        self._objectives = objectives
        self._constraints = constraints or []
        self._student_metrics = dict(student_metrics or {})
        self._students = None if students is None else dict(students)
        self._sampler = Tpe() if sampler is None else sampler
        self._num_startup_trials = self._sampler.num_startup_trials(num_startup_trials, num_trials)
        self.study = self._new_study(seed, num_trials, window)
        for trial in known or []:
            self.study.add_trial(self._sampler.adopted(self._with_every_argument(copy(trial))))
        for point in points or []:
            self._enqueue(point, point)
        self._num_trials = num_trials
        self._window = window
        self._max_concurrent = max_concurrent
        self._suggested: dict[str, Trial] = {}
        self._order: list[str] = []
        self._numbers: dict[str, int] = {}
        self._arguments: list[dict[str, Any]] = []
        self._lost: list[int] = []
        self._foreign: set[str] = set()
        self._reported: dict[str, dict[str, Any]] = {}
        self._curves: dict[str, list[list[float]]] = {}
        self._ended: dict[str, str] = {}
        self._num_passed = 0

    def suggest(self, trial_id: str) -> Any:
        """Return ``{"number": int, "arguments": {name: value}}`` of the next trial.

        None means to ask again later. ``Searcher.FINISHED`` is returned only when all trials have ended, because Tune,
        restored from a snapshot with that state but without the last trials, could never request those again.
        """
        if self._lost:
            return self._suggest_again(self._lost.pop(0), trial_id)
        number = len(self._order)
        if number >= self._num_trials:
            return Searcher.FINISHED if len(self._ended) >= number else None
        if number - len(self._ended) >= self._max_concurrent:
            return None
        if number >= self._num_startup_trials or not self._sampler.learns:
            has_passed = self._pass_results(number - self._window + 1)
            if self._sampler.learns and not has_passed:
                return None
        self._ask(trial_id)
        return {"number": number, "arguments": self._arguments[number]}

    def extend(self, num_trials: int) -> None:
        """Set the total number of suggestions; window and parallel trials stay unchanged."""
        self._num_trials = num_trials

    def _ask(self, trial_id: str) -> None:
        trial, arguments = self._drawn()
        self._suggested[trial_id] = trial
        self._numbers[trial_id] = len(self._order)
        self._order.append(trial_id)
        self._arguments.append(arguments)

    def _drawn(self) -> tuple[Trial, dict[str, Any]]:
        """Draw the arguments of a trial whose student may be suggested.

        A point whose student may not be is tried with the most similar student that has the point's own values.
        """
        from optuna.trial import TrialState

        while True:
            trial = self.study.ask()
            arguments = draw(trial, self._space, every=self._sampler.suggests_every_argument)
            if self._students is None or student_name(arguments) in self._students:
                return trial, arguments
            self.study.tell(trial, state=TrialState.FAIL)
            point = trial.user_attrs.get(_POINT, {})
            students = [each for each in self._students.values() if agrees(each, point)]
            nearest = max(students or self._students.values(), key=lambda each: _num_equal(each, arguments))
            self._enqueue({**point, **nearest}, point)

    def _enqueue(self, values: Mapping[str, Any], point: Mapping[str, Any]) -> None:
        """Let the study try these values before others; ``point`` are those among them that the job asks for."""
        categories = {name: as_category(value) for name, value in values.items()}
        self.study.enqueue_trial(categories, user_attrs={_POINT: dict(point)})

    def _new_study(self, seed: int, num_trials: int, window: int) -> Study:
        import optuna

        from .modelled_trials import ModelledTrials

        inputs = SamplerInputs(
            seed=seed,
            # Optuna counts results: this many have been passed to it when it makes the first suggestion by a model.
            num_results=max(1, self._num_startup_trials - window + 1),
            num_trials=num_trials,
            distributions=self._distributions(),
        )
        most = self._sampler.most_modelled
        return optuna.create_study(
            directions=[each.direction for each in self._objectives],
            sampler=self._sampler.create(inputs),
            storage=None if most is None else ModelledTrials(most),
        )

    def _distributions(self) -> dict[str, BaseDistribution]:
        """Return the distributions of the searched arguments, in the order in which they are drawn."""
        names = by_condition(self._space)
        return {
            name: self._space[name].distribution()
            for name in names
            if self._space[name].single_value() is None
        }

    def _with_every_argument(self, trial: FrozenTrial) -> FrozenTrial:
        """If the sampler needs every argument, give a former trial the first value of each argument that it lacks."""
        if self._sampler.suggests_every_argument:
            for name, distribution in self._distributions().items():
                first = as_category(self._space[name].end_values()[0])
                trial.distributions = {name: distribution, **trial.distributions}
                trial.params = {name: first, **trial.params}
        return trial

    def _suggest_again(self, number: int, trial_id: str) -> dict[str, Any]:
        """Repeat the suggestion of a trial that Tune has lost."""
        lost_id = self._order[number]
        self._order[number] = trial_id
        for kept in (self._ended, self._reported, self._curves):
            kept.pop(lost_id, None)
        self._numbers[trial_id] = self._numbers.pop(lost_id)
        if lost_id in self._suggested:
            self._suggested[trial_id] = self._suggested.pop(lost_id)
        return {"number": number, "arguments": self._arguments[number]}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record the best epoch; it is passed to Optuna in the trials' order, after the trial has ended."""
        if result.get("failure"):
            self._ended[trial_id] = "failed"
            return
        first = self._objectives[0]
        better = 1 if first.mode == "max" else -1
        best = self._reported.get(trial_id)
        rank = (is_selectable(result), better * result[first.metric])
        if best is None or rank >= (best.get("counts", True), better * best[first.metric]):
            names = {each.metric for each in (*self._objectives, *self._constraints)}
            shared = self._student_metrics.get(student_name(self._arguments[self._numbers[trial_id]]), {})
            found = {name: result[name] for name in names - set(shared)} | dict(shared)
            self._reported[trial_id] = {**found, "counts": is_selectable(result)}
        self._curves[trial_id] = result.get("curve", [])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record how the trial ended."""
        if self._ended.get(trial_id) == "failed":
            return
        stopped = result is not None and result.get("progress", 1.0) < 1
        if result is not None and stopped and not error:  # so far only the scheduler got this result
            self.on_trial_result(trial_id, result)
        self._ended[trial_id] = "failed" if error else "pruned" if stopped else "finished"

    def _pass_results(self, num_trials: int) -> bool:
        """Pass the first ``num_trials`` results to Optuna in order; return False if one of the trials has not ended."""
        while self._num_passed < num_trials:
            trial_id = self._order[self._num_passed]
            if trial_id not in self._ended:
                return False
            self._pass_result(trial_id)
            self._num_passed += 1
        return True

    def _pass_result(self, trial_id: str) -> None:
        from optuna.trial import TrialState

        trial, metrics = self._suggested.pop(trial_id), self._reported.pop(trial_id, None)
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
        """Restore a state that ``save`` wrote; only from trusted storage, since it is unpickled."""
        self.__dict__.update(pickle.loads(Path(checkpoint_path).read_bytes()))
        restored_searchers.append(self)

    def reconcile(self, trials: Iterable[TuneTrial]) -> None:
        """Adjust the state to the trials that Tune has restored.

        The files of a snapshot are written one after the other, so after a kill, or on a full disk, the searcher's file
        may be older or newer than that of the trials.
        """
        known = {trial.trial_id: trial for trial in trials}
        self._lost = []
        for trial in sorted(known.values(), key=lambda each: each.config["number"]):
            if trial.trial_id not in self._numbers:
                self._adopt(trial)
            if trial.status in ("TERMINATED", "ERROR"):
                self._complete(trial)
            elif trial.trial_id in self._suggested:  # the trial failed, and is retried
                self._ended.pop(trial.trial_id, None)
        for number, trial_id in enumerate(self._order):
            if trial_id not in known:
                self._ended.pop(trial_id, None)
                self._lost.append(number)

    def _adopt(self, trial: TuneTrial) -> None:
        """Adopt a trial that was suggested after this state was saved."""
        number, arguments = trial.config["number"], trial.config["arguments"]
        if number < len(self._order):
            self._suggest_again(number, trial.trial_id)
        else:
            self._pass_results(max(0, number - self._window + 1))
            self._ask(trial.trial_id)
        if self._arguments[number] != arguments:  # Optuna must not learn from what it did not suggest
            self._arguments[number] = arguments
            self._foreign.add(trial.trial_id)

    def _complete(self, trial: TuneTrial) -> None:
        """Process the end of a trial that is missing from this state."""
        last, first = trial.last_result or {}, self._objectives[0]
        if trial.trial_id in self._ended:
            return
        if last.get("failure"):
            self.on_trial_result(trial.trial_id, last)
        elif last.get("curve"):
            values = selectable_values(last) or [value for _, value in last["curve"]]
            best = (max if first.mode == "max" else min)(values)
            self.on_trial_result(trial.trial_id, {**last, first.metric: best})
        self.on_trial_complete(trial.trial_id, last, trial.status == "ERROR")


def _num_equal(student: Mapping[str, Any], arguments: Mapping[str, Any]) -> int:
    return sum(name in arguments and arguments[name] == value for name, value in student.items())
