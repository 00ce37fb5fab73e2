"""Measure the effect of pretraining: the same student distilled with it, without it, and without it for longer.

    python benchmarks/pretraining.py --data data_oos_plus.json --unlabelled sentences.txt --teacher DIR
        [--encoder offline:all-MiniLM-L6-v2] [--layers 0 2 5] [--epochs 8] [--pretraining-epochs 3]
        [--max-unlabelled 6000] [--distil-unlabelled] [--seeds 42 43 44] [--threads 1] [--json FILE]

Rows, each trained with every seed on the teacher's logits, computed once:

    plain       the teacher's layers, distilled for --epochs
    longer      the same for --epochs plus --pretraining-epochs: the other use of that time
    pretrained  the layers, pretrained for --pretraining-epochs on train and the unlabelled texts, then as plain

The student is pretrained with the teacher, whose masked-language head is trained first, or with --encoder. With
--distil-unlabelled every row also learns the teacher's logits of the unlabelled texts, as in a job with
data.unlabelled. Thresholds are selected on validation for 0.75 in-scope accuracy + 0.25 out-of-scope recall. The
seconds of a row are those of its distillation; those of the pretraining, which all seeds share, are shown separately.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PrinterCallback

from distiltune.export.config import OutOfScopeConfig
from distiltune.export.out_of_scope.thresholds import choose_threshold, measure_threshold, scope_goal
from distiltune.training.checkpoints.load import load_classifier
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.config import data_config
from distiltune.training.data.text_data import TextData, load_data
from distiltune.training.data.tokenized import (
    IGNORED_LABEL,
    TokenizedDataset,
    TokenizedSplit,
    tokenize_split,
)
from distiltune.training.distillation.arguments import arguments_from_config
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models.inference import compute_logits
from distiltune.training.ragged import flat
from distiltune.training.student.build import build_student
from distiltune.training.student.config import student_config
from distiltune.training.tasks import SINGLE_LABEL

MAX_LENGTH = 64


class Texts:
    """The splits in the teacher's word pieces, and its logits of the training texts."""

    def __init__(self, given: argparse.Namespace, data: TextData) -> None:
        teacher, tokenizer = load_classifier(given.teacher)
        self.data = data
        self.splits = {
            name: tokenize_split(split["text"][:], split["label"][:], tokenizer, MAX_LENGTH)
            for name, split in data.splits.items()
        }
        self.train = self.splits["train"]
        if given.distil_unlabelled:
            train, more = data.splits["train"], data.unlabelled
            labels = [*train["label"], *[IGNORED_LABEL] * len(more)]
            self.train = tokenize_split([*train["text"], *more], labels, tokenizer, MAX_LENGTH)
        self.pad_token_id = tokenizer.pad_token_id
        self.threads = given.threads
        self.teacher_logits = self.logits(teacher, self.train)
        self.teacher = self.measure(teacher)

    def logits(self, model: Any, split: TokenizedSplit) -> np.ndarray:
        return flat(compute_logits(model, split, pad_token_id=self.pad_token_id, num_threads=self.threads))

    def measure(self, model: Any) -> dict[str, Any]:
        """Return the figures on validation and test, and on test with the threshold selected on validation."""
        logits = {name: self.logits(model, self.splits[name]) for name in ("validation", "test")}
        labels = {name: flat(self.splits[name].labels) for name in logits}
        outside, scope = self.data.out_of_scope_id, SINGLE_LABEL.out_of_scope
        figures: dict[str, Any] = {
            name: SINGLE_LABEL.metrics(SINGLE_LABEL.predictions(each), labels[name], outside)
            for name, each in logits.items()
        }
        num_outside = int((labels["validation"] == outside).sum())
        label = self.data.out_of_scope_label
        goal = scope_goal(OutOfScopeConfig(), label, self.data.label_names, num_outside)
        if scope is not None and goal is not None and outside is not None:
            threshold = choose_threshold(scope, logits["validation"], labels["validation"], outside, goal)
            figures["test_with_threshold"] = measure_threshold(
                scope, threshold, logits["test"], labels["test"], outside
            )
        return figures


