"""Measure one model in a separate process: REQUEST.json in, OUT.json out, importing only what the model needs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DistiltuneError, InputError
from ...storage.folders import write_file
from ...texts import from_json
from ..out_of_scope.label_thresholds import choose_label_thresholds
from ..out_of_scope.thresholds import (
    ScopeGoal,
    answers_with_threshold,
    choose_threshold,
    measure_threshold,
    reliability,
    threshold_curves,
)
from ..runtime.scores import SCORES
from ..temperature import fit_sigmoid_temperature, fit_temperature
from . import targets
from .contention import time_undisturbed
from .measurements import PerformanceBenchmark, compressed_bytes, runtime_bytes
from .memory import peak_memory_mb
from .predictions import pack_answers
from .processes import end_with_parent
from .targets.base import Opened, OpenOptions
from .targets.outputs import SPLITS, ScoredModel, outputs_of

if TYPE_CHECKING:
    from ...training.tasks import Task

_TEXTS = tuple(f"{split}_texts" for split in SPLITS)
_ACCURACIES = ("accuracy", "in_scope_accuracy", "oos_recall")
"""Metrics that are fields of a measurement."""


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure the model described by ``spec``, which ``measure_models`` writes.

    Timing comes first, while the process is fresh; then throughput, memory and accuracy.
    """
    model, config = spec["model"], spec["config"]
    texts = spec["texts"] | {name: [*map(from_json, spec["texts"][name])] for name in _TEXTS}
    target = targets.get(model["kind"])
    if not target.is_run:
        return _known_answers(Path(model["directory"]), spec, texts)
    batch_sizes = config["gpu_batch_sizes" if target.needs_gpu else "batch_sizes"]
    opened = target.open(
        OpenOptions(
            directory=model["directory"],
            max_length=model["max_length"],
            tokenizer_dir=model["tokenizer_dir"],
            num_threads=config["num_threads"],
            session=model["session"],
            task=texts["task"],
            max_batch_size=max(batch_sizes),
        )
    )
    weights = opened.weights or Path(model["directory"])
    benchmark = PerformanceBenchmark(
        opened.pipeline,
        texts["test_texts"],
        name=model["name"],
        model_path=weights,
        num_warmups=config["num_warmups"],
        num_runs=config["num_runs"],
        num_sample_texts=config["num_sample_texts"],
        batch_sizes=batch_sizes,
        query=from_json(spec["query"]),
    )
    threads = config["num_threads"]
    first_call = benchmark.time_first_call()
    latency, waiting = time_undisturbed(model["name"], benchmark.time_pipeline, num_threads=threads)
    sample, waiting_in_sample = time_undisturbed(
        f"{model['name']}, sample", benchmark.time_sample, num_threads=threads
    )
    profile = _profile(opened, benchmark, threads)
    measured: dict[str, Any] = {
        "latency_ms": latency,
        "sample_latency_ms": sample,
        "profile_ms": None if profile is None else {**profile, "first_call": first_call},
        "waiting": max(waiting or 0.0, waiting_in_sample or 0.0) if waiting is not None else None,
        "throughput": benchmark.compute_throughput(),
        "peak_memory_mb": peak_memory_mb(),
        **benchmark.compute_size(),
        "num_nodes": opened.num_nodes,
        "engine_build_s": opened.engine_build_s,
        "cuda_graphs": _with_cuda_graphs(opened, benchmark),
    }
    if target.can_be_sealed:
        measured["files_mb"] = runtime_bytes(Path(model["directory"])) / 10**6
    if not target.has_accuracy:
        return measured
    if spec["compressed"]:
        measured["compressed_size_mb"] = compressed_bytes(weights) / 2**20
    logits = {split: outputs_of(opened, texts[f"{split}_texts"]) for split in SPLITS}
    scored = ScoredModel(opened.labels, logits, opened.threshold, opened.temperature)
    scored.save(Path(spec["logits_file"]))
    return measured | judge(scored, texts, spec["goal"])


