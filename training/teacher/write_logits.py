"""Write a file of logits, for ``teacher.logits`` of a job."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, shown
from ...storage.folders import new_file
from ...texts import TextOrPair, as_columns, csv_line
from .logits_file import LOGITS

FORMATS = (".parquet", ".jsonl", ".csv")
"""Extensions of files that can be written; any format of ``data.train`` can be read."""


def write_logits(path: Path, texts: Sequence[TextOrPair], labels: Sequence[str], logits: np.ndarray) -> None:
    """Write a file that ``teacher.logits`` reads: the texts, and a column ``logits.LABEL`` for each label.

    Args:
        path: A ``.parquet``, ``.jsonl`` or ``.csv`` file, written atomically.
        texts: N texts or pairs.
        labels: Names of the C labels.
        logits: float32[N, C].

    Raises:
        OSError: The file cannot be written.
    """
    columns = [f"{LOGITS}.{label}" for label in labels]
    with new_file(path) as temporary:
        if path.suffix.lower() == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            named = [as_columns(text) for text in texts]
            values = {name: [each[name] for each in named] for name in named[0]}
            values |= {name: logits[:, number] for number, name in enumerate(columns)}
            pq.write_table(pa.table(values), temporary)
        else:
            write = _csv_lines if path.suffix.lower() == ".csv" else _json_lines
            with temporary.open("w", encoding="utf-8", newline="") as file:
                file.writelines(write(texts, columns, logits))


def _rows(
    texts: Sequence[TextOrPair], columns: Sequence[str], logits: np.ndarray
) -> Iterator[dict[str, Any]]:
    for text, row in zip(texts, logits, strict=True):
        yield {**as_columns(text), **{name: float(value) for name, value in zip(columns, row, strict=True)}}


def _json_lines(texts: Sequence[TextOrPair], columns: Sequence[str], logits: np.ndarray) -> Iterator[str]:
    for row in _rows(texts, columns, logits):
        yield json.dumps(row, ensure_ascii=False) + "\n"


def _csv_lines(texts: Sequence[TextOrPair], columns: Sequence[str], logits: np.ndarray) -> Iterator[str]:
    for number, row in enumerate(_rows(texts, columns, logits)):
        if number == 0:
            yield csv_line(row)
        yield csv_line(row.values())


def check_format(path: Path, option: str) -> None:
    """Reject the path of a file to write that has another extension, or whose folder does not exist.

    Raises:
        InputError: The path is rejected; lists what is accepted.
    """
    if path.suffix.lower() not in FORMATS or not path.parent.is_dir():
        raise InputError(
            f"{option}: {shown(str(path), 200)} given; specify a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file in an "
            "existing folder"
        )
