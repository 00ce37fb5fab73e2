"""Schemas of a run's records, and the function that reads and validates them."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...errors import DamagedRecordError, cut, shown
from ...search.trial_record import TrialRecord
from ...storage.store import Store

_BACKUP = "restore that file from a backup, or start the job again under another --run-id"
_REMEDIES = {
    "lease.json": "if no process is running it any more, move that file out of the run",
    "progress.json": "move that file out of the run: it only contains the progress of a stage",
    "task-progress.json": "move that file out of the run: it only contains the progress of a stage",
}


def _moment(value: str) -> str:
    moment = datetime.datetime.fromisoformat(value)
    if not 1970 <= moment.year < 9000:  # other years cannot be converted to local time
        raise ValueError("not a valid time of a run")
    moment.timestamp()
    return value


Moment = Annotated[str, AfterValidator(_moment)]
Seconds = Annotated[float, Field(ge=0, lt=1e11)]  # a duration, or seconds since 1970


class _Record(BaseModel):
    """Base of the schemas: the fields that readers rely on; other fields of a record are kept unchanged."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=())


class _RunRecord(_Record):
    """``run.json``."""

    created: Moment
    state: Literal["running", "finished", "failed", "stopped", "interrupted"]
    name: str = ""
    error: str | None = None
    ended: Moment | None = None


class _SubmissionRecord(_Record):
    """``submission.json``."""

    created: Moment
    pending: bool
    address: str
    submission_id: str
    attempt: int = Field(ge=1)


class _LeaseRecord(_Record):
    """``lease.json``, and ``*.lease.json`` of a result that is being computed."""

    owner: str
    host: str
    machine: str
    pid: int = Field(ge=1, lt=2**31)
    process_started: Seconds
    beats: int
    at: Seconds
    run_id: str = ""


class _ProgressRecord(_Record):
    """``stages/*.progress.json``; a search adds its counts and its best trial."""

    text: str
    at: Seconds
    waiting_for: str | None = None
    num_trials: int | None = None
    total: int | None = None
    done: int | None = None
    running: int | None = None
    failed: int | None = None
    pruned: int | None = None
    best_value: float | None = None
    best_trial_id: str | None = None
    best_parameters: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _best_is_whole(self) -> _ProgressRecord:
        if self.best_value is not None and (self.best_trial_id is None or self.best_parameters is None):
            raise ValueError("best_value without best_trial_id and best_parameters")
        return self


class _TaskProgressRecord(_Record):
    """``stages/*.task-progress.json``."""

    text: str
    done: int | None = None
    total: int | None = None


class _FormerRecord(_Record):
    """``former.json``."""

    trials: list[TrialRecord]


class _CutRecord(_Record):
    """``cut.json``."""

    kept: Literal["best", "artifacts"]
    at: Moment


class _StageRecord(_Record):
    """``stages/STAGE.json``."""

    state: Literal["running", "finished", "failed", "stopped"]
    started: Moment
    ended: Moment | None = None
    seconds: Seconds | None = None
    text: str = ""
    error: str | None = None
    result: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _finished_has_result(self) -> _StageRecord:
        if self.state == "finished" and self.result is None:
            raise ValueError("finished, but without a result")
        return self


class _BestTrial(_Record):
    trial_id: str
    metric: str
    value: float
    validation_accuracy: float | None = None
    parameters: dict[str, Any]
    alpha: float
    temperature: float
    num_train_epochs: float
    epoch: int
    metrics: dict[str, Any]


def _failed_has_reason(trial: TrialRecord) -> TrialRecord:
    if trial.state == "failed" and trial.reason is None:
        raise ValueError("failed, but without a reason")
    return trial


class _SearchResult(_Record):
    best: _BestTrial
    trials: list[Annotated[TrialRecord, AfterValidator(_failed_has_reason)]]
    front: list[str] = Field(default_factory=list)
    choice: str = ""
    ended_by: str | None = None


class _Times(_Record):
    mean: float
    std: float
    p50: float
    p90: float
    p99: float


class _MetricValues(_Record):
    """The job's metric of a model, where it is not accuracy."""

    name: str
    validation: float | None
    test: float | None


