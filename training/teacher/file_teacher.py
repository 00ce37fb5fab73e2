"""Prepare a teacher that is a file of logits: join it with the job's texts, and store the rows beside a tokenizer."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError, ModelError
from ...storage.folders import file_sha256, new_folder
from ...texts import TextOrPair, texts_of
from ..checkpoints.heads import LabelMatch
from ..checkpoints.word_pieces import TOKENIZER_FILE
from ..data.text_data import ID_COLUMN
from ..data.unlabelled import UNLABELLED
from .from_scratch import train_tokenizer
from .logits_file import FileLogits, check_coverage, missing_rows, read_logits

if TYPE_CHECKING:
    from ..data.text_data import TextData
    from ..tasks import Task
    from .config import LogitsFileConfig, OneTeacher

LOGITS_FILE = "logits.npz"
"""The labels' names and the logits of each kind of text; ``ScoredModel.load`` of the benchmark reads it too."""
RECORD_FILE = "teacher.json"


def prepare_file_teacher(
    config: OneTeacher,
    data: TextData,
    out_dir: Path,
    *,
    key: str,
    task: Task,
    metric: str,
) -> dict[str, Any]:
    """Write the part of a file of logits that a job needs to ``out_dir``, unless it already exists there.

    Args:
        config: The section of the teacher, with ``logits``.
        data: The texts that the file is joined with.
        out_dir: Written atomically: ``logits.npz`` with float32[N, C] of each split and of the unlabelled texts, NaN
            for a text that the file lacks, a tokenizer trained on the training texts, and ``teacher.json``, the record.
        key: Hash of all that it depends on.
        task: The task.
        metric: The job's metric.

    Returns:
        The record: ``kind`` (logits), ``validation_accuracy`` and the other metrics over the validation texts that the
        file has (None where it has none), ``missing`` and ``num_texts`` by kind of text, ``seconds``, ``key``,
        ``fingerprint``, and ``reused``; ``num_parameters``, ``num_layers`` and ``best_epoch`` are None.

    Raises:
        DataError: The file cannot be read, or lacks too many training texts.
        ModelError: Its labels are not those of the data.
    """
    began = time.monotonic()
    existing = _existing_record(out_dir, key)
    if existing is not None:
        return {**existing, "reused": True}
    assert config.logits is not None
    joined = joined_logits(config, data, task)
    missing = {kind: int(missing_rows(logits).sum()) for kind, logits in joined.items()}
    record = {
        "kind": "logits",
        **_validation_metrics(joined["validation"], data, task, metric),
        "num_parameters": None,
        "num_layers": None,
        "epochs": [],
        "best_epoch": None,
        "missing": missing,
        "num_texts": {kind: len(logits) for kind, logits in joined.items()},
        "seconds": round(time.monotonic() - began, 3),
        "key": key,
    }
    tokenizer = train_tokenizer(texts_of(data.splits["train"]), config.logits.vocab_size)
    with new_folder(out_dir) as folder:
        tokenizer.save_pretrained(folder)
        arrays: dict[str, Any] = {"labels": np.array(data.class_names), **joined}
        np.savez(folder / LOGITS_FILE, **arrays)
        record["fingerprint"] = _fingerprint(folder)
        (folder / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return {**record, "reused": False}


def joined_logits(config: OneTeacher, data: TextData, task: Task) -> dict[str, np.ndarray]:
    """Return the logits float32[N, C] of each split and of the unlabelled texts, with rows of NaN for missing texts.

    Raises:
        DataError: The file cannot be read, or lacks too many training texts.
        ModelError: Its labels are not those of the data.
    """
    section = config.logits
    assert section is not None
    file, by_id = read_file(config, data, task), section.id_column is not None
    if by_id and (ID_COLUMN not in data.splits["train"].column_names or data.unlabelled):
        what = "data.unlabelled has no ids" if data.unlabelled else "the data has no ids (data.id_column)"
        raise DataError(
            f"teacher.logits.id_column: {section.id_column!r} given, but {what}; join by text instead"
        )
    keys: dict[str, Sequence[TextOrPair]] = {
        str(name): split[ID_COLUMN][:] if by_id else texts_of(split) for name, split in data.splits.items()
    }
    if data.unlabelled:
        keys[UNLABELLED] = data.unlabelled
    joined = {kind: file.of(each) for kind, each in keys.items()}
    check_coverage(section, keys["train"], joined["train"])
    return joined


def read_file(config: OneTeacher, data: TextData, task: Task) -> FileLogits:
    """Read the file of ``teacher.logits`` with its labels matched with the data's; raises as ``joined_logits``."""
    section: LogitsFileConfig | None = config.logits
    assert section is not None
    match = LabelMatch(config.labels, config.drop_labels, "teacher")
    return read_logits(section, task, data.class_names, match, has_pairs=data.has_pairs)


def stored_logits(folder: Path, kind: str) -> np.ndarray:
    """Return the logits float32[N, C] of a kind of text that ``prepare_file_teacher`` has stored.

    Raises:
        ModelError: They cannot be read.
    """
    try:
        with (folder / LOGITS_FILE).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return stored[kind]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ModelError(
            f"{folder / LOGITS_FILE}: cannot be read ({error}); run the teacher stage again"
        ) from error


def is_measurable(record: Mapping[str, Any]) -> bool:
    """Return whether a teacher has logits on all texts of the validation and the test split."""
    missing = record.get("missing", {})
    return not any(missing.get(split, 0) for split in ("validation", "test"))


def _validation_metrics(
    logits: np.ndarray, data: TextData, task: Task, metric: str
) -> dict[str, float | None]:
    """Return the metrics over the validation texts with logits, by their names in a record."""
    rows = np.flatnonzero(~missing_rows(logits))
    if not len(rows):
        return {f"validation_{name}": None for name in ("accuracy", metric)}
    labels = np.asarray(data.splits["validation"][task.label_column][:], dtype=task.label_dtype)[rows]
    found = task.measured(
        task.predictions(logits[rows]),
        labels,
        data.out_of_scope_id,
        also=[metric],
        label_names=data.label_names,
    )
    return {f"validation_{name}": value for name, value in found.items()}


def _fingerprint(folder: Path) -> str:
    return "-".join(file_sha256(folder / name) for name in (LOGITS_FILE, TOKENIZER_FILE))


def _existing_record(out_dir: Path, key: str) -> dict[str, Any] | None:
    try:
        record = json.loads((out_dir / RECORD_FILE).read_text(encoding="utf-8"))
        fits = record["key"] == key and record["fingerprint"] == _fingerprint(out_dir)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if fits else None
