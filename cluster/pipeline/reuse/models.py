"""Reuse single variants and measurements of any run in the same storage whose inputs are the same."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ....errors import DistiltuneError, ExportError
from ....export.artifact.manifest import CONFIG_FILE
from ....export.benchmark import targets
from ....export.benchmark.measure_models import Measurement, MeasurementSpec, judge_again
from ....export.benchmark.targets.baseline import BASELINE
from ....export.benchmark.targets.known_answers import KNOWN_ANSWERS
from ....export.machine import describe_machine, without_load
from ....export.out_of_scope.fit_scores import refit_scores
from ....export.variants import kinds
from ....storage.folders import file_sha256
from ....storage.temporary import temporary_directory
from ....training.teacher.file_teacher import LOGITS_FILE
from ...remote.baselines import baseline_content, left_out
from ...remote.tasks import (
    benchmark_texts,
    measured_logits,
    validation_texts,
    variant_record,
)
from ...specification.config import JobConfig
from ...specification.goal import goal_of, score_of
from ...store.runs import Run, now
from ...store.stage_index import find_result
from .search import copy_folder, hash_of
from .specs import exported_variants, measurement_specs

if TYPE_CHECKING:
    from ....training.data.text_data import TextData

logger = logging.getLogger(__name__)

_TOKENIZER_FILE = "tokenizer.json"
_NOT_IN_A_VARIANT = {"variants", "choose", "out_of_scope", "label_thresholds"}
_NOT_IN_A_MEASUREMENT = {"interleaved", "reuse", "baselines", "model2vec", "targets"}


class ModelReuse:
    """Finds variants and measurements for one job, in any run of its storage, by the content of their inputs.

    A variant's key covers the content of the student's checkpoint, the texts, the keys of ``export`` that it depends
    on, the instruction sets of the processor and the versions of the libraries. A measurement's key covers the content
    of the model, the texts, the section ``benchmark`` and this machine, since measurements of different machines are
    not comparable; measurements on a cluster have no key. The goal of the out-of-scope threshold is in neither key,
    because it is applied to stored logits.

    Args:
        config: The specification.
        run: The run of the job, whose search is finished.
        data: Texts of the job.
    """

    def __init__(self, config: JobConfig, run: Run, data: TextData) -> None:
        self._config = config
        self._run = run
        self._data = data
        self._variants: dict[str, dict[str, Any]] | None = None
        self._contents: dict[str, str] = {}

    def finish_stages(self) -> dict[str, str]:
        """Finish export if every variant is found, then benchmark if every measurement is found.

        Returns:
            For each stage that was finished, a description of what was reused.
        """
        reused: dict[str, str] = {}
        if not self._is_finished("export"):
            made = self.variants()
            if set(made) < set(self.variant_names):
                return reused
            reused["export"] = self._finish("export", *self.exported(made))
        if not self._is_finished("benchmark"):
            specs = measurement_specs(self._config, self._run)
            found = self.measurements(specs)
            if len(found) < len(specs):
                return reused
            reused["benchmark"] = self._finish("benchmark", *self.measured(specs, found, None))
        return reused

    def available(self) -> set[str]:
        """Return which of the stages export and benchmark ``finish_stages`` would finish, without copying anything."""
        if not self._config.storage.reuse:
            return set()
        entries = [find_result(self._run.store, self.variant_key(name)) for name in self.variant_names]
        made = [entry[1]["result"] for entry in entries if entry is not None]
        if len(made) < len(entries):
            return set()
        specs = measurement_specs(self._config, self._run, made)
        found = self.measurements(specs, made)
        return {"export", "benchmark"} if len(found) == len(specs) else {"export"}

    def exported(self, made: Mapping[str, dict[str, Any]]) -> tuple[dict[str, Any], str]:
        """Return the result and summary of the export stage, from the record of each variant."""
        names, skipped = self.variant_names, self._skipped
        sources = {name: made[name]["reused_from"] for name in names if made[name].get("reused_from")}
        text = ", ".join(names) + _origin(sources, len(names))
        text += "".join(f"; skipped {name}: {reason}" for name, reason in skipped.items())
        return {"variants": [made[name] for name in names], "skipped": skipped}, text

    def measured(
        self,
        specs: Sequence[MeasurementSpec],
        found: Mapping[str, Measurement],
        machine: dict[str, Any] | None,
        failed: Mapping[str, str] = MappingProxyType({}),
        gpu_machine: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], str]:
        """Return the result and summary of the benchmark stage, from the measurement of each model.

        Args:
            specs: Models of the benchmark.
            found: Their measurements by name.
            machine: The node that measured at least one of them now; None if all are reused.
            failed: Models that could not be measured, with the reason.
            gpu_machine: The node that measured models on a GPU.
        """
        rows = [found[spec.name] for spec in specs if spec.name not in failed]
        sources = {row.name: row.reused["run_id"] for row in rows if row.reused is not None}
        here = {**self._machine, "load_average": None}
        has_gpu = any(targets.get(row.kind).needs_gpu for row in rows)
        return (
            {
                "measurements": [row.to_json() for row in rows],
                "machine": machine or here,
                "gpu_machine": (gpu_machine or here) if has_gpu else None,
                "label_names": list(self._data.label_names),
                "out_of_scope_id": self._data.out_of_scope_id,
                "left_out": {**left_out(self._config), **failed},
            },
            f"{len(rows)} models measured{_origin(sources, len(rows))}",
        )

    # Variants

    @cached_property
    def variant_names(self) -> list[str]:
        """The variants of the job that the student can have.

        Raises:
            ExportError: There are none that can be sealed.
        """
        names, skipped = self._config.export.variants, self._skipped
        kept = [name for name in names if name not in skipped]
        if not any(kinds.get(name).can_be_sealed for name in kept):
            reason = "; ".join(dict.fromkeys(skipped.values()))
            raise ExportError(
                f"export.variants: {', '.join(names)} given, none of which this student can have and be sealed as "
                f"({reason}); add {kinds.plain.PLAIN.name}"
            )
        return kept

    @cached_property
    def _skipped(self) -> dict[str, str]:
        """Variants of the job that the student cannot have, with the reason of each."""
        config = self._run.store.read_json(f"{self._run.best}/{CONFIG_FILE}") or {}
        return kinds.inapplicable(self._config.export.variants, config)

    def variant_key(self, name: str) -> str:
        """Return the key of a variant."""
        variant, export = kinds.get(name), self._config.export
        section = export.model_dump(mode="json", exclude=_NOT_IN_A_VARIANT)
        if not variant.needs_texts:
            section.pop("static")
        if not variant.has_sensitivity:
            section.pop("sensitivity")
        return hash_of(
            {
                "variant": name,
                "student": self._content(self._run.best),
                "export": section,
                "data": self._data.fingerprint,
                "max_length": self._config.training.num_tokens,
                "task": self._config.task,
                "instruction_sets": self.instruction_sets,
                "versions": self._machine["versions"],
            }
        )

    def variants(self) -> dict[str, dict[str, Any]]:
        """Copy variants of any run into this one, with thresholds for this job's goal.

        Returns:
            The record of each variant that was found, by name.
        """
        if self._variants is None:
            names = self.variant_names if self._config.storage.reuse else []
            found = {name: self._copy_variant(name) for name in names}
            self._variants = {name: record for name, record in found.items() if record is not None}
        return self._variants

    def _copy_variant(self, name: str) -> dict[str, Any] | None:
        store, found = self._run.store, find_result(self._run.store, self.variant_key(name))
        if found is None:
            return None
        source, record = found

        def fit(folder: Path) -> None:
            if kinds.get(name).can_be_sealed:
                validation = validation_texts(self._config, self._data)
                refit_scores(folder, validation, num_threads=self._config.benchmark.num_threads)

        try:
            if source != self._run:  # delete the record of the folder that is about to be replaced
                store.delete(self._run.key(variant_record(name)))
            copy_folder(store, source.variant(name), self._run.variant(name), fit)
        except (DistiltuneError, OSError) as error:  # such as a run that is being deleted
            logger.info("%s of run %s cannot be reused: %s", name, source.id, error)
            return None
        origin = {} if source == self._run else {"reused_from": source.id}
        return {**record["result"], "seconds": 0.0, **origin}

    # Measurements

    def measurement_keys(
        self, specs: Sequence[MeasurementSpec], made: Sequence[Mapping[str, Any]] | None = None
    ) -> dict[str, str]:
        """Return the key of each model's measurement by the model's name; nothing on a cluster.

        ``made`` are the records of the variants; by default those of the run's export.
        """
        if self._config.resources.address is not None:
            return {}
        made = exported_variants(self._run) if made is None else made
        contents = {each["name"]: each["content"] for each in made}
        return {spec.name: self._measurement_key(spec, contents) for spec in specs}

    def measurements(
        self, specs: Sequence[MeasurementSpec], made: Sequence[Mapping[str, Any]] | None = None
    ) -> dict[str, Measurement]:
        """Return measurements of any run, evaluated for this job's goal, by the model's name."""
        if not (self._config.storage.reuse and self._config.benchmark.reuse):
            return {}
        keys = self.measurement_keys(specs, made)
        found = {spec.name: self._found(spec, keys[spec.name]) for spec in specs if spec.name in keys}
        return {name: each for name, each in found.items() if each is not None}

    def _measurement_key(self, spec: MeasurementSpec, contents: Mapping[str, str]) -> str:
        config, target = self._config, targets.get(spec.kind)
        unread = {*_NOT_IN_A_MEASUREMENT, "batch_sizes" if target.needs_gpu else "gpu_batch_sizes"}
        return hash_of(
            {
                "kind": spec.kind,
                "content": self._content_of(spec, contents),
                "max_length": spec.max_length,
                "data": self._data.fingerprint,
                "task": config.task,
                "benchmark": config.benchmark.model_dump(mode="json", exclude=unread),
                "compressed": config.training.pruning is not None,
                # The runtime computes the score of every text; its threshold costs no time.
                "score": score_of(config, self._data) if target.is_onnx else None,
                "machine": self._machine,
            }
        )

    def _content_of(self, spec: MeasurementSpec, contents: Mapping[str, str]) -> str:
        if spec.model_name in contents:
            return contents[spec.model_name]
        if spec.kind == BASELINE:
            return baseline_content(self._config, spec.name)
        if spec.kind == KNOWN_ANSWERS:
            return file_sha256(self._run.store.fetch(spec.directory) / LOGITS_FILE)
        if spec.kind == "reference":  # only the teacher's tokenizer is used
            return file_sha256(self._run.store.fetch(spec.directory) / _TOKENIZER_FILE)
        return self._content(spec.directory)

    def _found(self, spec: MeasurementSpec, key: str) -> Measurement | None:
        store, found = self._run.store, find_result(self._run.store, key)
        if found is None:
            return None
        source, record = found
        try:
            measured = replace(
                Measurement.from_json(record["result"]),
                name=spec.name,
                model=spec.model,
                max_abs_diff=spec.max_abs_diff,
                fused=spec.fused,
            )
            if source != self._run:
                measured = replace(measured, reused={name: record[name] for name in ("run_id", "at")})
            if not targets.get(spec.kind).has_accuracy:
                return measured
            goal = goal_of(self._config, self._data)
            texts = benchmark_texts(self._config, self._data)
            with temporary_directory("logits") as scratch:
                logits = scratch / "logits.npz"
                store.download(source.key(measured_logits(record["result"]["name"])), logits)
                folder = store.fetch(spec.directory) if spec.directory else None
                return judge_again(measured, logits, folder, texts, goal)
        except (DistiltuneError, OSError, KeyError, TypeError) as error:
            logger.info("%s of run %s cannot be reused: %s", spec.name, source.id, error)
            return None

    # Both

    @cached_property
    def _machine(self) -> dict[str, Any]:
        return without_load(describe_machine())

    @property
    def instruction_sets(self) -> list[str]:
        """Instruction sets in the keys of variants: those of this machine."""
        return self._machine["instruction_sets"]

    def _content(self, key: str) -> str:
        from ....training.checkpoints.load import checkpoint_fingerprint

        if key not in self._contents:
            self._contents[key] = checkpoint_fingerprint(self._run.store.fetch(key))
        return self._contents[key]

    def _is_finished(self, stage: str) -> bool:
        return self._run.stage_record(stage).get("state") == "finished"

    def _finish(self, stage: str, result: dict[str, Any], text: str) -> str:
        moment = {"started": now(), "ended": now(), "seconds": 0.0}
        self._run.write(
            f"stages/{stage}.json",
            {"stage": stage, "state": "finished", **moment, "text": text, "result": result},
        )
        return text


def _origin(sources: Mapping[str, str], num_all: int) -> str:
    """Describe, in parentheses, which runs the reused results among ``num_all`` come from."""
    by_run: dict[str, list[str]] = defaultdict(list)
    for name, run_id in sources.items():
        by_run[run_id].append(name)
    if len(by_run) == 1 and len(sources) == num_all:
        return f" (of run {next(iter(by_run))})"
    parts = [f"of run {run_id}: {', '.join(names)}" for run_id, names in by_run.items()]
    return f" ({'; '.join(parts)})" if parts else ""
