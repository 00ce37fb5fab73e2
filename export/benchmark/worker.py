"""The process that measures one row: SPEC.json in, OUT.json out, importing only what its row needs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...storage.folders import write_file
from ...training.distillation.metrics import classification_metrics
from ..out_of_scope.thresholds import (
    ScopeGoal,
    answers_with_threshold,
    choose_threshold,
    measure_threshold,
    reliability,
    threshold_curves,
)
from ..runtime.scores import Threshold
from .measurements import PerformanceBenchmark, compressed_bytes
from .memory import peak_memory_mb
from .predictions import pack_answers
from .processes import end_with_parent


@dataclass(frozen=True)
class _Opened:
    """A row's model: text in, label out; and texts in, logits[N, C] out, the columns named by ``labels``.

    Where activations are quantized as they come, a text's logits depend on the texts beside it; ``logits`` are those of
    each text alone, as it is timed and asked.
    """

    pipeline: Callable[..., Any]
    logits: Callable[[Sequence[str]], np.ndarray]
    labels: list[str]
    threshold: Threshold | None = None


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure the row that ``spec`` describes (``rows.measure_rows`` writes it).

    Timing comes first, while the process is fresh; then throughput, memory and accuracy.
    """
    row, texts, config = spec["row"], spec["texts"], spec["config"]
    opened = _open(row, config["num_threads"])
    benchmark = PerformanceBenchmark(
        opened.pipeline,
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
    if row["kind"] == "reference":
        return measured
    if spec["compressed"]:
        measured["compressed_size_mb"] = compressed_bytes(Path(row["directory"])) / 2**20
    return measured | _judge(opened, texts, spec["goal"])


def _judge(opened: _Opened, texts: dict[str, Any], goal: dict[str, Any] | None) -> dict[str, Any]:
    """Accuracies without a threshold, and with the variant's own; a row that ships none gets one here."""
    names = _all_names(opened.labels, texts["label_names"], goal)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split in ("validation", "test"):
        logits = opened.logits(texts[f"{split}_texts"])
        labels = np.array([names.index(texts["label_names"][label]) for label in texts[f"{split}_labels"]])
        found[split] = logits, labels
    label = texts["out_of_scope_label"]
    outside = None if label is None else names.index(label)
    reliable = reliability(*found["test"])
    place = _places(names, texts["label_names"], goal)
    given, wanted_labels = found["validation"][0].argmax(axis=-1), place[found["validation"][1]]
    measured: dict[str, Any] = {
        **classification_metrics(*found["test"], outside),
        "validation_accuracy": classification_metrics(*found["validation"], outside)["accuracy"],
        "calibration_error": reliable["ece"],
        "curves": {"reliability": reliable["bins"]},
        "answers": {"without_threshold": pack_answers(place[given], wanted_labels)},
    }
    if goal is not None:
        from ..config import OutOfScopeConfig  # pydantic is no part of what an ONNX row is to hold in memory

        number = names.index(goal["label"])
        wanted = ScopeGoal(OutOfScopeConfig.model_validate(goal["config"]), goal["label"])
        threshold = opened.threshold or choose_threshold(*found["validation"], number, wanted)
        measured["with_threshold"] = {
            **measure_threshold(threshold, *found["test"], number),
            "validation_accuracy": measure_threshold(threshold, *found["validation"], number)["accuracy"],
        }
        measured["curves"] |= threshold_curves(threshold, *found["test"], number)
        given = answers_with_threshold(threshold, found["validation"][0], number)
        measured["answers"]["with_threshold"] = pack_answers(place[given], wanted_labels)
    return measured


def _all_names(own: list[str], of_data: list[str], goal: dict[str, Any] | None) -> list[str]:
    """The model's labels in their order, then what only texts or the threshold can have.

    Raises:
        InputError: The model has a label that the data lack.
    """
    for label in own:
        if label not in of_data:
            raise InputError(
                f"label {label!r} is not one of the {len(of_data)} labels of the data; export it again"
            )
    return list(dict.fromkeys([*own, *of_data, *([] if goal is None else [goal["label"]])]))


def _places(names: list[str], of_data: list[str], goal: dict[str, Any] | None) -> np.ndarray:
    """Number of each of a model's ``names`` in an order that all models share: the data's, then the threshold's."""
    shared = list(dict.fromkeys([*of_data, *([] if goal is None else [goal["label"]])]))
    return np.array([shared.index(name) for name in names])


def _open(row: dict[str, Any], num_threads: int) -> _Opened:
    if row["kind"] != "onnx":
        return _open_torch(row, num_threads)
    from ..runtime.classifier import TextClassifier

    classifier = TextClassifier.load(row["directory"], num_threads=num_threads, session=row["session"])
    logits = partial(classifier.logits, batch_size=1)
    return _Opened(classifier, logits, classifier.labels, classifier.threshold)


def _open_torch(row: dict[str, Any], num_threads: int) -> _Opened:
    """The transformers pipeline over the row's checkpoint, in inference mode."""
    import torch
    from transformers import pipeline

    from ...training.checkpoints.load import label_names, load_classifier, load_tokenizer
    from ...training.data.tokenized import tokenize_split
    from ...training.models.inference import compute_logits

    torch.set_num_threads(num_threads)
    torch.set_num_interop_threads(1)
    if row["kind"] == "pytorch-int8":
        from ..variants.torch_int8 import load_pytorch_int8

        model = load_pytorch_int8(Path(row["directory"]))
        tokenizer = load_tokenizer(row["tokenizer_dir"] or row["directory"])
    else:
        model, tokenizer = load_classifier(row["directory"])
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")

    def call(texts: Any, batch_size: int = 1) -> Any:
        with torch.inference_mode():
            return classify(texts, batch_size=batch_size, truncation=True, max_length=row["max_length"])

    def logits(texts: Sequence[str]) -> np.ndarray:
        split = tokenize_split(texts, [0] * len(texts), tokenizer, row["max_length"])
        if row["kind"] == "pytorch-int8":
            # Also not by the first token alone in the last layer, as compute_logits does: it has another range.
            ids = [torch.from_numpy(split.row(i)).long()[None] for i in range(len(split))]
            with torch.inference_mode():
                return torch.cat([model(input_ids=each).logits for each in ids]).numpy()
        pad_token_id = int(model.config.pad_token_id or 0)
        return compute_logits(model, split, pad_token_id=pad_token_id, num_threads=num_threads, use_gpu=False)

    return _Opened(call, logits, label_names(model.config))


def main() -> None:
    """Measure one row."""
    end_with_parent()
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("spec", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    measured = measure(json.loads(arguments.spec.read_text(encoding="utf-8")))
    write_file(arguments.out, json.dumps(measured, allow_nan=False))


if __name__ == "__main__":
    main()
