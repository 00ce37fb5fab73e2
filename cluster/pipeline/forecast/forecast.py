"""Forecast a job: find which results would be reused, measure the rest in a separate process, and sum the stages."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from ....errors import DistiltuneError, RunFailedError
from ....export.benchmark.processes import PACKAGE, environment
from ....progress import Progress, ReportProgress, ignore
from ....storage.temporary import temporary_directory
from ....training.machine import free_memory
from ...store.runs import LOGITS, TEACHERS, Run
from ..checks.preflight import CheckedJob
from ..reuse.models import ModelReuse
from ..reuse.search import SearchReuse
from .request import Request, places_of
from .search_time import Span
from .stages import Known, StageForecast, StageForecasts
from .teachers import MIB

_LIMIT_S = 180.0  # for all measurements; only reached on an overloaded machine
_MOST_WAITING = 0.1
_STEPS = ("teacher", "student", "search", "export")


@dataclass(frozen=True)
class Forecast:
    """Time, disk and memory of a job, by stage.

    Attributes:
        stages: The stages in order.
        measured_s: Seconds that the measurements took.
        free_bytes: Free space of the storage's disk; None if the storage is not a directory of this machine.
        available_mib: Memory that is available now, in MiB; None if unknown.
        waiting: Share of the measurements' time, 0 to 1, spent waiting for other processes.
    """

    stages: list[StageForecast]
    measured_s: float
    free_bytes: int | None
    available_mib: float | None
    waiting: float = 0.0

    @property
    def seconds(self) -> Span:
        """Time of all stages in seconds."""
        return reduce(Span.plus, (each.seconds for each in self.stages), Span.exact(0.0))

    @property
    def disk_bytes(self) -> int:
        """Bytes that the finished job occupies in the storage."""
        return sum(each.disk_bytes for each in self.stages)

    @property
    def peak_disk_bytes(self) -> int:
        """Peak number of bytes that the job occupies in the storage."""
        left, most = 0, 0
        for each in self.stages:
            most = max(most, left + each.peak_disk_bytes)
            left += each.disk_bytes
        return most

    @property
    def memory_mib(self) -> float:
        """Memory of the stage that needs most, in MiB."""
        return max(each.memory_mib for each in self.stages)

    def warnings(self) -> list[str]:
        """Return warnings about too little disk or memory, and about other processes on the machine."""
        found = []
        if self.waiting > _MOST_WAITING:
            found.append(
                f"other processes use this machine: the measurements spent {self.waiting:.0%} of their time waiting "
                "for them, which the forecast excludes; the job takes longer while they run"
            )
        if self.free_bytes is not None and self.peak_disk_bytes > self.free_bytes:
            found.append(
                f"storage.path: about {self.peak_disk_bytes / MIB:,.0f} MiB will be needed, but "
                f"{self.free_bytes / MIB:,.0f} are free; free some space, or set another storage.path"
            )
        if self.available_mib is not None and self.memory_mib > self.available_mib:
            found.append(
                f"about {self.memory_mib:,.0f} MiB of memory will be needed, but {self.available_mib:,.0f} are "
                "available; lower training.max_batch_tokens, training.batch_size or search.max_concurrent_trials"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the forecast as JSON values; spans have ``low``, ``middle`` and ``high``."""
        span = self.seconds
        return {
            "stages": [each.to_json() for each in self.stages],
            "seconds": {"low": span.low, "middle": span.middle, "high": span.high},
            "disk_bytes": self.disk_bytes,
            "peak_disk_bytes": self.peak_disk_bytes,
            "memory_mib": self.memory_mib,
            "free_bytes": self.free_bytes,
            "available_mib": self.available_mib,
            "measured_s": self.measured_s,
            "waiting": self.waiting,
            "warnings": self.warnings(),
        }


def why_not(job: CheckedJob) -> str | None:
    """Return why a job cannot be forecast on this machine, or None."""
    address = job.config.resources.address
    if address is not None:
        return f"it would be measured on this machine, but resources.address is {address}"
    if job.config.teacher.logits is not None:
        return "the teacher is a file of logits (teacher.logits), which cannot be run to measure it"
    return None


