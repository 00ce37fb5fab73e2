"""Create Tune's experiment in the store, or restore it, and run it."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from ...errors import RunFailedError, StorageError
from ...progress import ReportProgress
from ...storage.environment import environment_set
from ...storage.retry import permanent, reason_of, remedy_for, retrying
from ...storage.store import Store
from ..config import SearchConfig
from ..space.space import fixed_values, searched
from ..space.students import Student, fitting_students
from ..trial.inputs import TrialSettings
from ..trial_record import TrialRecord, is_trial_name, name_of
from .reopening import ENDED, apply_reopening, trials_cut_short
from .trusted import refuse_untrusted

if TYPE_CHECKING:
    from ray import tune
    from ray.tune.experiment import Trial

    from ..study.searcher import StudySearcher
    from .progress import OnTrialEnded, RunningSearch

logger = logging.getLogger(__name__)

_DRIVER_ENV = {
    # Only Tune's old output can be silenced; the new one always prints a box and a path.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Trials write their own event files; of Tune's loggers only the JSON one is needed, and passed explicitly.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}

_COMPILED = "compile_step"
_SNAPSHOT_S = 10  # minimum time between two snapshots


@dataclass(frozen=True)
class SearchSetup:
    """Inputs of a search.

    Attributes:
        config: The ``search`` section.
        settings: Settings that all trials share.
        num_trials: Total number of trials.
        num_slots: Number of trials that the resources can run in parallel.
        students: The students that trials start from, by name.
        known: Finished trials of an earlier search, for a warm start.
    """

    config: SearchConfig
    settings: TrialSettings
    num_trials: int
    num_slots: int
    students: dict[str, Student] = field(default_factory=dict)
    known: list[TrialRecord] = field(default_factory=list)


@dataclass(frozen=True)
class SearchEnd:
    """State of the trials at the end of a search.

    Attributes:
        grid: Tune's results. After Ctrl-C, interrupted trials are marked as terminated too.
        num_ended: Trials that ended by themselves.
        ended_by: Reason why the search ended before all trials were done; None if it did not.
        ended_before: Names of the trials that had ended by themselves before that.
        cut_short: For trials that a budget ended before the search was reopened, the reason by name; None if the
            search was never reopened.
    """

    grid: tune.ResultGrid
    num_ended: int
    ended_by: str | None = None
    ended_before: frozenset[str] = frozenset()
    cut_short: dict[str, str] | None = None


def run_trials(
    setup: SearchSetup,
    trainable: Any,
    report: ReportProgress | None,
    on_trial_ended: OnTrialEnded | None = None,
) -> SearchEnd:
    """Run the trials with Tune; any storage failure is raised as one StorageError.

    Raises:
        RunFailedError: More trials failed than allowed.
        StorageError: The storage did not respond, or lacks files.
        PermanentStorageError: The files to resume from may have been written by another user; none was read.
    """
    from .progress import search_running

    store, experiment = setup.settings.store, setup.settings.experiment
    with (
        _environment(setup),
        signal_handlers_restored(),
        search_running(
            report, store=store, experiment=experiment, on_trial_ended=on_trial_ended, config=setup.config
        ) as search,
    ):
        grid = None
        while grid is None:
            tuner = _tuner(setup, trainable, search)
            ended = store.read_json(f"{experiment}/{ENDED}") if search.restored else None
            if ended is not None:
                grid = tuner.get_results()
                return SearchEnd(
                    grid,
                    _num_ended(grid),
                    ended["ended_by"],
                    frozenset(ended["ended_before"]),
                    trials_cut_short(store, experiment),
                )
            grid = _fit(tuner, store, search)
    if search.ended_by is not None:
        ended = {"ended_by": search.ended_by, "ended_before": sorted(search.ended_before)}
        store.write_json(f"{experiment}/{ENDED}", ended)
    num_ended = _num_ended(grid) if search.num_ended is None else search.num_ended
    cut_short = trials_cut_short(store, experiment)
    return SearchEnd(grid, num_ended, search.ended_by, frozenset(search.ended_before), cut_short)


def _tuner(setup: SearchSetup, trainable: Any, search: RunningSearch) -> tune.Tuner:
    """Return a tuner restored from the last snapshot, or a new one."""
    store, experiment = setup.settings.store, setup.settings.experiment
    refuse_untrusted(store, experiment)
    search.restored, search.must_restart = _can_restore(store, experiment), False
    if search.restored:
        apply_reopening(store, experiment)
        return _restored_tuner(trainable, store, experiment)
    # A search that was killed before its first snapshot may have started trials; they are resumed.
    for name in store.names(experiment):
        if not is_trial_name(name):
            store.delete(f"{experiment}/{name}")
    return _new_tuner(setup, trainable)


def _fit(tuner: tune.Tuner, store: Store, search: RunningSearch) -> tune.ResultGrid | None:
    """Run the tuner and return the results; None if the search has to restart from its snapshot."""
    try:
        return tuner.fit()
    except Exception as error:
        if search.must_restart:
            return None
        if search.failure is not None:
            raise RunFailedError(search.failure) from None
        if search.storage_error is not None:
            raise StorageError(search.storage_error) from error
        if isinstance(error, OSError):
            if remedy_for(error) is not None:
                raise permanent(error, str(store)) from error
            raise StorageError(
                f"storage {store}: {reason_of(error)}; fix the cause, then resume with `distiltune resume RUN`"
            ) from error
        raise


def _num_ended(grid: tune.ResultGrid) -> int:
    return grid.num_terminated + grid.num_errors


def _restored_tuner(trainable: Any, store: Store, experiment: str) -> tune.Tuner:
    from ray import tune

    from .atomic_files import tune_filesystem

    def operation() -> tune.Tuner:
        return tune.Tuner.restore(
            store.at(experiment),
            trainable=trainable,
            # Retry trials that failed because of a lost worker or a full disk, which may be fixed by now.
            resume_errored=True,
            storage_filesystem=tune_filesystem(store),
        )

    return retrying(operation, f"{store}, {experiment}", store.retry_s)


def _new_tuner(setup: SearchSetup, trainable: Any) -> tune.Tuner:
    from ray import tune

    from ..schedulers.tune_schedulers import scheduler_of
    from .atomic_files import tune_filesystem
    from .callbacks import BudgetStopper, ProgressCallback
    from .result_files import ResultFiles

    config, store, experiment = setup.config, setup.settings.store, setup.settings.experiment
    parent, _, name = experiment.rpartition("/")

    def operation() -> tune.Tuner:
        return tune.Tuner(
            trainable,
            param_space={} if _is_searched(config) else {"number": 0, "arguments": fixed_values(config)},
            tune_config=tune.TuneConfig(
                search_alg=_searcher(setup),
                scheduler=scheduler_of(config.scheduler, config.mode),
                # The searcher ends the search, since only it has the trials that Tune lost when it was killed.
                num_samples=-1 if _is_searched(config) else 1,
                reuse_actors=reuses_processes(setup),
                trial_dirname_creator=_name_folder,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=store.at(parent),
                storage_filesystem=tune_filesystem(store),
                verbose=0,
                stop=BudgetStopper(),
                callbacks=[ResultFiles(), ProgressCallback(config, setup.num_trials)],
                failure_config=tune.FailureConfig(max_failures=2),
            ),
        )

    return retrying(operation, f"{store}, {experiment}", store.retry_s)


def reuses_processes(setup: SearchSetup) -> bool:
    """Return whether a worker process can train several trials, one after the other.

    A process group needs fresh processes. So does a compiled step: Tune trains each trial in a new thread, but before
    torch 2.13 CUDA graphs can be recorded only by the thread that loaded their module, and what earlier trials compiled
    counts towards the maximum number of shapes.
    """
    searched = setup.config.space.get(_COMPILED)
    values = [setup.settings.training.arguments.get(_COMPILED), *(searched.end_values() if searched else ())]
    return setup.settings.num_processes == 1 and not any(values)


def _is_searched(config: SearchConfig) -> bool:
    return bool(searched(config))


def _searcher(setup: SearchSetup) -> StudySearcher | None:
    """Return the searcher, or None if there is nothing to search."""
    from ..study.searcher import StudySearcher, num_parallel_trials, window_of
    from ..study.warm_start import known_trials

    config = setup.config
    if not _is_searched(config):
        return None
    num_parallel = num_parallel_trials(config, setup.num_slots, on_gpus=setup.settings.use_gpu)
    return StudySearcher(
        config.space,
        objectives=config.all_objectives,
        constraints=config.constraints,
        student_metrics={name: student.metrics for name, student in setup.students.items()},
        students=fitting_students(config, setup.students) if setup.students else None,
        seed=config.seed,
        num_trials=setup.num_trials,
        num_startup_trials=config.num_startup_trials,
        window=window_of(config.num_trials, num_parallel),
        max_concurrent=num_parallel,
        points=config.points,
        known=known_trials(setup.known, config),
        sampler=config.sampler,
    )


def _can_restore(store: Store, experiment: str) -> bool:
    """Return whether a complete snapshot exists; there is none if the search was killed before its first one."""
    names = store.names(experiment)
    searchers = [("searcher-state-*.pkl", "search_gen_state-*.json"), ("basic-variant-state-*.json",)]
    return _has(names, "tuner.pkl", "experiment_state-*.json") and any(
        _has(names, *each) for each in searchers
    )


def _has(names: list[str], *patterns: str) -> bool:
    return all(any(fnmatch(name, pattern) for name in names) for pattern in patterns)


def _name_folder(trial: Trial) -> str:
    """Name a trial's folder, on this machine and in the store.

    Tune would add a random suffix if an earlier driver had a trial of that name on this machine and Ray instance.
    """
    assert trial.storage is not None
    trial.relative_logdir = trial.storage.trial_dir_name = name_of(trial)
    return trial.relative_logdir


@contextmanager
def _environment(setup: SearchSetup) -> Iterator[None]:
    """Configure Tune in the driver; it prints nothing, since distiltune reports progress and failures."""
    # Start workers in parallel. With Tune's default of one at a time, a trial that ends before the next worker
    # is ready hands over its own worker and stops the other, so short trials never run in parallel.
    settings = {
        **_DRIVER_ENV,
        "TUNE_MAX_PENDING_TRIALS_PG": str(setup.num_slots),
        # Every snapshot holds all trials. With a limited number of snapshots, the bytes written grow linearly with
        # the number of trials, not quadratically. Results since the last snapshot are in the trials' folders.
        "TUNE_GLOBAL_CHECKPOINT_S": str(max(_SNAPSHOT_S, setup.num_trials // 20)),
    }
    verbose_loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train")]
    levels = [each.level for each in verbose_loggers]
    if not logger.isEnabledFor(logging.DEBUG):
        for each in verbose_loggers:
            each.setLevel(logging.CRITICAL)
    try:
        with environment_set(settings):
            yield
    finally:
        for each, level in zip(verbose_loggers, levels, strict=True):
            each.setLevel(level)


@contextmanager
def signal_handlers_restored() -> Iterator[None]:
    """Restore signal handlers: Tune leaves its own, which would swallow the first Ctrl-C after a search."""
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
