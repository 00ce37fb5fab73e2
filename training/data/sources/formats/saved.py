"""Read datasets of the library ``datasets``: loaded ones, and folders of ``save_to_disk``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from .....errors import DataError, first_line, shown
from .....storage.safe_reading import read_json, read_regular
from ...rows import RawSplit, quoted
from ..columns import DEFAULT_LABEL_COLUMN, Columns, Table
from ..files import is_saved_dict
from .arrow import class_name

ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""Splits -> the names that datasets use for them."""

_MOST_BYTES = 2**20


def split_names(own_names: Iterable[str]) -> dict[str, str]:
    """Map each split to its own name in a dataset; splits that the dataset lacks are left out."""
    known = list(own_names)
    found = {split: next((name for name in names if name in known), None) for split, names in ALIASES.items()}
    return {split: name for split, name in found.items() if name is not None}


def split_folders(folder: Path) -> dict[str, Path]:
    """Map each split to its folder in a folder of ``DatasetDict.save_to_disk``; empty for another folder or file.

    Raises:
        DataError: The folder's list of splits is damaged.
    """
    if not is_saved_dict(folder):
        return {}
    path = folder / "dataset_dict.json"
    try:
        names = read_json(read_regular(path, _MOST_BYTES).decode())["splits"]
        return {split: folder / own_name for split, own_name in split_names(names).items()}
    except (OSError, ValueError, TypeError, KeyError, json.JSONDecodeError):
        raise DataError(f"{path}: damaged; it must list the splits of the dataset; save it again") from None


def read_saved(folder: Path, name: str, columns: Columns) -> RawSplit:
    """Read a split from a folder of ``Dataset.save_to_disk``.

    Raises:
        DataError: It is damaged, or lacks a column.
    """
    return split_of(_load(folder), name, str(folder), "", columns)


def open_saved(folder: Path) -> Table:
    """Return all columns of a folder of ``Dataset.save_to_disk``; raise ``DataError`` if it is damaged."""
    rows = _load(folder)
    return _table(rows, list(rows.features), str(folder), "")


def _load(folder: Path) -> Any:
    import datasets

    try:
        rows = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(
            f"{folder}: cannot be loaded: {shown(first_line(error), 200)}; write it again with save_to_disk"
        ) from error
    if not isinstance(rows, datasets.Dataset):
        raise DataError(f"{folder}: has several splits ({quoted(rows)}); specify the folder of one of them")
    return rows


def split_of(rows: Any, name: str, origin: str, own_name: str, columns: Columns) -> RawSplit:
    """Return a loaded dataset as a split.

    If there is no column of the default name ``label`` and exactly one column holds classes, that one is the label.

    Args:
        rows: A ``datasets.Dataset``.
        name: Name of the split.
        origin: Name of the dataset, for messages.
        own_name: The split's name in the dataset, for messages; empty: none.
        columns: The columns to read.

    Raises:
        DataError: A column does not exist.
    """
    features = rows.features
    classes = [column for column, feature in features.items() if _class_names(feature) is not None]
    if columns.label == DEFAULT_LABEL_COLUMN and columns.label not in features and len(classes) == 1:
        columns = replace(columns, label=classes[0])
    columns.check(origin, list(features))
    return columns.split(name, _table(rows, list(columns.keys), origin, own_name))


def _table(rows: Any, names: list[str], origin: str, own_name: str) -> Table:
    features = rows.features
    selected = rows.select_columns(names).with_format(None)

    def column(name: str) -> list[object]:
        classes, values = _class_names(features[name]), selected[name][:]
        return values if classes is None else [class_name(value, classes) for value in values]

    return Table(origin, list(features), column, lambda i: f"{own_name} row {i + 1}".lstrip())


def _class_names(feature: Any) -> list[str] | None:
    """Return the names of a feature of classes, or of lists of classes; None for another feature."""
    from datasets import ClassLabel

    feature = getattr(feature, "feature", feature)
    return feature.names if isinstance(feature, ClassLabel) else None