def forecast_job(job: CheckedJob, report: ReportProgress = ignore, seconds: float | None = None) -> Forecast:
    """Forecast a checked job from a few measured steps.

    Nothing is left in the storage. The measuring process is killed when this process ends, however it ends.

    Args:
        job: A job that has passed its checks.
        report: Called with a description of each measurement.
        seconds: Duration of each measurement; by default 1.5 to 4 seconds, by the number of training texts.

    Raises:
        RunFailedError: A measurement failed.
    """
    began = time.monotonic()
    config, places = (
        job.settled_local_config,
        places_of(job.config, job.config.resources.num_cpus or os.cpu_count() or 1),
    )
    reused, folders = _existing(job)
    wanted = {"search", "export", "benchmark"} - reused.keys()
    parts = {each for each in _STEPS if each in wanted} | ({"export"} & wanted)
    parts |= {"export"} if "benchmark" in wanted else set()
    parts |= {"teacher", "student"} - reused.keys() if "search" in wanted else set()
    if seconds is None:
        seconds = min(4.0, max(1.5, len(job.data.splits["train"]) / 3000))
    measured: dict[str, Any] = {}
    import_s = 0.0
    if parts:
        with temporary_directory("forecast") as work:
            request = Request(config, job.data, places, work, frozenset(parts), **folders, seconds=seconds)
            measured, import_s = _measure(request, report)
    num_texts = {str(name): len(job.data.splits[name]) for name in job.data.splits}
    known = Known(config, places, num_texts, job.data_seconds, import_s, frozenset(reused))
    stages = StageForecasts(known, measured).all()
    waiting = max((each["waiting"] for each in measured.values() if "waiting" in each), default=0.0)
    return Forecast(stages, time.monotonic() - began, _free_bytes(job), free_memory() / MIB, waiting)


def _existing(job: CheckedJob) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the stages whose results exist, and the folders of teachers, student and logits, where known."""
    config, store = job.settled_config, job.storage.store
    none_exist = {"teachers": (None,) * config.teacher.num_members, "student": None, "logits": None}
    folders: dict[str, Any] = {**none_exist}
    reused: dict[str, str] = {}
    try:
        source = None
        if config.storage.reuse:
            source = SearchReuse(
                config, job.settled_local_config, Run(store, "forecast"), job.data
            ).available()
        if source is not None:
            models = ModelReuse(config, source, job.data).available()
            reused = dict.fromkeys(("teacher", "logits", "student", "search", *models), source.id)
            folders["student"] = store.fetch(source.best)
            folders["teachers"] = (store.fetch(source.stage_record("teacher")["result"]["key"]),)
            return reused, folders
        if store.directory is None:
            return reused, folders
        held = [store.fetch(key) if store.has_folder(key) else None for key in _teacher_keys(job)]
        if None not in held:
            reused["teacher"] = "cache"
        if None not in held or config.teacher.are_different:
            folders["teachers"], folders["logits"] = tuple(held), store.directory / LOGITS
    except (DistiltuneError, OSError, KeyError):  # a damaged run would not be reused
        reused, folders = {}, {**none_exist}
    return reused, folders


def _teacher_keys(job: CheckedJob) -> list[str]:
    from ....training import tasks
    from ....training.teacher.prepare import teacher_key

    config, task = job.settled_local_config, tasks.get(job.config.task)
    return [
        f"{TEACHERS}/{teacher_key(each, job.data, config.training, task, config.metric)}"
        for each in config.teacher.members
    ]


def _measure(request: Request, report: ReportProgress) -> tuple[dict[str, Any], float]:
    """Run the measuring process; return its result and the seconds that it took to import the libraries."""
    path, log = request.work / "request.pickle", request.work / "log"
    path.write_bytes(pickle.dumps(request))
    began = time.monotonic()
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", f"{PACKAGE}.{str(__package__).partition('.')[2]}.measure", str(path)],
            env=environment(1),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,  # Ctrl-C reaches only this process, which then kills the other
        )
    timer = threading.Timer(_LIMIT_S, _kill, [process])
    timer.daemon = True
    timer.start()
    with process:  # closes its stdout and waits for it on exit
        try:
            report(Progress("loading the libraries"))
            return _answers(process, began, report, log)
        finally:
            timer.cancel()
            _kill(process)


def _answers(
    process: subprocess.Popen[str], began: float, report: ReportProgress, log: Path
) -> tuple[dict[str, Any], float]:
    import_s = 0.0
    assert process.stdout is not None
    with process.stdout as answers:
        for line in answers:
            answer: Mapping[str, Any] = json.loads(line)
            if "import_s" in answer:
                import_s = min(answer["import_s"], time.monotonic() - began)
            elif "progress" in answer:
                report(Progress(answer["progress"]))
            elif "result" in answer:
                return answer["result"], import_s
            else:
                raise RunFailedError(f"the forecast cannot be measured: {answer['error']}")
    status = process.wait()
    last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no message"])[-1]
    if time.monotonic() - began >= _LIMIT_S:
        last = f"it took more than {_LIMIT_S:g} s"
    raise RunFailedError(f"the forecast cannot be measured: its process ended with status {status}: {last}")


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill the measuring process and its children, which are in its session."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _free_bytes(job: CheckedJob) -> int | None:
    directory = job.storage.store.directory
    if directory is None:
        return None
    existing = next(each for each in (directory, *directory.absolute().parents) if each.is_dir())
    return shutil.disk_usage(existing).free
