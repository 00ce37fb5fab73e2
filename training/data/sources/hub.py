"""Datasets of the Hugging Face hub, or of a local directory in one of the hub's layouts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ....errors import DataError, first_line, shown, user_path
from ...section import Name
from ..rows import RawSplit, column_error, quoted
from .base import DATA_SOURCES, ColumnsConfig
from .table import class_name

_ALIASES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
DEFAULT_LABEL_COLUMN = "label"
CLINC_DATASETS = ("clinc/clinc_oos", "clinc_oos")
"""Names of CLINC150 on the hub."""


@DATA_SOURCES.register
class HubData(ColumnsConfig):
    """A dataset of the Hugging Face hub."""

    source: Literal["hub"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="hub", description="A dataset of the Hugging Face hub (`dataset`, `dataset_config`)."
    )
    dataset: Name = Field(default=CLINC_DATASETS[0], description="hub: repository id of the dataset.")
    dataset_config: Name | None = Field(
        default="plus",
        description="hub: configuration of the dataset. Default: `plus` for clinc/clinc_oos, "
        "otherwise the dataset's default.",
    )

    is_remote: ClassVar[bool] = True

    @property
    def default_out_of_scope_label(self) -> str | None:
        """CLINC150's out-of-scope label; None for other datasets."""
        return "oos" if self.dataset in CLINC_DATASETS else None

    def read(self) -> list[RawSplit]:
        """Return the three splits of the dataset."""
        return read_hub(self.dataset, self.dataset_config, self.text_column, self.label_column)

    @model_validator(mode="before")
    @classmethod
    def _own_default_config(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("dataset", CLINC_DATASETS[0]) not in CLINC_DATASETS:
            return {"dataset_config": None, **values}
        return values


def read_hub(dataset: str, config: str | None, text_column: str, label_column: str) -> list[RawSplit]:
    """Read train, validation and test of a dataset with ``datasets.load_dataset``.

    Args:
        dataset: Repository id, or a local directory (data files, or the output of ``save_to_disk``).
        config: Configuration of the dataset; None for its default.
        text_column: Column of strings.
        label_column: Column of named class numbers, strings or integers. If there is no column of the default
            name ``label`` and exactly one column holds classes, that one is read (``intent`` in clinc_oos).

    Raises:
        DataError: The hub is not reachable, or there is no such dataset, configuration, split or column.
    """
    name = f"{dataset} ({config})" if config else dataset
    loaded = _load(dataset, config, name)
    splits = list(loaded) if hasattr(loaded, "keys") else []
    found = {split: next((s for s in splits if s in names), None) for split, names in _ALIASES.items()}
    missing = [split for split, there in found.items() if there is None]
    if missing:
        raise DataError(
            f"{name}: no split {quoted(missing)}; it has {quoted(splits)}; "
            "save the three splits as files and use data.source: files"
        )
    return [
        _split(loaded[there], split, str(there), name, text_column, label_column)
        for split, there in found.items()
    ]


def read_hub_column(dataset: str, config: str | None, split: str, column: str) -> RawSplit:
    """Read a text column of one split of a dataset; the labels are a copy of the texts.

    Raises:
        DataError: As for :func:`read_hub`.
    """
    name = f"{dataset} ({config})" if config else dataset
    loaded = _load(dataset, config, name)
    splits = list(loaded) if hasattr(loaded, "keys") else []
    if split not in splits:
        raise DataError(f"{name}: no split {split!r} (data.unlabelled.split); it has {quoted(splits)}")
    return _split(loaded[split], "unlabelled", split, name, column, column)


def _load(dataset: str, config: str | None, name: str) -> Any:
    import datasets

    path = user_path(dataset, "data.dataset", DataError)
    if (path / "dataset_dict.json").is_file():
        return _tried(lambda: datasets.load_from_disk(str(path)), name)
    if dataset.startswith((".", "/", "~")) and not path.is_dir():
        raise DataError(
            f"{dataset}: data.dataset is not a directory; correct the path, or give a repository id"
        )
    local = str(path) if path.is_dir() else dataset
    return _tried(lambda: datasets.load_dataset(local, config), name)


def _tried(load: Callable[[], Any], name: str) -> Any:
    """Call ``load``; turn any failure into a one-line error with its remedy."""
    remedy = (
        "load it once on a machine with network access and set HF_HUB_OFFLINE=1 here with the same HF_HOME, or set "
        "data.dataset to a local directory, or use data.source: files or clinc_json"
    )
    from datasets.exceptions import DatasetNotFoundError

    # Without a network huggingface_hub logs two lines for each retry; the error below reports it once.
    retries = logging.getLogger("huggingface_hub.utils._http")
    level = retries.level
    retries.setLevel(logging.ERROR)
    try:
        return load()
    except ConnectionError as error:
        raise DataError(
            f"{name}: the dataset is not cached, and the hub cannot be reached; {remedy}"
        ) from error
    except DatasetNotFoundError as error:
        raise DataError(
            f"{name}: the hub has no such dataset, or it needs a login; correct data.dataset, or set HF_TOKEN"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{name}: cannot be loaded: {shown(first_line(error), 300)}; "
            "correct data.dataset and data.dataset_config"
        ) from error
    except Exception as error:
        reason = first_line(error.__cause__ or error)
        raise DataError(f"{name}: cannot be loaded: {shown(reason, 300)}; {remedy}") from error
    finally:
        retries.setLevel(level)


def _split(rows: Any, split: str, there: str, name: str, text_column: str, label_column: str) -> RawSplit:
    from datasets import ClassLabel

    features = rows.features
    classes = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    if label_column == DEFAULT_LABEL_COLUMN and label_column not in features and len(classes) == 1:
        label_column = classes[0]
    for role, column in (("text", text_column), ("label", label_column)):
        if column not in features:
            raise column_error(name, role, column, features)
    columns = rows.select_columns(list(dict.fromkeys((text_column, label_column)))).with_format(None)
    labels = columns[label_column][:]
    feature = features[label_column]
    if isinstance(feature, ClassLabel):
        labels = [class_name(value, feature.names) for value in labels]
    return RawSplit(split, name, columns[text_column][:], labels, lambda i: f"{there} row {i + 1}")