def distil(given: argparse.Namespace, texts: Texts, student: Path, epochs: int, seed: int) -> dict[str, Any]:
    model, _ = load_classifier(student)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        trainer = DistillationTrainer(
            model=model,
            args=arguments_from_config(
                TrainingConfig(alpha=given.alpha, temperature=given.temperature, seed=seed),
                work,
                num_train_epochs=epochs,
                learning_rate=given.learning_rate,
                batch_size=given.batch_size,
                save_strategy="no",
                logging_strategy="no",
            ),
            train_dataset=TokenizedDataset(texts.train, texts.teacher_logits),
            data_collator=DistillationCollator(texts.pad_token_id),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    seconds = time.perf_counter() - began
    return {"seed": seed, "seconds": seconds, **texts.measure(model)}


def make_student(
    given: argparse.Namespace, texts: Texts, out_dir: Path, *, is_pretrained: bool
) -> dict[str, Any]:
    section: dict[str, Any] = {"layers": given.layers}
    if is_pretrained:
        named = ("alpha", "beta", "gamma", "distil_positions", "head_epochs")
        section["pretraining"] = {
            "checkpoint": given.encoder,
            "num_train_epochs": given.pretraining_epochs,
            "learning_rate": given.pretraining_learning_rate,
            "batch_size": given.pretraining_batch_size,
            **{name: getattr(given, f"pretraining_{name}") for name in named},
        }
    return build_student(
        student_config(**section),
        Path(given.teacher),
        texts.data.label_names,
        out_dir,
        max_length=MAX_LENGTH,
        texts=(texts.data.splits["train"]["text"][:], texts.data.unlabelled),
        num_threads=given.threads,
        report=lambda progress: print(f"  {progress.message}", flush=True),
    )


def measure(given: argparse.Namespace, texts: Texts, work: Path) -> dict[str, Any]:
    records = {
        name: make_student(given, texts, work / name, is_pretrained=name == "pretrained")
        for name in ("plain", "pretrained")
    }
    longer = given.epochs + given.pretraining_epochs
    rows = {
        "plain": (work / "plain", given.epochs),
        "longer": (work / "plain", longer),
        "pretrained": (work / "pretrained", given.epochs),
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in rows}
    for seed in given.seeds:
        for name, (student, epochs) in rows.items():
            runs[name].append(distil(given, texts, student, epochs, seed))
            accuracy = runs[name][-1]["validation"]["accuracy"]
            print(f"  {name}, seed {seed}: validation accuracy {accuracy:.4f}", flush=True)
    return {"teacher": texts.teacher, "pretraining": records["pretrained"]["pretraining"], "runs": runs}


def show(result: dict[str, Any]) -> None:
    record = result["pretraining"]
    start, end = record["losses"]["start"], record["losses"]["end"]
    parts = ", ".join(f"{name} {start[name]:.3f} -> {end[name]:.3f}" for name in start)
    print(
        f"\npretraining: {record['num_texts']:,} texts, {record['steps']:,} steps, {record['seconds']:.0f} s; "
        f"{parts}"
    )
    columns: dict[str, Callable[[dict[str, Any]], float | None]] = {
        "validation": lambda run: run["validation"]["accuracy"],
        "test": lambda run: run["test"]["accuracy"],
        "in scope": lambda run: run["test"]["in_scope_accuracy"],
        "recall": lambda run: run["test"]["oos_recall"],
        "threshold": lambda run: run.get("test_with_threshold", {}).get("accuracy"),
        "seconds": lambda run: run.get("seconds"),
    }
    print(f"\n{'':12}" + "".join(f"{name:>18}" for name in columns))
    for name, runs in {"teacher": [result["teacher"]], **result["runs"]}.items():
        cells = []
        for column, value in columns.items():
            found = [each for each in map(value, runs) if each is not None]
            spread = f" ±{statistics.stdev(found):.4f}" if len(found) > 1 and column != "seconds" else ""
            digits = 0 if column == "seconds" else 4
            cells.append(f"{statistics.mean(found):.{digits}f}{spread}" if found else "")
        print(f"{name:12}" + "".join(f"{cell:>18}" for cell in cells))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", required=True, help="a file in CLINC150's own JSON format")
    add("--unlabelled", help="a .txt file with one text per line")
    add("--teacher", required=True, type=Path, help="directory of a classifier fine-tuned on --data")
    add("--encoder", help="model to pretrain with instead of the teacher: directory or hub id")
    add("--layers", type=int, nargs="+", default=[0, 2, 5], help="teacher layers of the student")
    add("--epochs", type=int, default=8, help="epochs of distillation")
    add("--learning-rate", type=float, default=6e-4, help="of distillation")
    add("--batch-size", type=int, default=64, help="of distillation")
    add("--alpha", type=float, default=0.2, help="weight of cross-entropy in distillation")
    add("--temperature", type=float, default=4.0, help="of distillation")
    add("--pretraining-epochs", type=int, default=3, help="epochs of pretraining")
    add("--pretraining-learning-rate", type=float, default=5e-4, help="of pretraining")
    add("--pretraining-batch-size", type=int, default=32, help="of pretraining")
    add("--pretraining-alpha", type=float, default=2.0, help="weight of the masked-language-model loss")
    add("--pretraining-beta", type=float, default=5.0, help="weight of distillation over the vocabulary")
    add("--pretraining-gamma", type=float, default=1.0, help="weight of the hidden states' cosine")
    add("--pretraining-distil-positions", choices=("all", "masked"), default="all", help="where to distil")
    add("--pretraining-head-epochs", type=int, default=1, help="epochs of a head that the teacher lacks")
    add("--max-train-examples", type=int, help="use only so many labelled texts")
    add("--max-unlabelled", type=int, help="use only so many unlabelled texts")
    add("--distil-unlabelled", action="store_true", help="distil over the unlabelled texts as well")
    add("--seeds", type=int, nargs="+", default=[42], help="seeds of distillation, each for every row")
    add("--threads", type=int, default=1, help="intra-op threads")
    add("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    if given.distil_unlabelled and not given.unlabelled:
        parser.error("--distil-unlabelled needs --unlabelled")
    return given


def main() -> None:
    given = _arguments()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(given.threads)
    section: dict[str, Any] = {"source": "clinc_json", "path": given.data}
    if given.unlabelled:
        section["unlabelled"] = {"path": given.unlabelled, "count": given.max_unlabelled}
    data = load_data(data_config(**section, max_train_examples=given.max_train_examples))
    with tempfile.TemporaryDirectory() as work:
        result = measure(given, Texts(given, data), Path(work))
    result["settings"] = {name: value for name, value in vars(given).items() if name != "json"}
    show(result)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
