"""Measure one model in a separate process: REQUEST.json in, OUT.json out, importing only what the model needs."""

from __future__ import annotations

import argparse
import json
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import DistiltuneError
from ...storage.folders import write_file
from ...texts import from_json
from . import targets
from .accuracy.judge import judge
from .contention import time_undisturbed
from .measurements import SECONDS_OF_LENGTH, PerformanceBenchmark, compressed_bytes, runtime_bytes
from .memory import peak_memory_mb
from .processes import end_with_parent
from .targets.base import Opened, OpenOptions
from .targets.outputs import SPLITS, ScoredModel, outputs_of

_TEXTS = tuple(f"{split}_texts" for split in SPLITS)


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure the model described by ``spec``, which ``measure_models`` writes: performance first, then accuracy."""
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
    measured = _measure_performance(opened, benchmark, config["num_threads"])
    if target.can_be_sealed:
        measured["files_mb"] = runtime_bytes(Path(model["directory"])) / 10**6
    if not target.has_accuracy:
        return measured | {"length_ms": _by_length(opened, benchmark, spec)}
    if spec["compressed"]:
        measured["compressed_size_mb"] = compressed_bytes(weights) / 2**20
    logits = {split: outputs_of(opened, texts[f"{split}_texts"]) for split in SPLITS}
    scored = ScoredModel(opened.labels, logits, opened.threshold, opened.temperature)
    scored.save(Path(spec["logits_file"]))
    # Last, because it changes where the pipelines of transformers truncate texts.
    measured["length_ms"] = _by_length(opened, benchmark, spec)
    return measured | judge(scored, texts, spec["goal"])


def _measure_performance(opened: Opened, benchmark: PerformanceBenchmark, num_threads: int) -> dict[str, Any]:
    """Measure times first, while the process is fresh; then throughput, memory and size."""
    first_call = benchmark.time_first_call()
    latency, waiting = time_undisturbed(benchmark.name, benchmark.time_pipeline, num_threads=num_threads)
    sample, waiting_in_sample = time_undisturbed(
        f"{benchmark.name}, sample", benchmark.time_sample, num_threads=num_threads
    )
    profile = _profile(opened, benchmark, num_threads)
    return {
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


def _known_answers(folder: Path, spec: dict[str, Any], texts: dict[str, Any]) -> dict[str, Any]:
    """Measure a model of which only logits are stored: accuracy without time, size and memory."""
    from ...training.teacher.file_teacher import LOGITS_FILE

    scored = ScoredModel.load(folder / LOGITS_FILE, None, None)
    scored.save(Path(spec["logits_file"]))
    unknown = dict.fromkeys(("size_mb", "latency_ms", "sample_latency_ms", "peak_memory_mb"))
    return {**unknown, "throughput": {}, **judge(scored, texts, spec["goal"])}


def _by_length(
    opened: Opened, benchmark: PerformanceBenchmark, spec: dict[str, Any]
) -> dict[str, Any] | None:
    """Time texts of several lengths; None where there are none, and for a target with one length.

    The length to which the job truncates texts is one of them, where others are beyond it.
    """
    config, own = spec["config"], spec["model"]["max_length"]
    lengths = {*config["lengths"], *([own] if 0 < own < max(config["lengths"], default=0) else [])}
    if opened.at_length is None or not lengths:
        return None
    return benchmark.time_lengths(opened.at_length, sorted(lengths), SECONDS_OF_LENGTH[config["effort"]])


def _profile(opened: Opened, benchmark: PerformanceBenchmark, num_threads: int) -> dict[str, float] | None:
    """Time the stages of classifying the query; None for a target that cannot."""
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
