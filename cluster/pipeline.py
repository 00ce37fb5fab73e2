"""The stages of a job in their order; a stage whose record says finished is not done again."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import DistiltuneError, InputError, RunFailedError
from .config import JobConfig
from .events import Listener, StageEvent
from .preflight import check_models, check_resources
from .runs import Run, Storage

if TYPE_CHECKING:
    from ..training.data import TextData
    from .stages import StageResult, Tell


def run_job(
    config: JobConfig, name: str, *, run_id: str | None = None, listener: Listener = lambda _: None
) -> Run:
    """Do every stage of a job that is not done yet, and return the finished run.

    What can be checked without Ray is checked first: the data, and the specification against the arguments
    that a trial knows.

    Raises:
        InputError: Something that the person gave cannot be used; no stage after it was begun.
        RunFailedError: A stage failed; what was complete stays, and the next run of that id goes on from it.
    """
    from ..search.space import check_space
    from ..training.data import load_data

    storage = Storage(config.storage.path)
    run_id = storage.name_run(name, run_id)
    check_space(config.search, config.training)
    check_models(config)
    began = time.monotonic()
    data = load_data(config.data)
    run = storage.create(run_id)
    with run.held():
        _begin(run, config, name, data)
        runner = _Runner(run, listener)
        listener(StageEvent("run", "begun", f"{run.id} in {storage.root}"))
        try:
            runner.do("data", lambda _: _describe_data(data), already_s=time.monotonic() - began)
            _do(runner, config, run, data)
        except BaseException as error:
            _end(run, "failed" if isinstance(error, Exception) else "interrupted", _reason(error))
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(f"go on with the same command and --run-id {run.id}") from error
            raise
        _end(run, "finished", None)
    return run


def _begin(run: Run, config: JobConfig, name: str, data: TextData) -> None:
    from ..export.machine import describe_machine

    wanted = config.model_dump(mode="json")
    held = run.read("job.json")
    if held is not None:
        changed = [
            key for key in wanted if key not in ("storage", "resources") and wanted[key] != held.get(key)
        ]
        if changed:
            raise InputError(
                f"--run-id: run {run.id} exists with another specification (other: {', '.join(changed)}); "
                "choose another id, or give the specification it began with"
            )
        read = run.stage_record("data").get("result", {}).get("fingerprint", data.fingerprint)
        if read != data.fingerprint:
            raise InputError(
                f"--run-id: run {run.id} began with other data, its files have changed since; "
                "choose another id, or put the files back"
            )
    else:
        run.write("job.json", wanted)
    created = (run.read("run.json") or {}).get("created") or _now()
    run.write(
        "run.json", {"run_id": run.id, "name": name, "created": created, "state": "running", "error": None}
    )
    run.write("versions.json", describe_machine())


def _end(run: Run, state: str, error: str | None) -> None:
    run.write("run.json", {**(run.read("run.json") or {}), "state": state, "error": error, "ended": _now()})


def _reason(error: BaseException) -> str | None:
    return (
        str(error) if isinstance(error, DistiltuneError) else type(error).__name__ + f": {error}".rstrip(": ")
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class _Runner:
    """Does stages one by one, keeps their records, and tells the listener."""

    def __init__(self, run: Run, listener: Listener) -> None:
        self._run = run
        self._listener = listener

    def is_finished(self, *stages: str) -> bool:
        """Whether nothing is left to do of these."""
        return all(self._run.stage_record(stage).get("state") == "finished" for stage in stages)

    def do(
        self, stage: str, work: Callable[[Tell], StageResult], *, again: bool = False, already_s: float = 0.0
    ) -> None:
        """Do a stage unless it is finished.

        Args:
            stage: Its name.
            work: What to do.
            again: Do it all the same, for what it leaves in memory.
            already_s: Seconds that it took before this call.
        """
        if self.is_finished(stage) and not again:
            self._listener(StageEvent(stage, "reused", self._run.stage_record(stage).get("text", "")))
            return
        self._listener(StageEvent(stage, "started"))
        self._write(stage, "running", started=_now())
        began = time.monotonic() - already_s
        try:
            done = work(lambda text: self._listener(StageEvent(stage, "progress", text)))
        except BaseException as error:
            seconds = time.monotonic() - began
            self._write(stage, "failed", seconds=round(seconds, 3), error=_reason(error))
            self._listener(StageEvent(stage, "failed", "", seconds))
            if isinstance(error, RunFailedError):
                raise RunFailedError(f"run {self._run.id}, stage {stage}: {error}") from error
            raise
        result, text = done
        seconds = time.monotonic() - began
        self._write(stage, "finished", seconds=round(seconds, 3), ended=_now(), text=text, result=result)
        self._listener(StageEvent(stage, "finished", text, seconds))

    def _write(self, stage: str, state: str, **more: Any) -> None:
        self._run.write(f"stages/{stage}.json", {"stage": stage, "state": state, **more})


def _do(runner: _Runner, config: JobConfig, run: Run, data: TextData) -> None:
    """The stages after the data. The first four leave arrays for the search, so they go together."""
    from .choice import choose_variant, make_report, seal_chosen
    from .head import ray_session
    from .stages import Stages

    if not runner.is_finished("search", "export", "benchmark"):
        stages = Stages(config, run, data)
        with ray_session(config.resources):
            check_resources(config.resources)
            if not runner.is_finished("search"):
                runner.do("teacher", stages.teacher, again=True)
                runner.do("logits", stages.logits, again=True)
                runner.do("student", stages.student, again=True)
            runner.do("search", stages.search)
            runner.do("export", stages.export)
            runner.do("benchmark", stages.benchmark)
    runner.do("gate", lambda _: choose_variant(config, run))
    runner.do("report", lambda _: make_report(run))
    runner.do("artifact", lambda _: seal_chosen(config, run, data))


def _describe_data(data: TextData) -> StageResult:
    counts = {split: len(data.splits[split]) for split in data.splits}
    intents = len(data.label_names) - (data.out_of_scope_label is not None)
    outside = "" if data.out_of_scope_label is None else " + out-of-scope"
    texts = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    record = {
        "fingerprint": data.fingerprint,
        "texts": counts,
        "num_labels": len(data.label_names),
        "out_of_scope_label": data.out_of_scope_label,
    }
    return record, f"{intents} intents{outside}; {texts}"
