"""Output of `logs`: the log of a run, stage or trial, once or continuously."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator

from ...errors import InputError, PermanentStorageError, StorageError, shown
from ...search.trial_record import find_trial
from ...storage.logs import read_log
from ..store.runs import STAGES, Run
from .status import has_ended, reason

logger = logging.getLogger(__name__)

_PERIOD_S = 1.0
_LOOKS = 3  # reads of the log per read of the run's state
_CUT = "\ufffd"  # an incomplete character decodes to this


def log_key(run: Run, trial: str | None, stage: str | None) -> str:
    """Return the key of a run's, trial's or stage's log.

    Raises:
        InputError: There is no such trial or stage, or both were given.
    """
    if trial is not None and stage is not None:
        raise InputError("--trial and --stage: both given; a log belongs to one trial or one stage")
    if stage is not None:
        return _stage_key(run, stage)
    if trial is None:
        return run.log
    trials = run.store.names(run.trial_logs)
    found = find_trial(trial, trials)
    if found is None:
        known = f"its trials: {', '.join(trials)}" if trials else "it has no trials yet"
        raise InputError(f"--trial: {shown(trial)} given, but run {run.id} has no such trial; {known}")
    return f"{run.trial_logs}/{found}"


def _stage_key(run: Run, given: str) -> str:
    """Return the key of a stage's log; each of several parallel tasks has its own, such as ``export/onnx``."""
    stage, _, part = given.partition("/")
    if stage not in STAGES:
        raise InputError(f"--stage: {shown(given)} given; a run has the stages {', '.join(STAGES)}")
    names = run.store.names(run.stage_log(stage))
    parts = [name for name in names if not name.endswith(".log")]
    if given == stage and len(parts) < len(names):  # it has its own log besides those of its parts
        return run.stage_log(stage)
    if parts and part not in parts:
        raise InputError(
            f"--stage: {shown(given)} given; this stage has {', '.join(f'{stage}/{n}' for n in parts)}"
        )
    if given != stage and not parts:
        raise InputError(f"--stage: {shown(given)} given; this stage has one log, --stage {stage}")
    return run.stage_log(stage, part)


def follow_log(run: Run, key: str) -> Iterator[str]:
    """Yield a log's text and its additions until the run ends; if the storage does not respond, wait for it.

    Raises:
        PermanentStorageError: A retry cannot help: no permission, or a record is damaged.
    """
    offset, ended, was_away = 0, False, False
    for look in itertools.count():
        text, end = "", offset
        try:
            # Check the state before reading the log, so that nothing written before the end is missed.
            ended = ended or (look % _LOOKS == 0 and has_ended(run))
            text, end = read_log(run.store, key, offset)
            was_away = False
        except PermanentStorageError:
            raise
        except StorageError as error:
            if not was_away:
                logger.warning("the storage does not respond, waiting for it: %s", reason(error))
            was_away = True
        if text and (ended or not text.endswith(_CUT)):  # else wait for the rest of the character
            offset = end
            yield text
        elif ended and not was_away:
            return
        if not ended or was_away:
            time.sleep(_PERIOD_S)
