"""Functions that run inside Ray tasks; they take run store keys, configurations and arrays, and return records."""

from __future__ import annotations

import logging
import socket
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...export.benchmark.measure_models import BenchmarkTexts, Measurement, MeasurementSpec, measure_models
from ...export.benchmark.targets.baseline import BASELINE
from ...export.machine import describe_machine
from ...export.out_of_scope.fit_scores import ValidationTexts
from ...export.selection.interleaved import measure_ratios
from ...export.variants import kinds
from ...export.variants.build import build_variant
from ...progress import Progress
from ...search.space.students import student_keys
from ...search.trial.device import own_device
from ...storage.environment import remove_process_group
from ...storage.logs import LogWriter, logged_to
from ...storage.retry import refusal_of
from ...storage.store import Store
from ...texts import texts_of
from ...training import tasks as learning
from ...training.checkpoints.unfinished import UnfinishedTraining
from ...training.data.text_data import TextData
from ...training.machine import describe_device
from ...training.student.build import build_student
from ...training.student.config import student_section
from ...training.student.piece_states import StatesCache
from ..specification.config import JobConfig
from ..specification.goal import goal_of
from ..store.input_files import with_local_inputs
from ..store.runs import PIECES, Run
from ..store.shared_work import computed_once
from ..store.stage_index import write_result
from .baselines import with_training_texts

COUNTS = ("done", "total")
"""Values of a task's progress that are passed to the driver with the message."""


@dataclass(frozen=True)
class Task:
    """Context that every task receives.

    Attributes:
        store: The run store.
        config: The job's specification.
        log: Key of the log that the task writes.
        progress: Key of the record with the task's latest progress; it exists once the task has been placed on a node.
        num_threads: Number of threads to compute with.
        use_gpu: Whether the task has a GPU.
        unfinished: Prefix of the keys for the states of unfinished trainings.
        run_id: The run that the task belongs to.
    """

    store: Store
    config: JobConfig
    log: str
    progress: str
    num_threads: int
    use_gpu: bool
    unfinished: str
    run_id: str = ""

    def report(self, progress: Progress) -> None:
        """Report progress to the driver, which shows its message, and to the task's log."""
        counts = {name: progress.values[name] for name in COUNTS if name in progress.values}
        self.store.write_json(self.progress, {"text": progress.message, **counts})
        logging.getLogger("distiltune").info(progress.message)

    @property
    def local_config(self) -> JobConfig:
        """Specification with paths of this machine in place of references into the store."""
        return with_local_inputs(self.config, self.store)

    def computed_once(self, key: str, doing: str) -> AbstractContextManager[None]:
        """Hold the lock for computing the folder ``key``, after waiting for processes that compute it (``doing``)."""
        return computed_once(self.store, key, doing, run_id=self.run_id, report=self.report)

    def local_copy(self, key: str) -> Path:
        """Return the local copy of a folder in the store, or the path to create it at if there is none yet."""
        try:
            return self.store.fetch(key)
        except FileNotFoundError:
            return self.store.local(key)


def call(function: Callable[..., Any], task: Task, *arguments: Any) -> Any:
    """Run a task's function and write its log to the run store."""
    from ...training.models.passes import tokens_of_passes

    remove_process_group()  # variables inherited from the shell that started this node
    writer = LogWriter(task.store, task.log)
    with logged_to(writer):
        task.store.write_json(task.progress, {"text": ""})
        try:
            with own_device(use_gpu=task.use_gpu):
                device = describe_device(use_gpu=task.use_gpu)
                logging.getLogger("distiltune").info(
                    "%s on %s, %s", function.__name__, socket.gethostname(), device
                )
                with tokens_of_passes(task.config.training.batch_tokens):
                    return function(task, *arguments)
        except BaseException as error:
            writer.write(traceback.format_exc())
            refused = refusal_of(error, str(task.store))
            if refused is not None:
                raise refused from None
            raise


def make_student(
    task: Task, teacher_key: str, data: TextData, key: str, searched: dict[str, Any]
) -> dict[str, Any]:
    """Write a student checkpoint that trials start from, with ``searched`` arguments in place of specified ones."""
    config, teacher = task.local_config, task.store.fetch(teacher_key)
    student = student_section(config.student, student_keys(searched), teacher)
    made = {"teacher": teacher_key, "searched": searched}
    known = task.store.read_json(f"{key}.made.json") if student.is_pretrained else None
    if known is not None and known["made"] == made and task.store.has_folder(key):
        return known["record"]
    unfinished = UnfinishedTraining(task.store, f"{task.unfinished}-{key.rpartition('/')[2]}")
    record = build_student(
        student,
        teacher,
        data.class_names,
        task.store.local(key),
        max_length=config.training.num_tokens,
        texts=(texts_of(data.splits["train"]), data.unlabelled),
        labels=data.splits["train"]["label"][:],
        validation_texts=texts_of(data.splits["validation"]),
        num_threads=task.num_threads,
        use_gpu=task.use_gpu,
        report=task.report,
        task=learning.get(config.task),
        unfinished=unfinished,
        states=StatesCache(task.store, PIECES),
    )
    task.store.publish(key)
    if student.is_pretrained:
        task.store.write_json(f"{key}.made.json", {"made": made, "record": record})
        unfinished.forget()
    return record


