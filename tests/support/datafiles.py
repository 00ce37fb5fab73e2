"""Small data files of every format, for the tests of the data."""

import csv
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from distiltune.training.data.config import DataConfig, data_config

LABELS = ("weather", "alarm", "oos")


def rows_of(split: str, per_label: int = 4) -> list[tuple[str, str]]:
    return [(f"{split} {label} “{i}”, please", label) for i in range(per_label) for label in LABELS]


def write(path: Path, rows, columns=("text", "label"), schema=None) -> str:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        values = dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(values, schema=schema), path)
    return str(path)


def files_config(folder: Path, extension: str, make=rows_of, **options) -> DataConfig:
    named = {s: write(folder / f"{s}{extension}", make(s)) for s in ("train", "validation", "test")}
    return data_config(source="files", **named, **options)


def clinc_document() -> dict:
    document = {}
    for split, key in (("train", "train"), ("validation", "val"), ("test", "test")):
        document[key] = [list(row) for row in rows_of(split) if row[1] != "oos"]
        document[f"oos_{key}"] = [list(row) for row in rows_of(split) if row[1] == "oos"]
    return document


def clinc_config(folder: Path, **options) -> DataConfig:
    path = folder / "clinc.json"
    path.write_text(json.dumps(clinc_document()), encoding="utf-8")
    return data_config(source="clinc_json", path=str(path), **options)


def local_hub_dataset(class_labels: bool) -> datasets.DatasetDict:
    label = datasets.ClassLabel(names=list(LABELS)) if class_labels else datasets.Value("string")
    features = datasets.Features({"text": datasets.Value("string"), "intent": label})
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                dict(zip(("text", "intent"), map(list, zip(*rows_of(split), strict=True)), strict=True)),
                features=features,
            )
            for split in ("train", "validation", "test")
        }
    )
