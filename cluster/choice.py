"""The last stages, done by the driver from the records: gate, choice, sealed artifact, report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..export.artifact import seal_artifact
from ..export.choose import apply_gate, choose
from ..export.report import build_report, write_report
from ..export.rows import RowMeasurement
from .config import JobConfig
from .runs import STAGES, Run

if TYPE_CHECKING:
    from ..training.data import TextData
    from .stages import StageResult


def choose_and_seal(config: JobConfig, run: Run, data: TextData) -> StageResult:
    """Choose on the validation split among the measured variants, and seal the chosen one.

    Raises:
        RunFailedError: No ONNX variant passed the gate.
    """
    measured = [RowMeasurement.from_json(row) for row in run.stage_record("benchmark")["result"]["rows"]]
    rows = apply_gate(measured, max_accuracy_drop=config.export.max_accuracy_drop)
    chosen = choose(rows)
    row = next(row for row in rows if row.name == chosen)
    seal_artifact(
        run.variants / chosen,
        run.artifact,
        made_from=_made_from(config, run, data),
        measurements=row.to_json(),
    )
    text = f"{chosen}: {row.size_mb:.1f} MB, {row.latency_ms['p50']:.2f} ms"
    return {"variants": [row.to_json() for row in rows], "chosen": chosen}, text


def _made_from(config: JobConfig, run: Run, data: TextData) -> dict[str, Any]:
    teacher = run.stage_record("teacher")["result"]
    best = run.stage_record("search")["result"]["best"]
    return {
        "run_id": run.id,
        "data": {"source": config.data.source, "fingerprint": data.fingerprint},
        "teacher": config.teacher.model_dump(mode="json", exclude_none=True),
        "teacher_validation_accuracy": teacher["validation_accuracy"],
        "student": config.student.model_dump(mode="json", exclude_none=True),
        "hyperparameters": config.training.model_dump(mode="json") | best["parameters"],
        "machine": run.stage_record("benchmark")["result"]["machine"],
    }


def make_report(run: Run) -> StageResult:
    """Write the report's files from what the stages recorded."""
    choice = run.stage_record("artifact")["result"]
    records = {stage: run.stage_record(stage) for stage in STAGES}
    report = build_report(
        run_id=run.id,
        state="finished",
        best=run.stage_record("search")["result"]["best"],
        rows=[RowMeasurement.from_json(row) for row in choice["variants"]],
        chosen=choice["chosen"],
        artifact=str(run.artifact),
        machine=run.stage_record("benchmark")["result"]["machine"],
        extra={
            "stages": {
                stage: record.get("seconds") for stage, record in records.items() if record.get("seconds")
            },
            "trials": run.stage_record("search")["result"]["trials"],
            "job": run.read("job.json"),
        },
    )
    paths = write_report(report, run.report)
    return {"files": sorted(path.name for path in paths.values())}, ", ".join(
        path.name for path in paths.values()
    )