def make_variant(
    task: Task,
    name: str,
    run_id: str,
    data: TextData,
    base_key: str | None,
    index_key: str,
    instruction_sets: list[str],
) -> dict[str, Any]:
    """Export one variant of a run's best checkpoint, starting from the plain graph at ``base_key`` if given.

    If this machine has the given instruction sets, for which ``index_key`` was computed, the variant is entered in the
    index under it.
    """
    run = Run(task.store, run_id)
    key = run.variant(name)
    task.store.delete(run.key(variant_record(name)))  # the folder that it describes is about to be replaced
    export = task.config.export
    takes_texts = kinds.get(name).takes_texts(sensitivity=export.sensitivity)
    made = build_variant(
        name,
        task.store.fetch(run.best),
        task.store.local(key),
        config=export,
        max_length=task.config.training.num_tokens,
        task=task.config.task,
        out_of_scope_label=data.out_of_scope_label,
        num_threads=task.config.benchmark.num_threads,
        base_onnx=None if base_key is None else task.store.fetch(base_key) / "model.onnx",
        validation=validation_texts(task.config, data),
        training_texts=texts_of(data.splits["train"]) if takes_texts else [],
        takes_pairs=data.has_pairs,
    )
    task.store.publish(key)
    record = made.to_json()
    if describe_machine()["instruction_sets"] == instruction_sets:
        write_result(run, variant_record(name), index_key, record)
    return record


def variant_record(name: str) -> str:
    """Return the name of the record of a variant's folder in a run."""
    return f"variants/{name}.made.json"


def measurement_record(name: str) -> str:
    """Return the name of the record of a model's measurement in a run."""
    return f"measurements/{name}.json"


def measured_logits(name: str) -> str:
    """Return the name of the logits that belong to a model's measurement in a run."""
    return f"measurements/{name}.npz"


def validation_texts(config: JobConfig, data: TextData) -> ValidationTexts:
    """Return the labelled texts on which a variant's temperature and thresholds are fitted."""
    rows, names, labels = data.splits["validation"], data.label_names, data.splits["validation"]["label"][:]
    return ValidationTexts(
        texts_of(rows),
        [names[label] for label in labels] if learning.get(config.task).has_classes else labels,
        goal_of(config, data),
        data.out_of_scope_label,
        config.export.label_thresholds,
    )


def benchmark_texts(config: JobConfig, data: TextData) -> BenchmarkTexts:
    """Return the texts on which every model of a job is measured."""
    validation, test = data.splits["validation"], data.splits["test"]
    return BenchmarkTexts(
        texts_of(validation),
        validation["label"][:],
        texts_of(test),
        test["label"][:],
        data.label_names,
        data.out_of_scope_label,
        config.task,
        None if config.export.label_thresholds is None else config.export.label_thresholds.model_dump(),
    )


def measure(
    task: Task, specs: list[MeasurementSpec], data: TextData, run_id: str, index_keys: Mapping[str, str]
) -> dict[str, Any]:
    """Measure every model on this node, one after another, and describe the machine.

    The models' directories are keys of the store. A model that has a key in ``index_keys`` is entered in the index as
    soon as it is measured.
    """
    run = Run(task.store, run_id)

    def keep(measurement: Measurement, logits: Path) -> None:
        name = measurement.name
        if name in index_keys:
            # The logits that belong to the old record are about to be replaced.
            task.store.delete(run.key(measurement_record(name)))
            if logits.is_file():
                task.store.upload(logits, run.key(measured_logits(name)))
            write_result(run, measurement_record(name), index_keys[name], measurement.to_json())

    machine, left_out = describe_machine(), {}
    with with_training_texts(specs, task.config, task.store, data) as prepared:
        measured = measure_models(
            [_here(task.store, spec) for spec in prepared],
            benchmark_texts(task.config, data),
            task.config.benchmark,
            goal=goal_of(task.config, data),
            compressed=task.config.training.pruning is not None,
            report=task.report,
            keep=keep,
            leave_out=left_out.__setitem__,
        )
    rows = [each.to_json() for each in measured]
    return {"measurements": rows, "machine": machine, "left_out": left_out}


def time_models(
    task: Task,
    label_names: list[str],
    variant: tuple[MeasurementSpec, Measurement],
    bases: list[tuple[MeasurementSpec, Measurement]],
) -> dict[str, Any]:
    """Time a variant in turns with other models on this node; their directories are keys of the store."""
    return ratios_of(task.store, task.config, label_names, variant, bases)


def ratios_of(
    store: Store,
    config: JobConfig,
    label_names: list[str],
    variant: tuple[MeasurementSpec, Measurement],
    bases: list[tuple[MeasurementSpec, Measurement]],
) -> dict[str, Any]:
    """Return how many times faster a variant is than other models, as JSON values by their names."""
    here = [(_here(store, spec), measured) for spec, measured in (variant, *bases)]
    outputs = learning.get(config.task).num_outputs(label_names)
    effort = config.benchmark.effort
    found = measure_ratios(here[0], here[1:], task=config.task, num_outputs=outputs, effort=effort)
    return {name: ratio.to_json() for name, ratio in found.items()}


def _here(store: Store, spec: MeasurementSpec) -> MeasurementSpec:
    if spec.kind == BASELINE:  # it has no folder in the store
        return spec
    tokenizer = None if spec.tokenizer_dir is None else str(store.fetch(spec.tokenizer_dir))
    return replace(spec, directory=str(store.fetch(spec.directory)), tokenizer_dir=tokenizer)
