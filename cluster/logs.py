"""What `logs` prints: a run's log, a stage's or a trial's, once or as it grows."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from ..errors import InputError, StorageError
from ..storage.logs import read_log
from .runs import STAGES, Run
from .status import ENDED

logger = logging.getLogger(__name__)

_PERIOD_S = 1.0


def log_key(run: Run, trial: str | None, stage: str | None) -> str:
    """The key of the log asked for.

    Raises:
        InputError: There is no such trial or stage, or both were given.
    """
    if trial is not None and stage is not None:
        raise InputError("--trial and --stage: both given; a log is one trial's or one stage's")
    if stage is not None:
        if stage not in STAGES:
            raise InputError(f"--stage: {stage!r} given; a run has the stages {', '.join(STAGES)}")
        return run.stage_log(stage)
    if trial is None:
        return run.log
    trials = run.store.names(run.trial_logs)
    found = [each for each in trials if each.startswith(trial)]
    if trial in trials or len(found) == 1:
        return f"{run.trial_logs}/{trial if trial in trials else found[0]}"
    known = f"its trials: {', '.join(trials)}" if trials else "it has no trials yet"
    what = "several begin with it" if found else "none begins with it"
    raise InputError(f"--trial: {trial!r} given, and {what} in run {run.id}; {known}")


def follow_log(run: Run, key: str) -> Iterator[str]:
    """A log's text and what is added to it, until the run ends; a storage that goes away is waited for."""
    offset, was_away = 0, False
    while True:
        try:
            # Looked at before the log is read, so that nothing written before the end is missed.
            ended = run.state in ENDED
            text, offset = read_log(run.store, key, offset)
            was_away = False
        except StorageError as error:
            if not was_away:
                logger.warning("%s; waiting for it", error)
            ended, text, was_away = False, "", True
        if text:
            yield text
        elif ended:
            return
        if not ended:
            time.sleep(_PERIOD_S)
