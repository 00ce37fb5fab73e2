"""The ``data`` section of a job's specification: one of the registered sources."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import TypeAdapter

from .sources.base import DATA_SOURCES, DataConfig

__all__ = ["AnyDataConfig", "DataConfig", "data_config"]

AnyDataConfig = Annotated[
    DataConfig, DATA_SOURCES.field(default="embedded", by_own_keys=True, ignores_others=True)
]
"""The section of any source; keys that only another source has are ignored once their values are valid."""


def data_config(**values: Any) -> DataConfig:
    """Return the section of the source that ``values`` name, the embedded corpus by default.

    Raises:
        ValidationError: A key or a value is rejected.
    """
    return TypeAdapter(AnyDataConfig).validate_python(values)
