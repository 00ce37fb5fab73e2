"""Tune's experiment: set up anew in the store or restored from it, and run to its end."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from ...errors import RunFailedError, StorageError
from ...storage.environment import environment_set
from ...storage.retry import permanent, reason_of, remedy_for, retrying
from ...storage.store import Store
from ..config import SearchConfig
from ..space.space import fixed_values, searched
from ..space.students import Student
from ..trial.inputs import TrialSettings
from ..trial_record import TrialRecord, is_trial_name, name_of
from .trusted import refuse_untrusted

if TYPE_CHECKING:
    from ray import tune
    from ray.tune.experiment import Trial

    from ..study.searcher import StudySearcher
    from .progress import SearchProgress, TrialListener, Watch

logger = logging.getLogger(__name__)

_DRIVER_ENV = {
    # Of Tune's two ways to print, the old one is silent when told so; the new one prints a box and a path.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Trials write their own event files; of Tune's loggers only the JSON one is needed, and given by name.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}

_SNAPSHOT_S = 10  # between two snapshots, at least
_ENDED = "ended.json"  # of a search that its budget ended


@dataclass(frozen=True)
class Plan:
    """What a search is to do.

    Attributes:
        config: The ``search`` section.
        settings: The same for every trial.
        num_trials: Trials in all.
        num_slots: How many the resources hold at a time.
        students: What trials with the same student share, by the student's name.
        known: Finished trials of a former search to learn from.
    """

    config: SearchConfig
    settings: TrialSettings
    num_trials: int
    num_slots: int
    students: dict[str, Student] = field(default_factory=dict)
    known: list[TrialRecord] = field(default_factory=list)


@dataclass(frozen=True)
class Ended:
    """How the trials came to their end.

    Attributes:
        grid: Tune's results. After Ctrl-C it calls trials terminated that were cut short.
        num_ended: Trials that came to their own end.
        ended_by: What ended them before all were done; None when nothing did.
        own_end: Names of the trials that had ended by themselves then.
    """

    grid: tune.ResultGrid
    num_ended: int
    ended_by: str | None = None
    own_end: frozenset[str] = frozenset()


def run_trials(
    plan: Plan,
    trainable: Any,
    on_progress: Callable[[SearchProgress], None] | None,
    on_trial_ended: TrialListener | None = None,
) -> Ended:
    """Let Tune run the trials; what the storage did to them comes out as one StorageError.

    Raises:
        RunFailedError: More trials failed than may.
        StorageError: The storage did not answer, or does not hold what it should.
        PermanentStorageError: What it would be resumed from may be another user's; nothing of it was read.
    """
    from .progress import watching

    store, experiment = plan.settings.store, plan.settings.experiment
    with (
        _environment(plan),
        signals_restored(),
        watching(on_progress, store=store, experiment=experiment, on_trial_ended=on_trial_ended) as watch,
    ):
        grid = None
        while grid is None:
            tuner = _tuner(plan, trainable, watch)
            before = store.read_json(f"{experiment}/{_ENDED}") if watch.restored else None
            if before is not None:
                grid = tuner.get_results()
                return Ended(grid, _num_ended(grid), before["ended_by"], frozenset(before["own_end"]))
            grid = _fit(tuner, store, watch)
    if watch.ended_by is not None:
        ended = {"ended_by": watch.ended_by, "own_end": sorted(watch.own_end)}
        store.write_json(f"{experiment}/{_ENDED}", ended)
    num_ended = _num_ended(grid) if watch.num_ended is None else watch.num_ended
    return Ended(grid, num_ended, watch.ended_by, frozenset(watch.own_end))


def _tuner(plan: Plan, trainable: Any, watch: Watch) -> tune.Tuner:
    """Of the last snapshot, or a new one."""
    store, experiment = plan.settings.store, plan.settings.experiment
    refuse_untrusted(store, experiment)
    watch.restored, watch.goes_on = _can_restore(store, experiment), False
    if watch.restored:
        return _restored_tuner(trainable, store, experiment)
    # A search that was killed before its first snapshot may have begun trials; they go on.
    for name in store.names(experiment):
        if not is_trial_name(name):
            store.delete(f"{experiment}/{name}")
    return _new_tuner(plan, trainable)


def _fit(tuner: tune.Tuner, store: Store, watch: Watch) -> tune.ResultGrid | None:
    """The trials' results; None where the search is to go on from its snapshot."""
    try:
        return tuner.fit()
    except Exception as error:
        if watch.goes_on:
            return None
        if watch.failure is not None:
            raise RunFailedError(watch.failure) from None
        if watch.storage_error is not None:
            raise StorageError(watch.storage_error) from error
        if isinstance(error, OSError):
            if remedy_for(error) is not None:
                raise permanent(error, str(store)) from error
            raise StorageError(
                f"storage {store}: {reason_of(error)}; repair it, then go on with `distiltune resume RUN`"
            ) from error
        raise


def _num_ended(grid: tune.ResultGrid) -> int:
    return grid.num_terminated + grid.num_errors