def _known_answers(folder: Path, spec: dict[str, Any], texts: dict[str, Any]) -> dict[str, Any]:
    """Measure a model by its stored logits alone: accuracy without time, size and memory."""
    from ...training.teacher.file_teacher import LOGITS_FILE

    scored = ScoredModel.load(folder / LOGITS_FILE, None, None)
    scored.save(Path(spec["logits_file"]))
    unknown = dict.fromkeys(("size_mb", "latency_ms", "sample_latency_ms", "peak_memory_mb"))
    return {**unknown, "throughput": {}, **judge(scored, texts, spec["goal"])}


def _profile(opened: Opened, benchmark: PerformanceBenchmark, num_threads: int) -> dict[str, float] | None:
    """Measure where the query's time goes; None for a target that does not."""
    if opened.profile is None:
        return None
    timed = partial(
        opened.profile, benchmark.query, num_runs=benchmark.num_runs, num_warmups=benchmark.num_warmups
    )
    profile, _ = time_undisturbed(f"{benchmark.name}, stages", timed, num_threads=num_threads)
    return profile


def _with_cuda_graphs(opened: Opened, benchmark: PerformanceBenchmark) -> dict[str, Any] | None:
    """Time the model with CUDA graphs, or return why it cannot use them; None for a target that has none."""
    if opened.with_cuda_graphs is None:
        return None
    try:
        benchmark = copy(benchmark)
        benchmark.pipeline = opened.with_cuda_graphs()
        return {"latency_ms": benchmark.time_pipeline(), "throughput": benchmark.compute_throughput()}
    except DistiltuneError as error:  # such as a graph with nodes on the CPU
        return {"error": str(error)}


def judge(model: ScoredModel, texts: dict[str, Any], goal: dict[str, Any] | None) -> dict[str, Any]:
    """Measure accuracy without a threshold and with the model's own; select one for a model that has none.

    Args:
        model: The model.
        texts: The fields of :class:`BenchmarkTexts`.
        goal: ``config`` and ``label`` of the threshold selection; None: nothing is measured with a threshold.
    """
    # Imported here because pydantic must not count towards an ONNX model's memory.
    from ...training import tasks

    task = tasks.get(texts["task"])
    if not task.has_classes:
        return _judge_outputs(model, texts, task)
    names = _all_names(model.labels, texts["label_names"], goal)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split in SPLITS:
        labels = np.array([names.index(texts["label_names"][label]) for label in texts[f"{split}_labels"]])
        found[split] = model.logits[split], labels
    label = texts["out_of_scope_label"]
    outside = None if label is None else names.index(label)
    given = {split: task.predictions(logits) for split, (logits, _) in found.items()}
    right = {split: task.correct(given[split], labels) for split, (_, labels) in found.items()}
    calibration, reliable = _calibration(model, task, found, right["test"], outside)
    place = _places(names, texts["label_names"], goal)
    values = {split: task.metrics(given[split], found[split][1], outside) for split in SPLITS}
    measured: dict[str, Any] = {
        **{name: value for name, value in values["test"].items() if name in _ACCURACIES},
        "validation_accuracy": values["validation"].get("accuracy"),
        "metrics": _further(values),
        "calibration": calibration,
        "curves": {"reliability": reliable},
        "answers": {
            split: {
                "without_threshold": pack_answers(place[given[split]], right[split], place[found[split][1]])
            }
            for split in given
        },
    }
    if goal is not None and task.out_of_scope is not None:
        _judge_threshold(measured, model, found, task, goal, names, place)
    return measured


