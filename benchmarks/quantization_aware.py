"""Compare quantization-aware training with post-training quantization: the same student, in 8 and in 4 bits.

    python benchmarks/quantization_aware.py --data data_oos_plus.json --teacher DIR [--layers 0 2 5] [--epochs 8]
        [--qat-epochs 2] [--seeds 1] [--max-train-examples N] [--threads 2] [--json FILE]

For each seed three students are trained, which differ only in their last ``--qat-epochs`` epochs: one without fake
quantization, one with the numbers of ``onnx-int8`` and one with those of ``onnx-int8-embeddings-4bit``. Each is
exported as these two variants and, for comparison, as ``onnx`` in 32 bits. The weights of the last epoch are used, so
no selection is involved.

Accuracies are those of the exported graphs over whole splits, one text at a time, as in serving, so that the range of
activations is that of a single text. "with threshold" predicts the out-of-scope label below a threshold, which is
selected for each graph on the validation split as in an export. Means over the seeds are printed; the JSON has the
figures of every seed.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel, PrinterCallback

from distiltune.export.config import ExportConfig, OutOfScopeConfig
from distiltune.export.out_of_scope.fit_scores import ValidationTexts
from distiltune.export.out_of_scope.thresholds import scope_goal
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.variants.build import build_variant
from distiltune.training.checkpoints.load import label_names, load_classifier, save_checkpoint
from distiltune.training.compression.config import QuantizationAwareConfig
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.config import data_config
from distiltune.training.data.text_data import TextData, load_data
from distiltune.training.data.tokenized import TokenizedDataset, TokenizedSplit, tokenize_split
from distiltune.training.distillation.arguments import arguments_from_config
from distiltune.training.distillation.callbacks import callbacks_of
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models.first_token import first_token_in_last_layer
from distiltune.training.models.inference import compute_logits
from distiltune.training.models.trainable_embedding_rows import train_used_rows
from distiltune.training.ragged import flat
from distiltune.training.student.layers import student_from_layers

VARIANTS: tuple[str, ...] = ("onnx", "onnx-int8", "onnx-int8-embeddings-4bit")
# Kind of training in the last epochs -> bits of the embedding table; None: without fake quantization.
TRAININGS = {"quantized afterwards": None, "aware, table in 8 bits": 8, "aware, table in 4 bits": 4}


@dataclass(frozen=True)
class Setting:
    """The data, teacher and options that all trainings share."""

    data: TextData
    teacher: PreTrainedModel
    tokenizer: Any
    train: TokenizedSplit
    train_logits: np.ndarray
    training: TrainingConfig
    layers: list[int]
    goal: Any
    threads: int


def make_setting(given: argparse.Namespace) -> Setting:
    data = load_data(
        data_config(source="clinc_json", path=str(given.data), max_train_examples=given.max_train_examples)
    )
    teacher, tokenizer = load_classifier(given.teacher)
    training = TrainingConfig(
        alpha=given.alpha,
        temperature=given.temperature,
        num_train_epochs=given.epochs,
        learning_rate=given.learning_rate,
        batch_size=given.batch_size,
        max_length=64,
    )
    names = label_names(teacher)
    labels = [names.index(data.label_names[label]) for label in data.splits["train"]["label"][:]]
    train = tokenize_split(data.splits["train"]["text"][:], labels, tokenizer, training.num_tokens)
    logits = compute_logits(
        teacher, train, pad_token_id=tokenizer.pad_token_id, num_threads=given.threads, use_gpu=False
    )
    num_outside = data.splits["validation"]["label"][:].count(data.out_of_scope_id)
    goal = scope_goal(OutOfScopeConfig(), data.out_of_scope_label, data.label_names, num_outside)
    return Setting(data, teacher, tokenizer, train, flat(logits), training, given.layers, goal, given.threads)


def train_student(
    setting: Setting, table_bits: int | None, qat_epochs: float, seed: int, folder: Path
) -> float:
    """Train a student and write it into ``folder`` after its last epoch; return the seconds of training."""
    changes: dict[str, Any] = {"seed": seed}
    if table_bits is not None:
        changes["quantization_aware"] = QuantizationAwareConfig.model_validate(
            {"num_epochs": qat_epochs, "embedding_bits": table_bits}
        )
    training = setting.training.model_copy(update=changes)
    model = copy.deepcopy(student_from_layers(setting.teacher, setting.layers)).train()
    train_used_rows(model, setting.train.input_ids)
    first_token_in_last_layer(model)
    args = arguments_from_config(
        training, str(folder / "work"), save_strategy="no", report_to="none", use_cpu=True
    )
    trainer = DistillationTrainer(
        model=model,
        args=args,
        train_dataset=TokenizedDataset(setting.train, setting.train_logits),
        data_collator=DistillationCollator(setting.tokenizer.pad_token_id),
        callbacks=callbacks_of(training),
    )
    trainer.remove_callback(PrinterCallback)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    save_checkpoint(model, setting.tokenizer, folder)
    return seconds


def measure_variant(setting: Setting, name: str, student: Path, folder: Path) -> dict[str, Any]:
    data = setting.data
    texts = {split: data.splits[split]["text"][:] for split in ("validation", "test")}
    labels = {
        split: np.array([data.label_names[label] for label in data.splits[split]["label"][:]])
        for split in texts
    }
    validation = ValidationTexts(texts["validation"], labels["validation"].tolist(), setting.goal)
    files = build_variant(
        name,
        student,
        folder,
        config=ExportConfig(),
        max_length=setting.training.num_tokens,
        validation=validation,
    )
    figures: dict[str, Any] = {"size_mb": files.size_mb, "max_abs_diff": files.max_abs_diff}
    classifier = TextClassifier.load(folder)
    for split in texts:
        logits = classifier.logits(texts[split], batch_size=1)
        predicted = np.array(classifier.labels)[logits.argmax(axis=1)]
        figures[f"{split}_accuracy"] = float((predicted == labels[split]).mean())
        inside = labels[split] != data.out_of_scope_label
        figures[f"{split}_in_scope_accuracy"] = float((predicted == labels[split])[inside].mean())
        if classifier.threshold is not None:
            refused = classifier.threshold.refuses(logits)
            with_threshold = np.where(refused, classifier.threshold.label, predicted)
            figures[f"{split}_accuracy_with_threshold"] = float((with_threshold == labels[split]).mean())
    return figures


def measure(setting: Setting, qat_epochs: float, seeds: int) -> list[dict[str, Any]]:
    rows = []
    for seed in range(setting.training.seed, setting.training.seed + seeds):
        for training, table_bits in TRAININGS.items():
            with tempfile.TemporaryDirectory() as work:
                student = Path(work) / "student"
                student.mkdir()
                seconds = train_student(setting, table_bits, qat_epochs, seed, student)
                for name in VARIANTS:
                    figures = measure_variant(setting, name, student, Path(work) / name)
                    row = {"training": training, "variant": name, "seed": seed, "train_seconds": seconds}
                    rows.append(row | figures)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    columns = {
        "validation": "validation_accuracy",
        "test": "test_accuracy",
        "in scope": "test_in_scope_accuracy",
        "with threshold": "test_accuracy_with_threshold",
        "size MB": "size_mb",
        "seconds": "train_seconds",
    }
    print(f"{'':24}{'':28}" + "".join(f"{name:>16}" for name in columns))
    for training in TRAININGS:
        for variant in VARIANTS:
            matching = [row for row in rows if (row["training"], row["variant"]) == (training, variant)]
            means = [
                statistics.mean(row[name] for row in matching) if name in matching[0] else float("nan")
                for name in columns.values()
            ]
            shown = (f"{mean:16.4f}" if mean <= 1 else f"{mean:16.1f}" for mean in means)
            print(f"{training:24}{variant:28}" + "".join(shown))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a file in CLINC150's own JSON format")
    parser.add_argument("--teacher", type=Path, required=True, help="directory of a fine-tuned classifier")
    parser.add_argument(
        "--layers", type=int, nargs="+", default=[0, 2, 5], help="teacher layers of the student"
    )
    parser.add_argument("--epochs", type=int, default=8, help="total number of epochs")
    parser.add_argument("--qat-epochs", type=float, default=2, help="last epochs with fake quantization")
    parser.add_argument("--alpha", type=float, default=0.2, help="weight of cross-entropy")
    parser.add_argument("--temperature", type=float, default=4.0, help="of the distillation loss")
    parser.add_argument("--learning-rate", type=float, default=6e-4, help="peak learning rate")
    parser.add_argument("--batch-size", type=int, default=128, help="texts per step")
    parser.add_argument("--seeds", type=int, default=1, help="number of trainings of each kind")
    parser.add_argument("--max-train-examples", type=int, help="train on this many texts only")
    parser.add_argument("--threads", type=int, default=2, help="intra-op threads of training")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    if given.qat_epochs > given.epochs:
        parser.error(f"--qat-epochs is {given.qat_epochs:g}; accepted: up to --epochs, {given.epochs}")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(given.threads)
    rows = measure(make_setting(given), given.qat_epochs, given.seeds)
    show(rows)
    if given.json:
        settings = {
            name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()
        }
        result = {"settings": settings, "torch": torch.__version__, "rows": rows}
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
