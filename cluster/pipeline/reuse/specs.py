"""Specifications of the models that a run measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....export.benchmark import targets
from ....export.benchmark.measure_models import MeasurementSpec
from ....export.benchmark.targets.known_answers import KNOWN_ANSWERS
from ....export.report.report import REFERENCE
from ....export.selection.gate import STUDENT, TEACHER
from ....export.variants import kinds
from ....training.teacher.file_teacher import is_measurable
from ...remote.baselines import baseline_specs
from ...specification.config import JobConfig
from ...store.runs import Run


def exported_variants(run: Run) -> list[dict[str, Any]]:
    """Return the records of the variants that a run has exported."""
    return run.stage_record("export")["result"]["variants"]


def measurement_specs(
    config: JobConfig, run: Run, exported: Sequence[Mapping[str, Any]] | None = None
) -> list[MeasurementSpec]:
    """Return the models that a run measures, with keys of the store as their directories.

    ``exported`` are the records of the variants, by default those of the run's export.
    """
    length, best, places = config.training.num_tokens, run.best, config.benchmark.targets
    record = run.stage_record("teacher")["result"]
    teacher, from_file = record["key"], config.teacher.logits is not None
    # Always measured on the CPU, since the gate compares variants with them.
    originals = [MeasurementSpec(STUDENT, "pytorch", best, length)]
    if not from_file or is_measurable(record):
        kind = KNOWN_ANSWERS if from_file else "pytorch"
        originals.insert(0, MeasurementSpec(TEACHER, kind, teacher, length))
    variants = [
        MeasurementSpec(
            name,
            kinds.get(name).target,
            run.variant(name),
            length,
            tokenizer_dir=best,
            max_abs_diff=made["max_abs_diff"],
            fused=made["fused"],
        )
        for made in (exported_variants(run) if exported is None else exported)
        for name in [made["name"]]
    ]
    specs = [*originals, *(variants if targets.CPU in places else [])]
    if config.benchmark.reference:
        specs.append(MeasurementSpec(REFERENCE, "reference", teacher, length))
    specs += baseline_specs(config)
    on_gpu = [targets.get(place) for place in places if place != targets.CPU]
    return [
        *specs,
        *(
            spec.on(target.name)
            for target in on_gpu
            for spec in [*originals, *variants]
            if _runs_on(spec, target)
        ),
    ]


def _runs_on(spec: MeasurementSpec, target: targets.Target) -> bool:
    """Return whether a model is also measured on a GPU target."""
    of_variant = kinds.get(spec.name).gpu_targets if spec.name in kinds.names() else (target.name,)
    return spec.kind == target.measures and target.name in of_variant
