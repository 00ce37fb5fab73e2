"""How far a run is, from its records alone: what `status` prints, follows and gives as JSON."""

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


class Watch:
    """Reads a run again and again, with few requests; records that will not change are read once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._created = ""
        self._began = ""  # when the process began that works on it, or did so last
        self._settled: dict[str, dict[str, Any]] = {}
        self._search: dict[str, Any] | None = None

    def read(self) -> dict[str, Any]:
        """The object that ``status --json`` prints."""
        run = self._run
        state = run.state
        self._created = self._created or run.created
        # What it says of an end is that of an earlier try until this one ends.
        record = (run.read("run.json") or {}) if state in ENDED else {}
        records = self._records(state)
        stages = _rows(records, state, self._began)
        current = next((stage["name"] for stage in stages if stage["state"] == "running"), None)
        told = (run.read(run.progress(current)) or {}) if current else {}
        fresh = current is not None and told.get("at", 0.0) >= epoch_of(records[current]["started"])
        progress = told if fresh else {}
        search = self._search_progress(current, told)
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
            "trials": _trials(search, fresh and current == "search"),
            "best": _best(search, records.get("search", {}).get("result")),
            "waiting_for": waiting_for,
            "next": next_command(run, state),
        }

    def _records(self, state: str) -> dict[str, dict[str, Any]]:
        """The records of the stages that have begun; a resumed run does some finished ones again."""
        if state in ("submitted", "running") and self._began in ("", _NOT_YET):
            lease = (self._run.read("lease.json") or {}) if state == "running" else {}
            self._began = _iso(lease["process_started"]) if lease else _NOT_YET
        records: dict[str, dict[str, Any]] = {}
        for stage in STAGES:
            held = self._settled.get(stage) or self._run.stage_record(stage)
            if not held:
                break
            records[stage] = held
            if held["started"] >= self._began or state in ENDED:
                earlier = {name: each for name, each in records.items() if each["state"] == "finished"}
                self._settled |= earlier
        return records

    def _search_progress(self, current: str | None, progress: dict[str, Any]) -> dict[str, Any]:
        """What the search told last; read once while another stage runs, since it stands still then."""
        if current == "search":
            self._search = None
            return progress
        if self._search is None:
            self._search = self._run.read(self._run.progress("search")) or {}
        return self._search

    def _ended(self, state: str, record: dict[str, Any]) -> str | None:
        if state != "interrupted" or record.get("state") == state:
            return record.get("ended")
        heard = (self._run.read("lease.json") or {}).get("at")
        return None if heard is None else _iso(heard)


def watch(run: Run, period_s: float | None = None) -> Iterator[dict[str, Any]]:
    """The run's status now and after each change, until it has ended.

    A storage that goes away meanwhile is waited for, and named as what the run waits for.

    Args:
        run: Which.
        period_s: Between two looks; by default one second, and two where each look is some requests.

    Raises:
        StorageError: It is away from the first, or what it answers stays so: a record is damaged.
    """
    reader, last = Watch(run), None
    if period_s is None:
        period_s = 1.0 if run.store.directory is not None else 2.0
    while True:
        try:
            found = reader.read()
        except StorageError as error:
            if last is None or isinstance(error, PermanentStorageError):
                raise
            found = {**last, "waiting_for": f"its storage to answer: {reason(error)}"}
        if found != last:
            yield found
            last = found
        if found["state"] in ENDED and has_ended(run):
            return
        time.sleep(period_s)


def has_ended(run: Run) -> bool:
    """Whether nothing more is to come; a worker that was cut off from the storage for a while is listened for."""
    state = run.state
    return state in ENDED and not (state == "interrupted" and run.still_beats)


def reason(error: Exception) -> str:
    """Why a storage did not answer; the error itself is worded for who works on a run."""
    return reason_of(error.__cause__ or error)


def next_command(run: Run, state: str) -> str:
    """What a person types next about a run in that state."""
    if state in ("submitted", "running"):
        return command("status", run, "--watch")
    if state == "finished":
        return command("pull", run, "--to DIR")
    return command("logs" if state == "failed" else "resume", run)


def _rows(records: dict[str, dict[str, Any]], state: str, began: str) -> list[dict[str, Any]]:
    """A row a stage; what began before the stages ahead of it did is of an earlier try."""
    rows = []
    for stage in STAGES:
        held = records.get(stage, {})
        said, seconds, text = held.get("state", "waiting"), held.get("seconds"), held.get("text", "")
        earlier = bool(held) and held["started"] < began
        began = max(began, held.get("started", ""))
        ended_before = said in ("failed", "stopped") and state in ("submitted", "running")
        if ended_before or (earlier and said != "finished"):
            said, seconds, text = "waiting", None, ""
        elif said == "running" and state == "running":
            seconds = seconds_since(held["started"])
        elif said == "running":
            said = "interrupted"
        rows.append(
            {
                "name": stage,
                "state": said,
                "seconds": seconds,
                "text": text,
                "reused": earlier and said == "finished",
            }
        )
    return rows


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
            "value": best["validation_accuracy"],
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
