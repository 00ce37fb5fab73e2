"""Run or resume a search: Ray Tune with an Optuna searcher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from ...errors import ConfigError, shown
from ...progress import ReportProgress
from ...storage.store import Store
from ...training.distillation.config import TrainingConfig
from ..config import SearchConfig
from ..trial.inputs import TrialInputs, TrialSettings
from ..trial.packing import AUTO
from ..trial_record import TrialRecord, is_trial_name
from .nodes import RAY_WORKER_ENV, check_fits, num_places

if TYPE_CHECKING:
    from ...training.data.tokenized import LabelledSplit
    from .collect import SearchOutcome
    from .experiment import SearchEnd, SearchSetup

__all__ = ["RAY_WORKER_ENV", "TrialInputs", "run_search"]


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
    gpus_per_trial: float | Literal["auto"],
    custom_per_trial: dict[str, float] | None = None,
    processes_per_trial: int = 1,
    measure_packing: bool = False,
    mps: Mapping[str, str] | None = None,
    checkpoint_every_s: float = 0.0,
    known: list[TrialRecord] | None = None,
    journal: str | None = None,
    report: ReportProgress | None = None,
    check_resources: bool = True,
) -> SearchOutcome:
    """Run every trial of a search on the connected Ray, and return the outcome.

    The same seed gives the same suggestions, provided that as many trials run in parallel as before (see
    ``StudySearcher``) and that training itself is reproducible. If every value is fixed, one trial runs, whatever
    ``num_trials`` is. An ``experiment`` with an unfinished search is resumed, by any driver on any cluster that
    reaches the store; one with a finished search is only read. Its files are unpickled, so they must come from a
    trusted place; in a directory, files of other users are rejected.

    Args:
        config: The ``search`` section.
        training: Arguments that are not searched.
        inputs: Texts and logits, put into Ray's object store once, and the keys of the models.
        store: The run store; every node must reach it.
        experiment: Key of Tune's folder.
        tensorboard: Key of the event files; one TensorBoard run per trial, named after it.
        logs: Key of the trials' logs, each named after its trial.
        cpus_per_trial: CPUs of a trial; rounded down, and at least 1, also its threads.
        gpus_per_trial: GPUs of a trial, possibly a fraction; 0 trains on the CPU; ``auto`` packs as many trials on a
            GPU as its memory and the CPUs of its node allow.
        custom_per_trial: Ray's custom resources of a trial, by name.
        processes_per_trial: Data-parallel processes of a trial; each takes the resources above.
        measure_packing: With ``gpus_per_trial: auto``, also measure how many parallel trials are fastest.
        mps: Directory of the Multi-Process Service of each node that has one, by the node's id.
        checkpoint_every_s: Seconds after which an epoch gets a checkpoint even if it is not the best; 0: every epoch.
        known: Trials of an earlier search for a warm start, accepted by ``warm_start.check_fits``.
        journal: Key of an Optuna journal of the trials that have ended; None writes none.
        report: Called at each start, epoch and end of a trial, in this process; the values are those of
            ``SearchProgress``.
        check_resources: Reject a trial that no node can run; False if nodes are added on demand.

    Raises:
        ConfigError: The space has an unknown argument or a value that is not accepted, or no node can run a trial.
        RunFailedError: All trials failed, or more than allowed.
        StorageError: The storage did not respond to any retry; call again to resume.
        KeyboardInterrupt: The search was interrupted and its state is saved; call again to resume.
    """
    from ..space.batches import check_batches
    from ..space.space import THRESHOLD_METRIC, key_that_names, named_metrics, searched
    from ..space.students import without_misfits
    from ..space.validation import check_space
    from ..trial.events import write_experiment
    from .experiment import SearchSetup, run_trials
    from .gpu_sharing import heaviest_trials, largest_batch, share_gpus
    from .mirroring import mirrored

    check_space(config, training, task=inputs.task, metric=inputs.metric)
    key = None if inputs.has_threshold else key_that_names(THRESHOLD_METRIC, config)
    if key is not None:
        raise ConfigError(f"{key}: {shown(THRESHOLD_METRIC)} given, but there is no out-of-scope threshold")
    check_batches(config, training, processes_per_trial)
    config = without_misfits(config, inputs.students)
    num_trials = config.num_trials if searched(config) else 1
    if gpus_per_trial == AUTO and processes_per_trial > 1:
        gpus_per_trial = 1.0  # each process has one of its own
    if check_resources:
        gpus = 1.0 if gpus_per_trial == AUTO else gpus_per_trial
        needs = {"CPU": cpus_per_trial, "GPU": gpus, **(custom_per_trial or {})}
        check_fits("resources.trial", needs, processes_per_trial)
    also = tuple(named_metrics(config, inputs.task))
    goals = (inputs.goal, *also)
    write_experiment(
        store, tensorboard, config.space, inputs.task, goals, with_threshold=inputs.has_threshold
    )
    settings = TrialSettings(
        training=training,
        metric=config.metric,
        mode=config.mode,
        store=store,
        experiment=experiment,
        tensorboard=tensorboard,
        logs=logs,
        num_threads=max(1, int(cpus_per_trial)),
        use_gpu=gpus_per_trial == AUTO or gpus_per_trial > 0,
        num_processes=processes_per_trial,
        also=also,
        checkpoint_every_s=checkpoint_every_s,
        mps=(mps or {}) if processes_per_trial == 1 else {},
    )
    if gpus_per_trial == AUTO or 0 < gpus_per_trial < 1:
        packing = share_gpus(
            gpus_per_trial,
            heaviest_trials(config, training),
            inputs,
            settings,
            cpus_per_trial,
            largest_batch(config, training),
            measure_throughput=measure_packing,
        )
        gpus_per_trial, settings = packing.gpus, replace(settings, gpu_share=packing.memory_share)
    resources = {"cpu": cpus_per_trial, "gpu": gpus_per_trial, **(custom_per_trial or {})}
    num_slots = _num_slots(resources, processes_per_trial) if check_resources else num_trials
    setup = SearchSetup(config, settings, num_trials, num_slots, inputs.students, known or [])
    trainable = _trainable(inputs, settings, resources)
    with mirrored(setup, journal) as mirror:
        ended = run_trials(setup, trainable, report, mirror.trial_ended)
        if ended.num_ended < num_trials and ended.ended_by is None:
            raise KeyboardInterrupt("the search was interrupted; its state is saved")
        outcome = _clean_up(ended, setup)
        mirror.rewrite(outcome.trials)
    return outcome


def _clean_up(ended: SearchEnd, setup: SearchSetup) -> SearchOutcome:
    """Remove leftovers of interrupted attempts from the store, and collect the outcome."""
    from ..trial.checkpoints import thin_out
    from ..trial.events import mark_ended
    from .collect import collect

    settings, config = setup.settings, setup.config
    known = {PurePosixPath(result.path).name: result for result in ended.grid}
    for trial_id, result in known.items():
        thin_out(
            settings.store,
            f"{settings.experiment}/{trial_id}",
            config.metric,
            config.mode,
            ended=result.error is None,
        )
        stopped = (result.metrics or {}).get("progress", 1.0) < 1
        if result.error is not None or stopped:
            status = "failure" if result.error is not None else "success"
            mark_ended(settings.store, f"{settings.tensorboard}/{trial_id}", status)
    for parent in (settings.experiment, settings.tensorboard, settings.logs):
        _remove_stale(settings.store, parent, set(known))
    return collect(ended, setup)


def _trainable(inputs: TrialInputs, settings: TrialSettings, resources: dict[str, float]) -> Any:
    from ray import tune

    from ..trial.ranks import SharedInputs
    from ..trial.run import run_trial

    given = _in_memory(inputs)
    if settings.num_processes == 1:
        return tune.with_resources(
            tune.with_parameters(run_trial, inputs=given, settings=settings), resources
        )
    shared = tune.with_parameters(run_trial, inputs=SharedInputs.put(given), settings=settings)
    bundles = [dict(placement_resources(resources)) for _ in range(settings.num_processes)]
    return tune.with_resources(shared, tune.PlacementGroupFactory(bundles, strategy="PACK"))


def _in_memory(inputs: TrialInputs) -> TrialInputs:
    """Replace memory-mapped arrays with plain ones, which the object store shares without a copy.

    All kinds of students share the logits of texts, since they have the same texts in the same order. Logits of tokens
    are not shared, since each kind has tokens of its own.
    """
    import numpy as np

    from ...training.ragged import Ragged

    logits = {
        kind: np.asarray(split.teacher_logits)
        for kind, split in inputs.train.items()
        if isinstance(split.teacher_logits, np.ndarray)
    }

    def plain(kind: str, split: LabelledSplit) -> LabelledSplit:
        given = split.teacher_logits
        if isinstance(given, Ragged):
            return replace(split, teacher_logits=given.like(np.asarray(given.values)))
        return replace(split, teacher_logits=logits.get(kind))

    def in_memory(train: dict[str, LabelledSplit]) -> dict[str, LabelledSplit]:
        return {kind: plain(kind, split) for kind, split in train.items()}

    respelled = {kind: replace(each, train=in_memory(each.train)) for kind, each in inputs.respelled.items()}
    return replace(inputs, train=in_memory(inputs.train), respelled=respelled)


def placement_resources(resources: dict[str, float]) -> dict[str, float]:
    """Return resources under the names that a placement group uses."""
    names = {"cpu": "CPU", "gpu": "GPU"}
    return {names.get(name, name): value for name, value in resources.items() if value}


def _num_slots(resources: dict[str, float], num_processes: int) -> int:
    import ray

    needs = {name: value * num_processes for name, value in placement_resources(resources).items()}
    return max(1, num_places(ray.cluster_resources(), needs))


def _remove_stale(store: Store, parent: str, known: set[str]) -> None:
    """Delete the files of trials that are not part of the ended search."""
    for name in store.names(parent):
        if is_trial_name(name) and name not in known:
            store.delete(f"{parent}/{name}")