class _Measurement(_Record):
    """Fields of an ``Measurement`` that tables show."""

    name: str
    kind: str
    size_mb: Annotated[float, Field(gt=0)] | None
    latency_ms: _Times | None
    sample_latency_ms: _Times | None
    throughput: dict[str, float]
    peak_memory_mb: float | None
    num_threads: int
    query: str | list[str]
    accuracy: float | None = None
    in_scope_accuracy: float | None = None
    oos_recall: float | None = None
    validation_accuracy: float | None = None
    gate: Literal["passed", "failed", "inconclusive"] | None = None
    teacher_gate: Literal["passed", "failed", "inconclusive"] | None = None
    with_threshold: dict[str, Any] | None = None
    waiting: float | None = None
    verdict: str | None = None
    metric: _MetricValues | None = None
    metrics: dict[str, dict[str, float | None]] | None = None


class _AgainstBaseline(_Record):
    text: str
    verdict: str | None


class _GateResult(_Record):
    variants: list[_Measurement]
    chosen: str | None
    against_baselines: list[_AgainstBaseline] = Field(default_factory=list)

    @model_validator(mode="after")
    def _chosen_is_one_of_them(self) -> _GateResult:
        if self.chosen is not None and self.chosen not in [each.name for each in self.variants]:
            raise ValueError("chosen is not one of the variants")
        return self


class _BenchmarkResult(_Record):
    measurements: list[_Measurement]
    machine: dict[str, Any]
    gpu_machine: dict[str, Any] | None = None
    label_names: list[str]
    out_of_scope_id: int | None
    left_out: dict[str, str] = Field(default_factory=dict)


class _Variant(_Record):
    name: str


class _ExportResult(_Record):
    variants: list[_Variant]


class _TeacherResult(_Record):
    key: str
    validation_accuracy: float | None = None


class _DataResult(_Record):
    fingerprint: str


_RECORDS: dict[str, type[_Record]] = {
    r"run\.json": _RunRecord,
    r"submission\.json": _SubmissionRecord,
    r"([^/]+\.)?lease\.json": _LeaseRecord,
    r"former\.json": _FormerRecord,
    r"cut\.json": _CutRecord,
    r"stages/[^/]+\.progress\.json": _ProgressRecord,
    r"stages/[^/]+\.task-progress\.json": _TaskProgressRecord,
    r"stages/[^/.]+\.json": _StageRecord,
}
_RESULTS: dict[str, type[_Record]] = {
    "stages/data.json": _DataResult,
    "stages/teacher.json": _TeacherResult,
    "stages/search.json": _SearchResult,
    "stages/export.json": _ExportResult,
    "stages/benchmark.json": _BenchmarkResult,
    "stages/gate.json": _GateResult,
}


def read_record(store: Store, run_key: str, name: str) -> dict[str, Any] | None:
    """Read and validate a record of a run; return None if there is none.

    Args:
        store: The run store.
        run_key: The run's key.
        name: The record's name within the run, such as ``stages/search.json``.

    Raises:
        DamagedRecordError: The record is not a JSON object, or a field that readers rely on is missing or invalid.
    """
    key = f"{run_key}/{name}"
    remedy = next((each for ending, each in _REMEDIES.items() if name.endswith(ending)), _BACKUP)
    record = store.read_json(key, remedy)
    model = next((each for pattern, each in _RECORDS.items() if re.fullmatch(pattern, name)), None)
    if record is None or model is None:
        return record
    try:
        model.model_validate(record)
        if name in _RESULTS and (record["state"] == "finished" or record.get("result")):
            _RESULTS[name].model_validate(record["result"])
    except ValidationError as error:
        raise damaged(store.location(key), error, remedy) from None
    return record


def trials_of(result: dict[str, Any]) -> list[TrialRecord]:
    """Return the trials of a search's result, or of a copy of them, that ``read_record`` has validated."""
    return [TrialRecord.model_validate(each) for each in result["trials"]]


def damaged(location: str, error: ValidationError, remedy: str = _BACKUP) -> DamagedRecordError:
    """Return the error for an invalid record, with file, field, value and remedy on one line."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    given = None if first["type"] == "missing" or not field else f"{shown(first['input'])} given"
    message = cut(first["msg"].removeprefix("Value error, "), 100)
    fault = ": ".join(filter(None, [field, ", ".join(filter(None, [given, message]))]))
    return DamagedRecordError(f"storage {location}: is damaged ({fault}); {remedy}")
