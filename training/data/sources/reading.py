"""Which reader serves which source of the ``data`` section."""

from __future__ import annotations

from ..config import DataConfig
from ..rows import RawSplit, collect
from .clinc import read_clinc_json, read_embedded
from .table import read_table


def read_source(config: DataConfig) -> list[RawSplit]:
    """Train, validation and test, in that order, as the source holds them.

    Raises:
        DataError: What is wrong, by file and row, with its remedy; the faults of several files come together.
    """
    if config.source == "embedded":
        return read_embedded()
    if config.source == "clinc_json":
        return read_clinc_json(str(config.path))
    if config.source == "hub":
        from .hub import read_hub

        return read_hub(config.dataset, config.dataset_config, config.text_column, config.label_column)
    named = {"train": config.train, "validation": config.validation, "test": config.test}
    return collect(
        [
            lambda split=split, name=name: read_table(
                split, str(name), config.text_column, config.label_column
            )
            for split, name in named.items()
        ]
    )
