"""Tune's experiment: set up anew in the store or restored from it, and run to its end."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from ..errors import StorageError
from ..storage.retry import retrying
from ..storage.store import Store
from .config import SearchConfig
from .inputs import TrialSettings

if TYPE_CHECKING:
    from ray import tune

    from .progress import SearchProgress

logger = logging.getLogger(__name__)

_DRIVER_ENV = {
    # A snapshot after every checkpoint is wanted: less is lost when the driver is killed.
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Of Tune's two ways to print, the old one is silent when told so; the new one prints a box and a path.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Trials write their own event files; of Tune's loggers only the JSON one is needed, and given by name.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}


def run_trials(
    config: SearchConfig,
    trainable: Any,
    settings: TrialSettings,
    num_trials: int,
    num_slots: int,
    on_progress: Callable[[SearchProgress], None] | None,
) -> tune.ResultGrid:
    """Let Tune run the trials; what the storage did to them comes out as one StorageError."""
    from .progress import watching

    store, experiment = settings.store, settings.experiment
    restored = _can_restore(store, experiment)
    with (
        _environment(num_slots, store.retry_s),
        signals_restored(),
        watching(on_progress, restored=restored, retry_s=store.retry_s) as watch,
    ):
        if restored:
            tuner = _restored_tuner(trainable, store, experiment)
        else:
            store.delete(experiment)
            tuner = _new_tuner(config, trainable, store, experiment, num_trials, num_slots)
        try:
            return tuner.fit()
        except Exception as error:
            if watch.storage_error is not None:
                raise StorageError(watch.storage_error) from error
            if isinstance(error, OSError):
                reason = " ".join(str(error).split())
                raise StorageError(
                    f"storage {store}: {reason}; repair it, then go on with `distiltune resume RUN`"
                ) from error
            raise


def _restored_tuner(trainable: Any, store: Store, experiment: str) -> tune.Tuner:
    from ray import tune

    from .checkpoints import fill_gaps
    from .whole_files import tune_filesystem

    fill_gaps(store, experiment)

    def operation() -> tune.Tuner:
        return tune.Tuner.restore(
            store.at(experiment),
            trainable=trainable,
            # What failed by a lost worker or a full disk, which may be repaired by now.
            resume_errored=True,
            storage_filesystem=tune_filesystem(store),
        )

    return retrying(operation, f"{store}, {experiment}", store.retry_s)


def _new_tuner(
    config: SearchConfig, trainable: Any, store: Store, experiment: str, num_trials: int, num_slots: int
) -> tune.Tuner:
    from ray import tune

    from .progress import ProgressCallback, ResultFiles
    from .whole_files import tune_filesystem

    searcher, param_space = _searcher(config, num_slots)
    parent, _, name = experiment.rpartition("/")

    def operation() -> tune.Tuner:
        return tune.Tuner(
            trainable,
            param_space=param_space,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=num_trials,
                reuse_actors=True,
                trial_dirname_creator=_trial_dirname,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=store.at(parent),
                storage_filesystem=tune_filesystem(store),
                verbose=0,
                callbacks=[ResultFiles(), ProgressCallback(num_trials, config.metric, config.mode)],
                failure_config=tune.FailureConfig(max_failures=2),
                # One to keep, by score, and Tune never deletes the last: the best and the last.
                checkpoint_config=tune.CheckpointConfig(
                    num_to_keep=1,
                    checkpoint_score_attribute=config.metric,
                    checkpoint_score_order=config.mode,
                ),
            ),
        )

    return retrying(operation, f"{store}, {experiment}", store.retry_s)


def _searcher(config: SearchConfig, num_slots: int) -> tuple[Any, dict[str, Any]]:
    """Searcher and ``param_space``; no searcher when there is nothing to search."""
    from .searcher import OrderedOptunaSearch, side_by_side, window_of
    from .space import distributions, fixed_values

    searched, fixed = distributions(config), fixed_values(config)
    if not searched:
        return None, {"number": 0, "arguments": fixed}
    num_side_by_side = side_by_side(config, num_slots)
    searcher = OrderedOptunaSearch(
        searched,
        fixed,
        metric=config.metric,
        mode=config.mode,
        seed=config.seed,
        num_startup_trials=config.num_startup_trials,
        window=window_of(config.num_trials, num_side_by_side),
        max_concurrent=num_side_by_side,
    )
    return searcher, {}


def _can_restore(store: Store, experiment: str) -> bool:
    """Whether a snapshot exists; a search that was killed before its first one holds nothing."""
    names = store.names(experiment)
    return "tuner.pkl" in names and any(fnmatch(name, "experiment_state-*.json") for name in names)


def _trial_dirname(trial: Any) -> str:
    return trial.trial_id


@contextmanager
def _environment(num_slots: int, retry_s: float) -> Iterator[None]:
    """Set Tune up in the driver; it prints nothing, since progress and failures are told by us."""
    # Workers start side by side. One at a time, as is Tune's default, a trial that ends before the next
    # worker is up hands over its own and stops the other, so that short trials never run in parallel.
    settings = {
        **_DRIVER_ENV,
        "TUNE_MAX_PENDING_TRIALS_PG": str(num_slots),
        # Each try begins with a new worker, which takes some seconds.
        "TUNE_RESTORE_RETRY_NUM": str(int(retry_s / 2)),
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    talkative = [logging.getLogger(name) for name in ("ray.tune", "ray.train")]
    levels = [each.level for each in talkative]
    if not logger.isEnabledFor(logging.DEBUG):
        for each in talkative:
            each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for each, level in zip(talkative, levels, strict=True):
            each.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


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
