"""The latency of a student before it is trained: a task, whose answer is kept for students and machines alike."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ...export.benchmark.rows import BenchmarkTexts, RowSpec, measure_rows, median_text
from ...export.config import VariantName
from ...export.machine import describe_machine
from ...export.variants.build import build_variant
from ...storage.temporary import temporary_directory
from ..store.runs import LATENCIES
from .tasks import Task


def latency_of_student(
    task: Task, student_key: str, teacher_key: str, texts: Any, label_names: list[str]
) -> float:
    """Median latency in ms of a student as it would be exported; measured once for each machine."""
    config, student, machine = task.config, task.store.fetch(student_key), describe_machine()
    told = {
        "teacher": teacher_key,
        "student": json.loads((student / "config.json").read_text(encoding="utf-8")),
        "export": config.export.model_dump(mode="json"),
        "benchmark": config.benchmark.model_dump(mode="json"),
        "max_length": config.training.max_length,
        "query": median_text(texts["text"][:]),
        "machine": {name: fact for name, fact in machine.items() if name != "load_average"},
    }
    key = f"{LATENCIES}/{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()}.json"
    found = task.store.read_json(key)
    if found is None:
        found = {"latency_ms": _measured(task, student, texts, label_names), "machine": machine}
        task.store.write_json(key, found)
    return found["latency_ms"]


def _measured(task: Task, student: Path, texts: Any, label_names: list[str]) -> float:
    """Of the first ONNX variant in 8 bits that the job makes, else of the first ONNX variant."""
    made_by_job = task.config.export.variants
    # Static graphs need training texts, which are not at hand here.
    names: list[VariantName] = [
        name for name in made_by_job if name != "student-pytorch-int8" and "-static-" not in name
    ] or ["onnx-int8"]
    name = min(names, key=lambda each: "int8" not in each)
    length = task.config.training.max_length
    with temporary_directory("latency") as scratch:
        made = scratch / "variant"
        threads = task.config.benchmark.num_threads
        # Sensitivity changes no latency, and needs training texts too.
        export = task.config.export.model_copy(update={"sensitivity": False})
        build_variant(name, student, made, config=export, max_length=length, num_threads=threads)
        row = RowSpec(name, "onnx", str(made), length, tokenizer_dir=str(student))
        columns = texts["text"][:], texts["label"][:]
        # Students are compared with one another here: all of them with the same session options.
        config = task.config.benchmark.model_copy(update={"tune_session": False, "floors": False})
        [measured] = measure_rows([row], BenchmarkTexts(*columns, *columns, label_names), config)
    return measured.latency_ms["p50"]
