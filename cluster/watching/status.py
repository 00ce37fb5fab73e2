"""Progress of a run, from its records alone, for `status`: once, continuously and as JSON."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from typing import Any

from ...errors import PermanentStorageError, StorageError
from ...storage.retry import reason_of
from ..store.runs import STAGES, Run, command, epoch_of, seconds_since

_NOT_YET = "not yet"  # later than every time in ISO 8601
COUNTS = ("num_trials", "done", "running", "failed", "pruned")
ENDED = ("finished", "failed", "stopped", "interrupted")


class StatusReader:
    """Reads a run's status repeatedly with few requests; records that will not change are read once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._created = ""
        self._began = ""  # start time of the process that runs the run, or ran it last
        self._settled: dict[str, dict[str, Any]] = {}
        self._search: dict[str, Any] | None = None

    def read(self) -> dict[str, Any]:
        """Return the object that ``status --json`` prints."""
        run = self._run
        state = run.state
        self._created = self._created or run.created
        # While the run is active, the end in its record is that of an earlier attempt.
        record = (run.read("run.json") or {}) if state in ENDED else {}
        records = self._records(state)
        stages = _rows(records, state, self._began)
        current = next((stage["name"] for stage in stages if stage["state"] == "running"), None)
        latest = (run.read(run.progress(current)) or {}) if current else {}
        fresh = current is not None and latest.get("at", 0.0) >= epoch_of(records[current]["started"])
        progress = latest if fresh else {}
        search = self._search_progress(current, latest)
        waiting_for = "the cluster to start its job" if state == "submitted" else progress.get("waiting_for")
        return {
            "run_id": run.id,
            "state": state,
            "created": self._created,
            "ended": self._ended(state, record),
            "error": record.get("error"),
            "stages": stages,
            "stage": current,
            "progress": progress.get("text"),
            "completed": _completed(progress),
            "trials": _trials(search, fresh and current == "search"),
            "best": _best(search, records.get("search", {}).get("result")),
            "waiting_for": waiting_for,
            "next": next_command(run, state),
        }

    def _records(self, state: str) -> dict[str, dict[str, Any]]:
        """Return the records of the stages that have begun; a resumed run repeats some finished stages."""
        if state in ("submitted", "running") and self._began in ("", _NOT_YET):
            lease = (self._run.read("lease.json") or {}) if state == "running" else {}
            self._began = _iso(lease["process_started"]) if lease else _NOT_YET
        records: dict[str, dict[str, Any]] = {}
        for stage in STAGES:
            record = self._settled.get(stage) or self._run.stage_record(stage)
            if not record:
                break
            records[stage] = record
            if record["started"] >= self._began or state in ENDED:
                earlier = {name: each for name, each in records.items() if each["state"] == "finished"}
                self._settled |= earlier
        return records

    def _search_progress(self, current: str | None, progress: dict[str, Any]) -> dict[str, Any]:
        """Return the search's latest progress, read only once while another stage runs."""
        if current == "search":
            self._search = None
            return progress
        if self._search is None:
            self._search = self._run.read(self._run.progress("search")) or {}
        return self._search

    def _ended(self, state: str, record: dict[str, Any]) -> str | None:
        if state != "interrupted" or record.get("state") == state:
            return record.get("ended")
        beat_at = (self._run.read("lease.json") or {}).get("at")
        return None if beat_at is None else _iso(beat_at)


def watch(run: Run, period_s: float | None = None) -> Iterator[dict[str, Any]]:
    """Yield the run's status now and after each change, until the run has ended.

    If the storage does not respond meanwhile, wait for it and report this in ``waiting_for``.

    Args:
        run: Run to watch.
        period_s: Seconds between two reads; by default one for a directory, and two for an object store.

    Raises:
        StorageError: The storage does not respond to the first read, or a retry cannot help: a record is damaged.
    """
    reader, last = StatusReader(run), None
    if period_s is None:
        period_s = 1.0 if run.store.directory is not None else 2.0
    while True:
        try:
            found = reader.read()
        except StorageError as error:
            if last is None or isinstance(error, PermanentStorageError):
                raise
            found = {**last, "waiting_for": f"its storage to respond: {reason(error)}"}
        if found != last:
            yield found
            last = found
        if found["state"] in ENDED and has_ended(run):
            return
        time.sleep(period_s)


def has_ended(run: Run) -> bool:
    """Return whether a run has ended for good; may wait for a heartbeat of a process that lost the storage."""
    state = run.state
    return state in ENDED and not (state == "interrupted" and run.still_beats)


def reason(error: Exception) -> str:
    """Return why a storage did not respond, without the error's own remedy, which is for the process of the job."""
    return reason_of(error.__cause__ or error)


def next_command(run: Run, state: str) -> str:
    """Return the command to use next for a run in a state."""
    if state in ("submitted", "running"):
        return command("status", run, "--watch")
    if state == "finished":
        return command("pull", run, "--to DIR")
    return command("logs" if state == "failed" else "resume", run)


def _rows(records: dict[str, dict[str, Any]], state: str, began: str) -> list[dict[str, Any]]:
    """Return a row per stage; a stage that began before its predecessors is from an earlier attempt."""
    rows = []
    for stage in STAGES:
        record = records.get(stage, {})
        stage_state, seconds = record.get("state", "waiting"), record.get("seconds")
        text = record.get("text", "")
        earlier = bool(record) and record["started"] < began
        began = max(began, record.get("started", ""))
        ended_before = stage_state in ("failed", "stopped") and state in ("submitted", "running")
        if ended_before or (earlier and stage_state != "finished"):
            stage_state, seconds, text = "waiting", None, ""
        elif stage_state == "running" and state == "running":
            seconds = seconds_since(record["started"])
        elif stage_state == "running":
            stage_state = "interrupted"
        rows.append(
            {
                "name": stage,
                "state": stage_state,
                "seconds": seconds,
                "text": text,
                "reused": earlier and stage_state == "finished",
            }
        )
    return rows


def _completed(progress: dict[str, Any]) -> dict[str, int] | None:
    """Return how much of the current stage is done, in the stage's units; None if its total is unknown."""
    done, total = progress.get("done"), progress.get("total")
    return None if done is None or not total else {"done": done, "total": total}


def _trials(search: dict[str, Any], searching: bool) -> dict[str, int] | None:
    if "num_trials" not in search:
        return None
    counts = {name: search.get(name, 0) for name in COUNTS}
    return counts if searching else {**counts, "running": 0}


def _best(search: dict[str, Any], result: dict[str, Any] | None) -> dict[str, Any] | None:
    if result is not None:
        best = result["best"]
        return {
            "trial_id": best["trial_id"],
            "value": best["value"],
            "parameters": best["parameters"],
        }
    if search.get("best_value") is None:
        return None
    return {
        "trial_id": search["best_trial_id"],
        "value": search["best_value"],
        "parameters": search["best_parameters"],
    }


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
