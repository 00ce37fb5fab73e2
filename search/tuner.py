"""The search: Ray Tune with an Optuna searcher, started, or taken up where it was interrupted."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunFailedError
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
    experiment_dir: Path,
    tensorboard_dir: Path,
    cpus_per_trial: float,
    gpus_per_trial: float,
    on_progress: Callable[[SearchProgress], None] | None = None,
) -> SearchOutcome:
    """Run every trial on the Ray that is connected, and return what they found.

    The same seed gives the same suggestions: exactly when as many trials run side by side as before (see
    ``OrderedOptunaSearch``) and training itself repeats. When every value is fixed one trial runs, whatever
    ``num_trials`` says. An ``experiment_dir`` that holds an unfinished search is taken up again, one that
    holds a finished search is only read; it is unpickled, so it must come from a place that you trust.

    Args:
        config: What to search.
        training: Arguments that are not searched.
        inputs: Texts and logits, put into Ray's object store once.
        experiment_dir: Tune's directory; every node must see it.
        tensorboard_dir: Event files; one run a trial, named after it.
        cpus_per_trial: CPUs of a trial; also its threads, rounded down, at least 1.
        gpus_per_trial: GPUs of a trial, may be a fraction; 0 trains on the CPU.
        on_progress: Called at each start, epoch and end of a trial, in this process.

    Raises:
        ConfigError: The space names no training argument, or a value that it does not take.
        RunFailedError: No node can hold a trial, or all trials failed.
        KeyboardInterrupt: The search was interrupted; its state is saved, and calling again goes on.
    """
    from .checkpoints import keep_best_and_last
    from .progress import listening
    from .results import collect
    from .space import check_space, distributions
    from .tensorboard import mark_failed, write_experiment

    check_space(config, training)
    experiment_dir, tensorboard_dir = experiment_dir.resolve(), tensorboard_dir.resolve()
    num_trials = config.num_trials if distributions(config) else 1
    _check_resources(cpus_per_trial, gpus_per_trial)
    write_experiment(tensorboard_dir, config.space)
    settings = TrialSettings(
        training=training,
        metric=config.metric,
        mode=config.mode,
        experiment_dir=str(experiment_dir),
        tensorboard_dir=str(tensorboard_dir),
        num_threads=max(1, int(cpus_per_trial)),
        use_gpu=gpus_per_trial > 0,
    )
    resources = {"cpu": cpus_per_trial, "gpu": gpus_per_trial}
    num_slots = _num_slots(resources)
    with _environment(num_slots), listening(on_progress):
        trainable = _trainable(inputs, settings, resources)
        if _can_restore(experiment_dir):
            from ray import tune

            _fill_gaps(experiment_dir)
            tuner = tune.Tuner.restore(str(experiment_dir), trainable=trainable)
        else:
            shutil.rmtree(experiment_dir, ignore_errors=True)
            tuner = _new_tuner(config, trainable, experiment_dir, num_trials, num_slots)
        grid = tuner.fit()
    num_ended = grid.num_terminated + grid.num_errors
    if num_ended < num_trials:
        raise KeyboardInterrupt(f"the search was interrupted with {num_ended} of {num_trials} trials done")
    for result in grid:
        trial_dir = Path(result.path)
        keep_best_and_last(trial_dir, config.metric, config.mode)
        if result.error is not None:
            mark_failed(tensorboard_dir / trial_dir.name)
    _remove_forgotten(experiment_dir, tensorboard_dir, {Path(result.path).name for result in grid})
    return collect(grid, config.metric, config.mode)


def _new_tuner(
    config: SearchConfig, trainable: Any, experiment_dir: Path, num_trials: int, num_slots: int
) -> tune.Tuner:
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    from .progress import ProgressCallback

    searcher, param_space = _searcher(config, num_slots)
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
            name=experiment_dir.name,
            storage_path=str(experiment_dir.parent),
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
        student_dir=str(Path(inputs.student_dir).resolve()),
        teacher_dir=None if inputs.teacher_dir is None else str(Path(inputs.teacher_dir).resolve()),
        train_logits=plain(inputs.train_logits),
        validation_logits=None,
    )


def _trial_dirname(trial: Any) -> str:
    return trial.trial_id


def _can_restore(experiment_dir: Path) -> bool:
    """Whether a snapshot exists; a search that was killed before its first one holds nothing."""
    return (experiment_dir / "tuner.pkl").is_file() and any(experiment_dir.glob("experiment_state-*.json"))


def _fill_gaps(experiment_dir: Path) -> None:
    """Make empty directories in the place of checkpoints that were deleted.

    Tune's snapshot may be older than the disk and name a checkpoint that has made room for a later one. Tune
    gives such a trial up; with a directory there the trial starts, sees that it is empty, and takes the later
    one.
    """
    for trial_dir in experiment_dir.iterdir():
        indices = [int(each.name.removeprefix("checkpoint_")) for each in trial_dir.glob("checkpoint_??????")]
        for index in range(max(indices, default=0)):
            (trial_dir / f"checkpoint_{index:06}").mkdir(exist_ok=True)


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


def _remove_forgotten(experiment_dir: Path, tensorboard_dir: Path, known: set[str]) -> None:
    """Delete what trials left that began after the last snapshot before a kill; others took their place."""
    for parent in (experiment_dir, tensorboard_dir):
        for directory in parent.iterdir():
            if directory.is_dir() and _TRIAL_ID.fullmatch(directory.name) and directory.name not in known:
                shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _environment(num_slots: int) -> Iterator[None]:
    """Set Tune up in the driver; it prints nothing, since progress and failures are told by us."""
    # Workers start side by side. One at a time, as is Tune's default, a trial that ends before the next
    # worker is up hands over its own and stops the other, so that short trials never run in parallel.
    settings = {**_DRIVER_ENV, "TUNE_MAX_PENDING_TRIALS_PG": str(num_slots)}
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
