"""Measure one model in a separate process: REQUEST.json in, OUT.json out, importing only what the model needs."""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DistiltuneError, InputError
from ...storage.folders import write_file
from ..out_of_scope.thresholds import (
    ScopeGoal,
    answers_with_threshold,
    choose_threshold,
    measure_threshold,
    reliability,
    threshold_curves,
)
from ..runtime.scores import SCORES, Threshold
from ..temperature import fit_temperature
from . import targets
from .contention import time_undisturbed
from .measurements import PerformanceBenchmark, compressed_bytes, runtime_bytes
from .memory import peak_memory_mb
from .predictions import pack_answers
from .processes import end_with_parent
from .targets.base import Opened, OpenOptions

if TYPE_CHECKING:
    from ...training.tasks import Task

_SPLITS = ("validation", "test")


@dataclass(frozen=True)
class ScoredModel:
    """A model by its logits on both splits.

    Attributes:
        labels: Names of its C labels.
        logits: Split (``validation``, ``test``) → float32[N, C].
        threshold: Out-of-scope threshold that is shipped with it.
        temperature: Temperature that is shipped with it.
    """

    labels: list[str]
    logits: Mapping[str, np.ndarray]
    threshold: Threshold | None = None
    temperature: float | None = None

    def save(self, path: Path) -> None:
        """Write labels and logits, which hold no texts, as an uncompressed NumPy archive."""
        validation, test = (self.logits[split] for split in _SPLITS)
        np.savez(path, labels=np.array(self.labels), validation=validation, test=test)

    @classmethod
    def load(cls, path: Path, threshold: Threshold | None, temperature: float | None) -> ScoredModel:
        """Read what ``save`` has written, under another threshold.

        Raises:
            InputError: The file cannot be read.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                logits = {split: stored[split] for split in _SPLITS}
                return cls([str(label) for label in stored["labels"]], logits, threshold, temperature)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path}: not the logits of a measurement ({error}); repeat the benchmark"
            ) from None


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure the model described by ``spec``, which ``measure_models`` writes.

    Timing comes first, while the process is fresh; then throughput, memory and accuracy.
    """
    model, texts, config = spec["model"], spec["texts"], spec["config"]
    target = targets.get(model["kind"])
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
        texts["test_labels"],
        label_names=texts["label_names"],
        out_of_scope_label=texts["out_of_scope_label"],
        name=model["name"],
        model_path=weights,
        num_warmups=config["num_warmups"],
        num_runs=config["num_runs"],
        num_sample_texts=config["num_sample_texts"],
        batch_sizes=batch_sizes,
        query=spec["query"],
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
    logits = {split: opened.logits(texts[f"{split}_texts"]) for split in _SPLITS}
    scored = ScoredModel(opened.labels, logits, opened.threshold, opened.temperature)
    scored.save(Path(spec["logits_file"]))
    return measured | judge(scored, texts, spec["goal"])


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
    names = _all_names(model.labels, texts["label_names"], goal)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split in _SPLITS:
        labels = np.array([names.index(texts["label_names"][label]) for label in texts[f"{split}_labels"]])
        found[split] = model.logits[split], labels
    label = texts["out_of_scope_label"]
    outside = None if label is None else names.index(label)
    given = {split: task.predictions(logits) for split, (logits, _) in found.items()}
    right = {split: task.correct(given[split], labels) for split, (_, labels) in found.items()}
    calibration, reliable = _calibration(model, task, found, right["test"], outside)
    place = _places(names, texts["label_names"], goal)
    measured: dict[str, Any] = {
        **task.metrics(given["test"], found["test"][1], outside),
        "validation_accuracy": task.metrics(given["validation"], found["validation"][1], outside)["accuracy"],
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


def _calibration(
    model: ScoredModel,
    task: Task,
    found: dict[str, tuple[np.ndarray, np.ndarray]],
    right: np.ndarray,
    outside: int | None,
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Measure how well probabilities are calibrated on test; return that and the bins of the reliability diagram.

    A model without a temperature of its own gets one that is fitted on the validation split, as variants do.
    """
    if task.class_probabilities(found["test"][0]) is None:
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
