"""Run the stages of a job one by one, with their records, progress and log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...errors import DistiltuneError, RunFailedError, StorageError
from ...progress import Progress, ReportProgress
from ...storage.retry import refusal_of
from ..store.runs import Run, now
from ..watching.events import Listener, StageEvent

if TYPE_CHECKING:
    from ..store.lease import Lease
    from .stages import StageResult

logger = logging.getLogger(__name__)

_WRITE_EVERY_S = 1.0
_LOG_EVERY_S = 5.0


class StageRunner:
    """Runs stages one by one, writes their records and notifies the listener."""

    def __init__(self, run: Run, lease: Lease, listener: Listener) -> None:
        self._run = run
        self._lease = lease
        self._listener = listener

    def begin(self) -> None:
        """Report the id and storage of the run."""
        self._listener(StageEvent("run", "begun", f"{self._run.id} in {self._run.store}"))

    def show_reused(self, stage: str, text: str) -> None:
        """Report a stage whose result was copied from another run."""
        self._listener(StageEvent(stage, "reused", text))

    def is_finished(self, *stages: str) -> bool:
        """Return whether all of these stages are finished."""
        return all(self._run.stage_record(stage).get("state") == "finished" for stage in stages)

    def do(
        self,
        stage: str,
        work: Callable[[ReportProgress], StageResult],
        *,
        again: bool = False,
        already_s: float = 0.0,
    ) -> None:
        """Run a stage unless it is finished.

        Args:
            stage: Name of the stage.
            work: Function that does the stage's work.
            again: Run it even if it is finished, for the objects that it leaves in memory.
            already_s: Seconds that the stage took before this call.
        """
        if self._lease.interruption is not None:  # its signal may have been missed
            raise KeyboardInterrupt
        if self.is_finished(stage) and not again:
            self._listener(StageEvent(stage, "reused", self._run.stage_record(stage).get("text", "")))
            return
        self._listener(StageEvent(stage, "started"))
        started = now()
        self._write(stage, "running", started=started)
        began = time.monotonic() - already_s
        try:
            done = work(_ProgressWriter(self._run, stage, self._listener))
        except BaseException as error:
            seconds = time.monotonic() - began
            state = "failed" if isinstance(error, Exception) else "stopped"
            if self._lease.interruption == "lost":  # another process owns the record now
                raise
            with suppress(StorageError):
                self._write(stage, state, started=started, seconds=round(seconds, 3), error=reason_of(error))
            self._listener(StageEvent(stage, state, "", seconds))
            refused = refusal_of(error, str(self._run.store))
            if refused is not None or isinstance(error, RunFailedError):
                raise RunFailedError(f"run {self._run.id}, stage {stage}: {refused or error}") from error
            raise
        result, text = done
        seconds = round(time.monotonic() - began, 3)
        times = {"started": started, "seconds": seconds, "ended": now()}
        self._write(stage, "finished", **times, text=text, result=result)
        self._listener(StageEvent(stage, "finished", text, seconds))

    def _write(self, stage: str, state: str, **more: Any) -> None:
        self._run.write(f"stages/{stage}.json", {"stage": stage, "state": state, **more})


class _ProgressWriter:
    """Forwards the progress of a stage: to the listener at once, to the run store and the run's log less often."""

    def __init__(self, run: Run, stage: str, listener: Listener) -> None:
        self._run = Run(run.store.once, run.id)
        self._stage = stage
        self._listener = listener
        self._last: dict[str, Any] = {}
        self._written = self._logged = 0.0

    def __call__(self, progress: Progress) -> None:
        values = progress.values
        self._listener(StageEvent(self._stage, "progress", progress.message, values=values))
        record = {"text": progress.message, **values}
        ended = values.get("done") is not None and values.get("done") == values.get("total")
        late = time.monotonic() - self._written > _WRITE_EVERY_S
        if record == self._last or not (late or ended):
            return
        is_new = record["text"] != self._last.get("text")
        self._last, self._written = record, time.monotonic()
        if is_new and progress.message and self._written - self._logged > _LOG_EVERY_S:
            self._logged = self._written
            logger.info("%s %s", self._stage, progress.message)
        try:
            self._run.write(self._run.progress(self._stage), {**record, "at": time.time()})
        except StorageError as error:
            logger.warning("%s", error)


def reason_of(error: BaseException) -> str | None:
    """Return the message to record for an error, or None if it has none."""
    if isinstance(error, DistiltuneError | KeyboardInterrupt):
        return str(error) or None
    return type(error).__name__ + f": {error}".rstrip(": ")
