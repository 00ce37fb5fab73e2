"""The search: Ray Tune with an Optuna searcher, started, or taken up where it was interrupted."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import RunFailedError, StorageError
from ..storage.retry import retrying
from ..storage.store import Store
from ..training.config import TrainingConfig
from .config import SearchConfig
from .inputs import TrialInputs, TrialSettings

if TYPE_CHECKING:
    from ray import tune

    from .progress import SearchProgress
    from .results import SearchOutcome

__all__ = ["RAY_WORKER_ENV", "TrialInputs", "run_search"]

logger = logging.getLogger(__name__)

# Environment of the workers, for `ray.init(runtime_env={"env_vars": RAY_WORKER_ENV})`.
RAY_WORKER_ENV = {
    # Actors go from trial to trial, which saves the import of torch; a trial's thread may take its time to
    # leave.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

_DRIVER_ENV = {
    # A snapshot after every checkpoint is wanted: less is lost when the driver is killed.
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Of Tune's two ways to print, the old one is silent when told so; the new one prints a box and a path.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Trials write their own event files; of Tune's loggers only the JSON one is needed, and given by name.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}

_TRIAL_ID = re.compile(r"[0-9a-f]{8}|[0-9a-f]{5}_[0-9]{5}")


def run_search(
    config: SearchConfig,
    training: TrainingConfig,
    inputs: TrialInputs,
    *,
    store: Store,
    experiment: str,
    tensorboard: str,
    logs: str,
    cpus_per_trial: float,
    gpus_per_trial: float,
    on_progress: Callable[[SearchProgress], None] | None = None,
    check_resources: bool = True,
) -> SearchOutcome:
    """Run every trial on the Ray that is connected, and return what they found.

    The same seed gives the same suggestions: exactly when as many trials run side by side as before (see
    ``OrderedOptunaSearch``) and training itself repeats. When every value is fixed one trial runs, whatever
    ``num_trials`` says. An ``experiment`` that holds an unfinished search is taken up again, by any driver on
    any cluster that reaches the store; one that holds a finished search is only read. It is unpickled, so it
    must come from a place that you trust.

    Args:
        config: What to search.
        training: Arguments that are not searched.
        inputs: Texts and logits, put into Ray's object store once, and the keys of the models.
        store: Where everything is kept; every node must reach it.
        experiment: Key of Tune's folder.
        tensorboard: Key of the event files; one run a trial, named after it.
        logs: Key of the trials' logs, each named after its trial.
        cpus_per_trial: CPUs of a trial; also its threads, rounded down, at least 1.
        gpus_per_trial: GPUs of a trial, may be a fraction; 0 trains on the CPU.
        on_progress: Called at each start, epoch and end of a trial, in this process.
        check_resources: Refuse a trial that no node can hold; False where nodes come when they are needed.

    Raises:
        ConfigError: The space names no training argument, or a value that it does not take.
        RunFailedError: No node can hold a trial, or all trials failed.
        StorageError: The storage did not answer for as long as it is tried; calling again goes on.
        KeyboardInterrupt: The search was interrupted; its state is saved, and calling again goes on.
    """
    from .checkpoints import keep_best_and_last
    from .results import collect
    from .space import check_space, distributions
    from .tensorboard import mark_failed, write_experiment

    check_space(config, training)
    num_trials = config.num_trials if distributions(config) else 1
    if check_resources:
        _check_resources(cpus_per_trial, gpus_per_trial)
    write_experiment(store, tensorboard, config.space)
    settings = TrialSettings(
        training=training,
        metric=config.metric,
        mode=config.mode,
        store=store,
        experiment=experiment,
        tensorboard=tensorboard,
        logs=logs,
        num_threads=max(1, int(cpus_per_trial)),
        use_gpu=gpus_per_trial > 0,
    )
    resources = {"cpu": cpus_per_trial, "gpu": gpus_per_trial}
    num_slots = _num_slots(resources) if check_resources else num_trials
    trainable = _trainable(inputs, settings, resources)
    grid = _fit(config, trainable, settings, num_trials, num_slots, on_progress)
    num_ended = grid.num_terminated + grid.num_errors
    if num_ended < num_trials:
        raise KeyboardInterrupt(f"the search was interrupted with {num_ended} of {num_trials} trials done")
    known = {PurePosixPath(result.path).name: result for result in grid}
    for trial_id, result in known.items():
        keep_best_and_last(store, f"{experiment}/{trial_id}", config.metric, config.mode)
        if result.error is not None:
            mark_failed(store, f"{tensorboard}/{trial_id}")
    for parent in (experiment, tensorboard, logs):
        _remove_forgotten(store, parent, set(known))
    return collect(grid, store, experiment, config.metric, config.mode)


def _fit(
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

    fill_gaps(store, experiment)

    def operation() -> tune.Tuner:
        return tune.Tuner.restore(
            store.at(experiment),
            trainable=trainable,
            # What failed by a lost worker or a full disk, which may be repaired by now.
            resume_errored=True,
            storage_filesystem=store.filesystem,
        )

    return retrying(operation, f"{store}, {experiment}", store.retry_s)


def _new_tuner(
    config: SearchConfig, trainable: Any, store: Store, experiment: str, num_trials: int, num_slots: int
) -> tune.Tuner:
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    from .progress import ProgressCallback

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
                storage_filesystem=store.filesystem,
                verbose=0,
                callbacks=[JsonLoggerCallback(), ProgressCallback(num_trials, config.metric, config.mode)],
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


def _trainable(inputs: TrialInputs, settings: TrialSettings, resources: dict[str, float]) -> Any:
    from ray import tune

    from .trial import run_trial

    shared = tune.with_parameters(run_trial, inputs=_in_memory(inputs), settings=settings)
    return tune.with_resources(shared, resources)


def _in_memory(inputs: TrialInputs) -> TrialInputs:
    """Plain arrays in place of memory-mapped ones: only they are shared by the object store uncopied."""
    import numpy as np

    def plain(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else np.asarray(array)

    return replace(
        inputs,
        train_logits=plain(inputs.train_logits),
        validation_logits=None,
    )


def _trial_dirname(trial: Any) -> str:
    return trial.trial_id


def _can_restore(store: Store, experiment: str) -> bool:
    """Whether a snapshot exists; a search that was killed before its first one holds nothing."""
    names = store.names(experiment)
    return "tuner.pkl" in names and any(fnmatch(name, "experiment_state-*.json") for name in names)


def _num_slots(resources: dict[str, float]) -> int:
    import ray

    have = ray.cluster_resources()
    return max(1, min(int(have.get(key.upper(), 0) / value) for key, value in resources.items() if value))


def _check_resources(cpus: float, gpus: float) -> None:
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        return
    largest = max((node.get("CPU", 0) for node in nodes), default=0)
    most_gpus = max((node.get("GPU", 0) for node in nodes), default=0)
    raise RunFailedError(
        f"a trial needs {cpus:g} CPUs and {gpus:g} GPUs on one node; the largest node has {largest:g} CPUs "
        f"and {most_gpus:g} GPUs; lower resources.trial"
    )


def _remove_forgotten(store: Store, parent: str, known: set[str]) -> None:
    """Delete what trials left that began after the last snapshot before a kill; others took their place."""
    for name in store.names(parent):
        if _TRIAL_ID.fullmatch(name) and name not in known:
            store.delete(f"{parent}/{name}")


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
    talkative = logging.getLogger("ray.tune")
    level = talkative.level
    if not logger.isEnabledFor(logging.DEBUG):
        talkative.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        talkative.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
