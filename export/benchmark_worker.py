"""The process that measures one row: SPEC.json in, OUT.json out, importing only what its row needs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .benchmark import PerformanceBenchmark, peak_memory_mb


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure the row that ``spec`` describes (``rows.measure_rows`` writes it).

    Timing comes first, while the process is fresh; then throughput, memory and accuracy.
    """
    row, texts, config = spec["row"], spec["texts"], spec["config"]
    pipeline = _pipeline(row, config["num_threads"])
    benchmark = PerformanceBenchmark(
        pipeline,
        texts["test_texts"],
        texts["test_labels"],
        label_names=texts["label_names"],
        out_of_scope_label=texts["out_of_scope_label"],
        name=row["name"],
        model_path=row["directory"],
        num_warmups=config["num_warmups"],
        num_runs=config["num_runs"],
        num_sample_texts=config["num_sample_texts"],
        batch_sizes=config["batch_sizes"],
        query=spec["query"],
    )
    measured: dict[str, Any] = {
        "latency_ms": benchmark.time_pipeline(),
        "sample_latency_ms": benchmark.time_sample(),
        "throughput": benchmark.compute_throughput(),
        "peak_memory_mb": peak_memory_mb(),
        **benchmark.compute_size(),
    }
    if row["kind"] != "reference":
        validation = benchmark.compute_accuracy(texts["validation_texts"], texts["validation_labels"])
        measured |= {**benchmark.compute_accuracy(), "validation_accuracy": validation["accuracy"]}
    return measured


def _pipeline(row: dict[str, Any], num_threads: int) -> Callable[..., Any]:
    if row["kind"] == "onnx":
        from .runtime import TextClassifier

        return TextClassifier.load(row["directory"], num_threads=num_threads)
    return _torch_pipeline(row, num_threads)


def _torch_pipeline(row: dict[str, Any], num_threads: int) -> Callable[..., Any]:
    """The transformers pipeline over the row's checkpoint, in inference mode."""
    import torch
    from transformers import AutoTokenizer, pipeline

    torch.set_num_threads(num_threads)
    torch.set_num_interop_threads(1)
    if row["kind"] == "pytorch-int8":
        from .quantize import load_pytorch_int8

        model = load_pytorch_int8(Path(row["directory"]))
        tokenizer = AutoTokenizer.from_pretrained(
            row["tokenizer_dir"] or row["directory"], local_files_only=True
        )
    else:
        from ..training.checkpoints import load_classifier

        model, tokenizer = load_classifier(row["directory"])
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")

    def call(texts: Any, batch_size: int = 1) -> Any:
        with torch.inference_mode():
            return classify(texts, batch_size=batch_size, truncation=True, max_length=row["max_length"])

    return call


def main() -> None:
    """Measure one row."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("spec", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    measured = measure(json.loads(arguments.spec.read_text(encoding="utf-8")))
    temporary = arguments.out.with_suffix(".tmp")
    temporary.write_text(json.dumps(measured, allow_nan=False), encoding="utf-8")
    temporary.replace(arguments.out)


if __name__ == "__main__":
    main()