def _judge_outputs(model: ScoredModel, texts: dict[str, Any], task: Task) -> dict[str, Any]:
    """Measure a model of a task without one class for each text; several labels by a threshold for each of them."""
    names = texts["label_names"]
    if sorted(model.labels) != sorted(names):
        raise InputError(
            f"the model has the outputs {', '.join(model.labels)!s:.100}, the data {', '.join(names)!s:.100}; export "
            "the model again"
        )
    columns = [model.labels.index(name) for name in names]
    labels = {
        split: task.measured_labels(texts[f"{split}_texts"], texts[f"{split}_labels"]) for split in SPLITS
    }
    if task.of_tokens:
        calibration, reliable = _calibration_of_words(model, texts, columns)
        judged = _judged(task, _tagged(model, texts, columns, task), labels)
        return judged | {"calibration": calibration, "curves": {"reliability": reliable}}
    logits = {split: model.logits[split][:, columns] for split in SPLITS}
    calibration, curves, cuts = None, None, 0.0
    if task.has_label_sets:
        temperature, cuts = _cuts(model, texts, logits["validation"], labels["validation"])
        calibration, reliable = _calibration_of_labels(logits["test"], labels["test"], temperature)
        curves = {"reliability": reliable}
    given = {split: task.predictions(logits[split] - cuts) for split in SPLITS}
    return _judged(task, given, labels) | {"calibration": calibration, "curves": curves}


def _tagged(
    model: ScoredModel, texts: dict[str, Any], columns: list[int], task: Task
) -> dict[str, np.ndarray]:
    """Return the predictions of a model that tags the words of each split's texts."""
    given = {split: model.logits[split].with_columns(columns) for split in SPLITS}
    return {
        split: task.predictions_of_words(texts[f"{split}_texts"], own.spans, own.logits)
        for split, own in given.items()
    }


