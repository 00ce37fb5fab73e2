"""The lines of an Optuna journal, as Optuna's own storage writes them for a study and its trials."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from .optuna_log import quiet_optuna


def study_lines(name: str, directions: Sequence[str], metric_names: Sequence[str]) -> bytes:
    """Return the first lines of a study's journal.

    Args:
        name: Name of the study.
        directions: ``maximize`` or ``minimize`` for each objective.
        metric_names: Names of the objectives.
    """
    recorder = _Recorder()
    study = _new_study(recorder, name, directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # metric names are experimental
        study.set_metric_names(list(metric_names))
    return _lines(recorder.logs)


def trial_line(trial: FrozenTrial, directions: Sequence[str]) -> bytes:
    """Return the line of a trial in a journal with one study."""
    recorder = _Recorder()
    study = _new_study(recorder, "", directions)
    num_before = len(recorder.logs)
    study.add_trial(trial)
    return _lines(recorder.logs[num_before:])


def trials_in(content: bytes, name: str, directions: Sequence[str]) -> list[FrozenTrial]:
    """Return the trials of a study in a journal, up to a truncated line; an empty list if there is no such study."""
    recorder = _Recorder()
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        recorder.logs.append(json.loads(line))
    try:
        study = optuna.load_study(study_name=name, storage=JournalStorage(recorder))
    except KeyError:
        return []
    return study.trials if study.directions == _directions(directions) else []


class _Recorder(BaseJournalBackend):
    """A journal backend that keeps its logs in memory."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs


def _new_study(recorder: _Recorder, name: str, directions: Sequence[str]) -> optuna.Study:
    with quiet_optuna():
        storage = JournalStorage(recorder)
        return optuna.create_study(storage=storage, study_name=name, directions=_directions(directions))


def _directions(names: Sequence[str]) -> list[StudyDirection]:
    return [StudyDirection[name.upper()] for name in names]


def _lines(logs: list[dict[str, Any]]) -> bytes:
    # A fixed worker id makes the bytes independent of the process and thread that write them.
    same = [{**log, "worker_id": "distiltune"} for log in logs]
    return "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in same).encode()
