"""What runs inside Ray tasks: plain functions from paths, configurations and arrays to records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..export.machine import describe_machine
from ..export.rows import BenchmarkTexts, RowSpec, measure_rows
from ..export.variants import build_variant
from ..search.space import fixed_values
from ..training.checkpoints import load_tokenizer
from ..training.data import TextData
from ..training.logits import teacher_logits
from ..training.student import build_student
from ..training.teacher import prepare_teacher
from ..training.tokenized import TokenizedSplit, tokenize_split
from .config import JobConfig
from .runs import write_json

LOGITS_DTYPE = "float32"


@dataclass(frozen=True)
class SplitWithLogits:
    """A split's token ids and the teacher's logits over it, row by row the same texts."""

    tokens: TokenizedSplit
    teacher_logits: np.ndarray | None


def make_teacher(
    config: JobConfig, data: TextData, directory: Path, num_threads: int, use_gpu: bool, progress: Path
) -> dict[str, Any]:
    """Prepare the teacher in ``directory``; epochs are told through the file ``progress``."""
    tell = _progress_file(progress)
    return prepare_teacher(
        config.teacher,
        data,
        directory,
        max_length=config.training.max_length,
        num_threads=num_threads,
        use_gpu=use_gpu,
        on_epoch=lambda epoch: tell(
            f"epoch {epoch['epoch']:g}: validation accuracy {epoch['validation_accuracy']:.4f}"
        ),
    )


def label_with_teacher(
    config: JobConfig, data: TextData, teacher: Path, cache: Path, num_threads: int, use_gpu: bool
) -> tuple[dict[str, SplitWithLogits], dict[str, Any]]:
    """The teacher's logits over train and validation, from the cache where it holds them; and a record.

    With alpha fixed to 1 nothing listens to the teacher, and it is not asked.
    """
    tokenizer = load_tokenizer(teacher)
    splits: dict[str, SplitWithLogits] = {}
    record: dict[str, Any] = {"texts_computed": 0, "keys": {}}
    needed = fixed_values(config.search).get("alpha") != 1
    for name in ("train", "validation"):
        rows = data.splits[name]
        tokens = tokenize_split(rows["text"][:], rows["label"][:], tokenizer, config.training.max_length)
        if not needed:
            splits[name] = SplitWithLogits(tokens, None)
            continue
        found = teacher_logits(
            teacher,
            tokens,
            max_length=config.training.max_length,
            cache_dir=cache,
            dtype=LOGITS_DTYPE,
            num_threads=num_threads,
            use_gpu=use_gpu,
        )
        splits[name] = SplitWithLogits(tokens, np.array(found.logits))
        record["texts_computed"] += len(tokens) if found.computed else 0
        record["keys"][name] = found.key
    return splits, record


def make_student(config: JobConfig, teacher: Path, label_names: list[str], directory: Path) -> dict[str, Any]:
    """Write the checkpoint that every trial starts from."""
    length = config.training.max_length
    return build_student(config.student, teacher, label_names, directory, max_length=length)


def tokenize_for_student(
    config: JobConfig, data: TextData, student: Path, splits: dict[str, SplitWithLogits]
) -> dict[str, SplitWithLogits]:
    """The same rows in the student's own word pieces, the logits unchanged."""
    tokenizer = load_tokenizer(student)
    return {
        name: SplitWithLogits(
            tokenize_split(
                data.splits[name]["text"][:],
                data.splits[name]["label"][:],
                tokenizer,
                config.training.max_length,
            ),
            split.teacher_logits,
        )
        for name, split in splits.items()
    }


def make_variant(
    name: Any,
    student: Path,
    directory: Path,
    config: JobConfig,
    out_of_scope_label: str | None,
    base_onnx: Path | None,
) -> dict[str, Any]:
    """Export one variant of the best checkpoint."""
    return build_variant(
        name,
        student,
        directory,
        config=config.export,
        max_length=config.training.max_length,
        out_of_scope_label=out_of_scope_label,
        num_threads=config.benchmark.num_threads,
        base_onnx=base_onnx,
    ).to_json()


def measure(rows: list[RowSpec], data: TextData, config: JobConfig, progress: Path) -> dict[str, Any]:
    """Measure every row on this node, one after the other, and say what node that is."""
    tell = _progress_file(progress)
    validation, test = data.splits["validation"], data.splits["test"]
    texts = BenchmarkTexts(
        validation["text"][:],
        validation["label"][:],
        test["text"][:],
        test["label"][:],
        data.label_names,
        data.out_of_scope_label,
    )
    machine = describe_machine()
    measured = measure_rows(
        rows,
        texts,
        config.benchmark,
        on_row=lambda row: tell(f"{row.name}: {row.latency_ms['p50']:.2f} ms, {row.size_mb:.1f} MB"),
    )
    return {"rows": [row.to_json() for row in measured], "machine": machine}


def _progress_file(path: Path) -> Callable[[str], None]:
    """A listener that leaves its newest line in a file, which the driver may read from another machine."""
    return lambda text: write_json(path, {"text": text})
