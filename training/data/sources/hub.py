"""Datasets of the Hugging Face hub, or of a local directory in one of the hub's layouts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ....errors import DataError, first_line, shown, user_path
from ...section import Name
from ..rows import RawSplit, quoted
from .base import DATA_SOURCES, ColumnsConfig
from .columns import Columns
from .files import is_saved
from .formats.saved import split_names, split_of

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
        """Return the splits that the dataset has."""
        return read_hub(self.dataset, self.dataset_config, self.columns)

    @model_validator(mode="before")
    @classmethod
    def _own_default_config(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("dataset", CLINC_DATASETS[0]) not in CLINC_DATASETS:
            return {"dataset_config": None, **values}
        return values


def read_hub(dataset: str, config: str | None, columns: Columns) -> list[RawSplit]:
    """Read train, and validation and test if there are any, of a dataset with ``datasets.load_dataset``.

    Args:
        dataset: Repository id, or a local directory (data files, or the output of ``save_to_disk``).
        config: Configuration of the dataset; None for its default.
        columns: Columns to read. Labels are named class numbers, strings or numbers. If there is no column of the
            default name ``label`` and exactly one column holds classes, that one is read (``intent`` in clinc_oos).

    Raises:
        DataError: The hub is not reachable, or there is no such dataset, configuration, split or column.
    """
    name = f"{dataset} ({config})" if config else dataset
    loaded = _load(dataset, config, name)
    found = split_names(loaded)
    if "train" not in found:
        raise DataError(
            f"{name}: no split 'train'; it has {quoted(loaded)}; save its splits as files and use data.source: files"
        )
    return [split_of(loaded[own_name], split, name, own_name, columns) for split, own_name in found.items()]


def read_hub_column(dataset: str, config: str | None, split: str, columns: Columns) -> RawSplit:
    """Read a text column of one split of a dataset.

    Raises:
        DataError: As for :func:`read_hub`.
    """
    name = f"{dataset} ({config})" if config else dataset
    loaded = _load(dataset, config, name)
    if split not in loaded:
        raise DataError(f"{name}: no split {split!r} (data.unlabelled.split); it has {quoted(loaded)}")
    return split_of(loaded[split], "unlabelled", name, split, columns)


def _load(dataset: str, config: str | None, name: str) -> Mapping[str, Any]:
    """Return the splits of a dataset by name; a dataset without splits is called ``train``."""
    import datasets

    path = user_path(dataset, "data.dataset", DataError)
    if is_saved(path):
        return _by_split(_loaded(lambda: datasets.load_from_disk(str(path)), name))
    if dataset.startswith((".", "/", "~")) and not path.is_dir():
        raise DataError(
            f"{dataset}: data.dataset is not a directory; correct the path, or give a repository id"
        )
    local = str(path) if path.is_dir() else dataset
    return _by_split(_loaded(lambda: datasets.load_dataset(local, config), name))


def _by_split(loaded: Any) -> Mapping[str, Any]:
    return loaded if isinstance(loaded, Mapping) else {"train": loaded}


def _loaded(load: Callable[[], Any], name: str) -> Any:
    """Call ``load``; turn any failure into a one-line error with its remedy."""
    remedy = (
        "load it once on a machine with network access and set HF_HUB_OFFLINE=1 here with the same HF_HOME, or set "
        "data.dataset to a local directory, or use data.source: files or clinc_json"
    )
    from datasets.exceptions import DatasetNotFoundError

    # Without a network, huggingface_hub logs two lines for each retry; the error below reports it once.
    http_logger = logging.getLogger("huggingface_hub.utils._http")
    level = http_logger.level
    http_logger.setLevel(logging.ERROR)
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
        http_logger.setLevel(level)
