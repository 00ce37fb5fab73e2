"""The state of a search in its store, during the search and after it."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job import JOURNAL
from stored_searches import KEYS, LOGGED_EPOCH

from distiltune.search.trial.checkpoints import find_checkpoint, saved_epochs
from distiltune.search.trial_record import is_trial_name
from distiltune.storage.logs import read_log
from distiltune.storage.store import Store

ACCURACY = "validation/accuracy"


def trials_below(store: Store, key: str) -> set[str]:
    """Return the ids of trials with a folder below a key."""
    return {name for name in store.names(key) if is_trial_name(name)}


@dataclass
class Sight:
    """One trial at one moment.

    Attributes:
        saved: The last epoch that must not be trained again; 0 for none.
        measured: How often each step was evaluated, according to the event files.
        logged: How often each epoch is in its log, which lags behind by two seconds.
    """

    saved: int
    measured: Counter[int]
    logged: Counter[int]


def look(store: Store, *, without: str | None = None) -> dict[str, Sight]:
    """Return every trial that has files in the store; ``without`` is a damaged checkpoint.

    If no other checkpoint of its trial can be resumed, the trial starts over.
    """
    for _ in range(20):
        with suppress(FileNotFoundError):  # a checkpoint that was deleted while it was listed
            return _look(store, without)
    return _look(store, without)


def _look(store: Store, without: str | None) -> dict[str, Sight]:
    ids = trials_below(store, KEYS["experiment"]) | trials_below(store, KEYS["tensorboard"])
    saved = {}
    for trial in ids:
        epochs = saved_epochs(store, f"{KEYS['experiment']}/{trial}")
        last = find_checkpoint(each for each in epochs if each.can_be_resumed and each.key != without)
        saved[trial] = 0 if last is None else last.epoch
    # An epoch is shown before it is saved, so an epoch that was saved before this line has been shown by now.
    return {trial: Sight(saved[trial], measured(store, trial), logged(store, trial)) for trial in ids}


def measured(store: Store, trial: str) -> Counter[int]:
    """Count the points of validation accuracy by step, including those that a reader would drop."""
    return Counter(
        event.step
        for event in events_of(store, trial)
        for value in event.summary.value
        if value.tag == ACCURACY
    )


def events_of(store: Store, trial: str) -> list[Any]:
    """Return all events of a trial's run, in the order of its files."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto import event_pb2

    found = []
    with tempfile.TemporaryDirectory() as folder:
        key = f"{KEYS['tensorboard']}/{trial}"
        for name in sorted(store.names(key)):
            store.download(f"{key}/{name}", Path(folder) / name)
            for record in RawEventFileLoader(str(Path(folder) / name)).Load():
                found.append(event_pb2.Event.FromString(record))
    return found


def logged(store: Store, trial: str) -> Counter[int]:
    text, _ = read_log(store, f"{KEYS['logs']}/{trial}")
    return Counter(map(int, LOGGED_EPOCH.findall(text)))


def trained_again(before: dict[str, Sight], after: dict[str, Sight], steps_per_epoch: int) -> dict[str, int]:
    """Return how many finished epochs of each trial were trained again after a fault; all if the trial is gone."""
    again = {}
    for trial, then in before.items():
        if trial not in after:
            again[trial] = then.saved
            continue
        now = after[trial]
        finished = range(1, then.saved + 1)
        again[trial] = max(
            sum(
                max(0, now.measured[n * steps_per_epoch] - max(1, then.measured[n * steps_per_epoch]))
                for n in finished
            ),
            sum(max(0, now.logged[n] - max(1, then.logged[n])) for n in finished),
        )
    return again


def last_weights(store: Store, trial: str) -> str | None:
    """Return the SHA-256 of the weights after the trial's last epoch, read from the file."""
    last = find_checkpoint(saved_epochs(store, f"{KEYS['experiment']}/{trial}"))
    content = store.read(f"{last.key}/model.safetensors") if last else None
    return None if content is None else hashlib.sha256(content).hexdigest()


def shown_run(store: Store, trial: str) -> tuple[list[int], str]:
    """Return the steps of validation accuracy as TensorBoard reads them, and the status that HParams shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import api_pb2, metadata

    with tempfile.TemporaryDirectory() as folder:
        key = f"{KEYS['tensorboard']}/{trial}"
        for name in store.names(key):
            store.download(f"{key}/{name}", Path(folder) / name)
        events = EventAccumulator(folder)
        events.Reload()
        steps = (
            [event.step for event in events.Scalars(ACCURACY)] if ACCURACY in events.Tags()["scalars"] else []
        )
        shown = events.summary_metadata.get(metadata.SESSION_END_INFO_TAG)
        if shown is None or metadata.SESSION_START_INFO_TAG not in events.summary_metadata:
            return steps, "running"
        end = metadata.parse_session_end_info_plugin_data(shown.plugin_data.content)
        return steps, "finished" if end.status == api_pb2.Status.STATUS_SUCCESS else "failed"


def optuna_trials(store: Store) -> list[Any]:
    """Return the trials of the study's mirror in the run store."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    with tempfile.TemporaryDirectory() as folder:
        store.download(JOURNAL, Path(folder) / "optuna.journal")
        storage = JournalStorage(JournalFileBackend(str(Path(folder) / "optuna.journal")))
        [study] = optuna.get_all_study_summaries(storage)
        return optuna.load_study(study_name=study.study_name, storage=storage).trials