def _restored_tuner(trainable: Any, store: Store, experiment: str) -> tune.Tuner:
    from ray import tune

    from .whole_files import tune_filesystem

    def operation() -> tune.Tuner:
        return tune.Tuner.restore(
            store.at(experiment),
            trainable=trainable,
            # What failed by a lost worker or a full disk, which may be repaired by now.
            resume_errored=True,
            storage_filesystem=tune_filesystem(store),
        )

    return retrying(operation, f"{store}, {experiment}", store.retry_s)


def _new_tuner(plan: Plan, trainable: Any) -> tune.Tuner:
    from ray import tune

    from ..schedulers.in_turn import scheduler_of
    from .callbacks import EndsWithBudget, ProgressCallback
    from .result_files import ResultFiles
    from .whole_files import tune_filesystem

    config, store, experiment = plan.config, plan.settings.store, plan.settings.experiment
    parent, _, name = experiment.rpartition("/")
    several = plan.settings.num_processes > 1

    def operation() -> tune.Tuner:
        return tune.Tuner(
            trainable,
            param_space={} if _is_searched(config) else {"number": 0, "arguments": fixed_values(config)},
            tune_config=tune.TuneConfig(
                search_alg=_searcher(plan),
                scheduler=scheduler_of(config.scheduler, config.mode),
                # The searcher says when there are no more: it alone knows of those that a kill made Tune forget.
                num_samples=-1 if _is_searched(config) else 1,
                # A process group needs fresh processes.
                reuse_actors=not several,
                trial_dirname_creator=_name_folder,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=store.at(parent),
                storage_filesystem=tune_filesystem(store),
                verbose=0,
                stop=EndsWithBudget(),
                callbacks=[ResultFiles(), ProgressCallback(config, plan.num_trials)],
                failure_config=tune.FailureConfig(max_failures=2),
            ),
        )

    return retrying(operation, f"{store}, {experiment}", store.retry_s)


def _is_searched(config: SearchConfig) -> bool:
    return bool(searched(config))


def _searcher(plan: Plan) -> StudySearcher | None:
    """None when there is nothing to search."""
    from ..study.searcher import StudySearcher, side_by_side, window_of
    from ..study.warm_start import known_trials

    config = plan.config
    if not _is_searched(config):
        return None
    num_side_by_side = side_by_side(config, plan.num_slots)
    return StudySearcher(
        config.space,
        objectives=config.all_objectives,
        constraints=config.constraints,
        student_metrics={name: student.metrics for name, student in plan.students.items()},
        seed=config.seed,
        num_trials=plan.num_trials,
        num_startup_trials=config.num_startup_trials,
        window=window_of(config.num_trials, num_side_by_side),
        max_concurrent=num_side_by_side,
        points=config.points,
        known=known_trials(plan.known, config),
    )


def _can_restore(store: Store, experiment: str) -> bool:
    """Whether a whole snapshot exists; a search that was killed before its first one holds nothing."""
    names = store.names(experiment)
    searchers = [("searcher-state-*.pkl", "search_gen_state-*.json"), ("basic-variant-state-*.json",)]
    return _has(names, "tuner.pkl", "experiment_state-*.json") and any(
        _has(names, *each) for each in searchers
    )


def _has(names: list[str], *patterns: str) -> bool:
    return all(any(fnmatch(name, pattern) for name in names) for pattern in patterns)


def _name_folder(trial: Trial) -> str:
    """Name a trial's folder, here and in the store.

    Left to Tune, the name would get a random suffix where an earlier driver of this machine and Ray had such a trial.
    """
    assert trial.storage is not None
    trial.relative_logdir = trial.storage.trial_dir_name = name_of(trial)
    return trial.relative_logdir


@contextmanager
def _environment(plan: Plan) -> Iterator[None]:
    """Set Tune up in the driver; it prints nothing, since progress and failures are told by us."""
    # Workers start side by side. One at a time, as is Tune's default, a trial that ends before the next
    # worker is up hands over its own and stops the other, so that short trials never run in parallel.
    settings = {
        **_DRIVER_ENV,
        "TUNE_MAX_PENDING_TRIALS_PG": str(plan.num_slots),
        # Every snapshot holds all trials: as many for a search of any size, and what they write grows with it, not
        # with its square. The trials' folders know what the last one does not.
        "TUNE_GLOBAL_CHECKPOINT_S": str(max(_SNAPSHOT_S, plan.num_trials // 20)),
    }
    talkative = [logging.getLogger(name) for name in ("ray.tune", "ray.train")]
    levels = [each.level for each in talkative]
    if not logger.isEnabledFor(logging.DEBUG):
        for each in talkative:
            each.setLevel(logging.CRITICAL)
    try:
        with environment_set(settings):
            yield
    finally:
        for each, level in zip(talkative, levels, strict=True):
            each.setLevel(level)


@contextmanager
def signals_restored() -> Iterator[None]:
    """Put signal handlers back: Tune leaves its own, which would swallow the first Ctrl-C after a search."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = [signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]
    before = {number: signal.getsignal(number) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
