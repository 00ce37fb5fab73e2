"""CLINC150's own JSON format: user files in it, and the embedded corpus."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from ....errors import DataError, shown
from ....storage.safe_reading import RefusedJsonError, read_json
from ...section import Name
from ..rows import FaultList, RawSplit, quoted
from .base import DATA_SOURCES, DataConfig
from .files import decode, existing_file, read_bytes

KEYS: Final = {"train": "train", "validation": "val", "test": "test"}
"""Names of the splits -> their keys in the file; each may have an `oos_` key beside it."""


@DATA_SOURCES.register
class EmbeddedData(DataConfig):
    """The corpus that is included in the package."""

    source: Literal["embedded"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="embedded", description="The corpus included in the package."
    )

    @property
    def default_out_of_scope_label(self) -> str | None:
        """The corpus's out-of-scope label."""
        return "oos"

    def read(self) -> list[RawSplit]:
        """Return the three splits of the corpus in the package."""
        return read_embedded()


@DATA_SOURCES.register
class ClincJsonData(DataConfig):
    """A file in CLINC150's own format."""

    source: Literal["clinc_json"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="clinc_json", description="A file in CLINC150's own format (`path`)."
    )
    path: Name | None = Field(default=None, description="clinc_json: the file.")

    local_files: ClassVar[tuple[str, ...]] = ("path",)

    @property
    def default_out_of_scope_label(self) -> str | None:
        """The format's out-of-scope label."""
        return "oos"

    def read(self) -> list[RawSplit]:
        """Return the three splits of the file."""
        return read_clinc_json(str(self.path))


def read_clinc_json(name: str) -> list[RawSplit]:
    """Read train, validation and test, each with its out-of-scope rows, from a file such as ``data_oos_plus.json``.

    Args:
        name: Path of one JSON object ``{"train": [[text, label], …], "val": …, "test": …}``, with
            ``oos_train``, ``oos_val``, ``oos_test`` optional.

    Raises:
        DataError: The file does not exist, is not JSON, or has another structure.
    """
    path = existing_file(name, "data.path")
    return parse_clinc(read_bytes(path), str(path))


def read_embedded() -> list[RawSplit]:
    """Read train, validation and test of the corpus in the package."""
    corpus = files("distiltune.training.data.sources") / "corpus" / "embedded.json"
    return parse_clinc(corpus.read_bytes(), "embedded.json")


def parse_clinc(content: bytes, origin: str) -> list[RawSplit]:
    """Parse the bytes of a file as ``read_clinc_json`` does."""
    text = decode(content, origin, "JSON")
    try:
        document = read_json(text)
    except RefusedJsonError as error:
        raise DataError(
            f"{origin}: line {error.lineno} column {error.colno}: not usable JSON ({error.msg})"
        ) from None
    except json.JSONDecodeError as error:
        is_cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        what = "it ends too early: the file is truncated" if is_cut else error.msg
        remedy = (
            "copy or write the file again" if is_cut else "for CSV, JSONL or Parquet use data.source: files"
        )
        raise DataError(
            f"{origin}: line {error.lineno} column {error.colno}: not valid JSON ({what}); {remedy}"
        ) from None
    _check_keys(document, origin)
    return [_split(document, split, key, origin) for split, key in KEYS.items()]


def _check_keys(document: Any, origin: str) -> None:
    expected = "CLINC150's format is one object whose train, val and test are lists of [text, label]"
    remedy = "for one file per split use data.source: files"
    if not isinstance(document, dict):
        raise DataError(f"{origin}: the document is a {type(document).__name__}; {expected}; {remedy}")
    missing = [key for key in KEYS.values() if key not in document]
    if missing:
        raise DataError(
            f"{origin}: no key {quoted(missing)}; it has {quoted(document, 8)}; {expected}; {remedy}"
        )
    for key in [*KEYS.values(), *(f"oos_{key}" for key in KEYS.values())]:
        if not isinstance(document.get(key, []), list):
            raise DataError(f"{origin}: {key!r} is a {type(document[key]).__name__}; {expected}; {remedy}")


def _split(document: dict[str, list[Any]], split: str, key: str, origin: str) -> RawSplit:
    in_scope, out_of_scope = document[key], document.get(f"oos_{key}", [])

    def place(index: int) -> str:
        if index < len(in_scope):
            return f"{key} row {index + 1}"
        return f"oos_{key} row {index - len(in_scope) + 1}"

    faults = FaultList()
    texts: list[object] = []
    labels: list[object] = []
    for index, row in enumerate([*in_scope, *out_of_scope]):
        if isinstance(row, list) and len(row) == 2:
            texts.append(row[0])
            labels.append(row[1])
        else:
            faults.add(lambda i=index, r=row: f"{place(i)}: {shown(r)}")
    faults.raise_if_any(origin, "each row must be a list of two: [text, label]")
    return RawSplit(split, origin, texts, labels, place)
