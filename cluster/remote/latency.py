"""A task that measures latency and size of an untrained student; the result is cached per student and machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...export.benchmark.measure_models import BenchmarkTexts, MeasurementSpec, measure_models, median_text
from ...export.machine import describe_machine, without_load
from ...export.variants import kinds
from ...export.variants.base import Variant
from ...export.variants.build import build_variant
from ...search.space.students import MEASURED_METRICS
from ...storage.temporary import temporary_directory
from ...texts import PAIR_COLUMN, texts_of
from ..store.runs import LATENCIES
from .tasks import Task

_IRRELEVANT_KEYS = {"baselines", "model2vec", "targets", "gpu_batch_sizes", "lengths"}
"""Keys of the section ``benchmark`` that do not affect these measurements."""
_NUM_TEXTS = 100  # for scales, on which neither latency nor size depends


def measure_student(
    task: Task,
    student_key: str,
    teacher_key: str,
    texts: Any,
    label_names: list[str],
    num_embeddings: int | None,
) -> dict[str, float]:
    """Return a student's median ``latency_ms`` and its ``size_mb``, as exported; measured once per kind of machine.

    Args:
        task: The task.
        student_key: Key of the student's starting checkpoint.
        teacher_key: Key of the prepared teacher.
        texts: Validation texts.
        label_names: Names of the labels.
        num_embeddings: Distinct rows of the student's token embedding, if known: its configuration has the number of
            all rows, and equal rows are exported once.
    """
    config, student, machine = task.config, task.store.fetch(student_key), describe_machine()
    shapes = json.loads((student / "config.json").read_text(encoding="utf-8"))
    variant = timed_variant(config.export.variants, shapes)
    settings = {
        "metrics": MEASURED_METRICS,
        "teacher": teacher_key,
        "student": shapes,
        "num_embeddings": num_embeddings,
        "export": config.export.model_dump(mode="json"),
        "benchmark": config.benchmark.model_dump(mode="json", exclude=_IRRELEVANT_KEYS),
        "variant": variant.name,
        "max_length": config.training.num_tokens,
        "query": median_text(texts_of(texts)),
        "machine": without_load(machine),
    }
    key = f"{LATENCIES}/{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()}.json"
    found = task.store.read_json(key)
    if found is None:
        found = {**_measured(task, student, variant, texts, label_names), "machine": machine}
        task.store.write_json(key, found)
    return {name: found[name] for name in MEASURED_METRICS}


def _measured(
    task: Task, student: Path, variant: Variant, texts: Any, label_names: list[str]
) -> dict[str, float]:
    """Return latency and size of the student, exported as this variant."""
    length = task.config.training.num_tokens
    with temporary_directory("latency") as scratch:
        made = scratch / "variant"
        threads = task.config.benchmark.num_threads
        # Sensitivity analysis does not change the latency.
        export = task.config.export.model_copy(update={"sensitivity": False})
        options: dict[str, Any] = {"max_length": length, "num_threads": threads, "task": task.config.task}
        options["takes_pairs"] = PAIR_COLUMN in texts.column_names
        if variant.needs_texts:
            options["training_texts"] = texts_of(texts)[:_NUM_TEXTS]
        build_variant(variant.name, student, made, config=export, **options)
        row = MeasurementSpec(variant.name, variant.target, str(made), length, tokenizer_dir=str(student))
        columns = texts_of(texts), texts["label"][:]
        # Students are compared with one another, so all of them use the same session options.
        unused = {"tune_session": False, "floors": False, "lengths": []}
        config = task.config.benchmark.model_copy(update=unused)
        given = BenchmarkTexts(*columns, *columns, label_names, task=task.config.task)
        [measured] = measure_models([row], given, config)
    return {"latency_ms": measured.p50_ms, "size_mb": measured.megabytes}


def timed_variant(names: list[str], student: Mapping[str, Any]) -> Variant:
    """Select the variant to compare latencies of: the first variant of the job with 8-bit products.

    If there is none, return the first variant that can be sealed. Variants that are not timed untrained are
    skipped, and so are those that a student with this ``config.json`` cannot have. If no variant of the job is left,
    select among all registered variants.
    """
    skipped = kinds.inapplicable(kinds.names(), student)

    def fitting(variants: list[Variant]) -> list[Variant]:
        return [
            each
            for each in variants
            if each.can_be_sealed and each.is_timed_untrained and each.name not in skipped
        ]

    found = fitting([kinds.get(name) for name in names]) or fitting(kinds.variants())
    return min(found, key=lambda each: each.activation_bits != 8)