def _judged(task: Task, given: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Measure predictions on both splits, and pack them."""
    values = {split: task.metrics(given[split], labels[split]) for split in SPLITS}
    return {
        "validation_accuracy": None,
        "metrics": _further(values),
        "calibration": None,
        "curves": None,
        "answers": {
            split: {
                "without_threshold": pack_answers(
                    given[split], task.correct(given[split], labels[split]), labels[split]
                )
            }
            for split in SPLITS
        },
    }


def _further(values: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any] | None:
    """Return the task's metrics without a field of their own on both splits, by name; None where there are none."""
    names = [name for name in values["test"] if name not in _ACCURACIES]
    return {name: {split: values[split][name] for split in SPLITS} for name in names} or None


def _cuts(
    model: ScoredModel, texts: dict[str, Any], logits: np.ndarray, labels: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return a model's temperature and the logit of each label's threshold, its own or chosen as for variants."""
    from ..out_of_scope.config import LabelThresholdsConfig

    temperature, names, config = model.temperature, texts["label_names"], texts["label_thresholds"]
    if temperature is None:
        temperature = fit_sigmoid_temperature(logits, labels)
    found = model.threshold
    if found is None and config is not None:
        wanted = LabelThresholdsConfig.model_validate(config)
        found = choose_label_thresholds(logits, labels, names, wanted, temperature)
    if found is None:
        return temperature, np.zeros(len(names))
    own = dict(zip(found.labels, found.cuts(temperature), strict=True))
    return temperature, np.array([own[name] for name in names])


def _calibration_of_labels(
    logits: np.ndarray, labels: np.ndarray, temperature: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure how well the probabilities of all labels of all texts are calibrated, as ``_calibration`` returns it."""
    measured: dict[str, Any] = {"temperature": temperature}
    bins: list[dict[str, Any]] = []
    for stage, divisor in (("before", 1.0), ("after", temperature)):
        scores = 0.5 + 0.5 * np.tanh(0.5 * logits.astype(np.float64) / divisor)
        found = reliability(scores.ravel(), (labels > 0).ravel())
        measured |= {f"in_scope_error_{stage}": found["ece"], f"out_of_scope_error_{stage}": None}
        bins = found["bins"]
    return measured, bins


def _calibration_of_words(
    model: ScoredModel, texts: dict[str, Any], columns: list[int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure how well the probabilities of the words' tags are calibrated, as ``_calibration`` returns it."""
    given = {split: model.logits[split].with_columns(columns) for split in SPLITS}
    labels = {split: given[split].labels(texts[f"{split}_labels"]) for split in SPLITS}
    temperature = model.temperature
    if temperature is None:
        temperature = fit_temperature(given["validation"].logits.values, labels["validation"])
    measured: dict[str, Any] = {"temperature": temperature}
    bins: list[dict[str, Any]] = []
    logits = given["test"].logits.values
    for stage, divisor in (("before", 1.0), ("after", temperature)):
        scaled = logits.astype(np.float64) / divisor
        # Of equal logits, any tag is as probable.
        right = scaled[np.arange(len(scaled)), labels["test"]] >= scaled.max(axis=1)
        found = reliability(SCORES["max_softmax"](scaled), right)
        measured |= {f"in_scope_error_{stage}": found["ece"], f"out_of_scope_error_{stage}": None}
        bins = found["bins"]
    return measured, bins


def _calibration(
    model: ScoredModel,
    task: Task,
    found: dict[str, tuple[np.ndarray, np.ndarray]],
    right: np.ndarray | None,
    outside: int | None,
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Measure how well probabilities are calibrated on test; return that and the bins of the reliability diagram.

    A model without a temperature of its own gets one that is fitted on the validation split, as variants do.
    """
    if right is None or task.class_probabilities(found["test"][0]) is None:
        return None, []
    logits, labels = found["validation"]
    temperature = model.temperature
    if temperature is None:
        known = (labels < logits.shape[1]) & (labels != outside)
        temperature = fit_temperature(logits[known], labels[known])
    logits, labels = found["test"]
    inside = labels != outside if outside is not None else np.ones(len(labels), bool)
    before, after = (SCORES["max_softmax"](logits / divisor) for divisor in (1.0, temperature))
    measured: dict[str, Any] = {"temperature": temperature}
    for name, rows in (("in_scope", inside), ("out_of_scope", ~inside)):
        for stage, confidence in (("before", before), ("after", after)):
            error = reliability(confidence[rows], right[rows])["ece"] if rows.any() else None
            measured[f"{name}_error_{stage}"] = error
    rows = inside if inside.any() else ~inside
    return measured, reliability(after[rows], right[rows])["bins"]


def _judge_threshold(
    measured: dict[str, Any],
    model: ScoredModel,
    found: dict[str, tuple[np.ndarray, np.ndarray]],
    task: Task,
    goal: dict[str, Any],
    names: list[str],
    place: np.ndarray,
) -> None:
    """Add the measurements with a threshold to those of a model."""
    from ..out_of_scope.config import OutOfScopeConfig

    scope, number = task.out_of_scope, names.index(goal["label"])
    assert scope is not None
    wanted = ScopeGoal(OutOfScopeConfig.model_validate(goal["config"]), goal["label"])
    threshold = model.threshold or choose_threshold(scope, *found["validation"], number, wanted)
    validation = measure_threshold(scope, threshold, *found["validation"], number)
    measured["with_threshold"] = {
        **measure_threshold(scope, threshold, *found["test"], number),
        "validation_accuracy": validation["accuracy"],
    }
    measured["curves"] |= threshold_curves(scope, threshold, *found["test"], number)
    for split, (logits, labels) in found.items():
        given = answers_with_threshold(scope, threshold, logits, number)
        right = task.correct(given, labels)
        measured["answers"][split]["with_threshold"] = pack_answers(place[given], right, place[labels])


def _all_names(own: list[str], of_data: list[str], goal: dict[str, Any] | None) -> list[str]:
    """Return the model's labels in order, followed by labels that only the data or the threshold have.

    Raises:
        InputError: The model has a label that the data lack.
    """
    for label in own:
        if label not in of_data:
            raise InputError(
                f"label {label!r} is not one of the {len(of_data)} labels of the data; export the model again"
            )
    return list(dict.fromkeys([*own, *of_data, *([] if goal is None else [goal["label"]])]))


def _places(names: list[str], of_data: list[str], goal: dict[str, Any] | None) -> np.ndarray:
    """Map a model's ``names`` to an order that all models share: the data's labels, then the threshold's label."""
    shared = list(dict.fromkeys([*of_data, *([] if goal is None else [goal["label"]])]))
    return np.array([shared.index(name) for name in names])


def main() -> None:
    """Measure one model."""
    end_with_parent()
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("spec", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    measured = measure(json.loads(arguments.spec.read_text(encoding="utf-8")))
    write_file(arguments.out, json.dumps(measured, allow_nan=False))


if __name__ == "__main__":
    main()
