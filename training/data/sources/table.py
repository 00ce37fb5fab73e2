"""Files of labelled texts, one per split, in the format that their extension names, and folders of ``save_to_disk``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from ....errors import DataError, shown, user_path
from ...section import Name
from ..rows import SPLITS, RawSplit, collect, quoted
from .base import DATA_SOURCES, ColumnsConfig
from .columns import Columns, Table
from .files import existing_data
from .formats.arrow import read_arrow, read_parquet
from .formats.conll import EXTENSIONS, read_conll
from .formats.delimited import read_delimited
from .formats.json_files import read_json_lines, read_json_list
from .formats.saved import open_saved, read_saved, split_folders

FORMATS = ".csv, .tsv, .jsonl, .json (each also .gz), .parquet, .arrow, .conll, and folders of save_to_disk"

_TAB = "tab"
_HINTS = {
    ".xlsx": "export it as CSV",
    ".xls": "export it as CSV",
    ".zip": "unpack it first",
    ".txt": "rename it, to .conll if each line has a token and its tag",
}


def _named_tab(value: Any) -> Any:
    return _TAB if value == "\t" else value


Delimiter = Annotated[Literal[",", ";", "|", "tab"], BeforeValidator(_named_tab)]


@DATA_SOURCES.register
class FilesData(ColumnsConfig):
    """A file for each split, or one for all."""

    source: Literal["files"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="files",
        description="CSV, JSON, SQuAD, Parquet, Arrow or CoNLL files: `train`, and `validation` and `test` if there "
        "are any.",
    )
    train: Name | None = Field(
        default=None,
        description=f"files: the training texts ({FORMATS}). A folder of several splits gives the other two as well.",
    )
    validation: Name | None = Field(
        default=None,
        description="files: the validation split, on which every selection is made. Default: held out of `train`.",
    )
    test: Name | None = Field(
        default=None,
        description="files: the test split, which is only reported, never used to select. Default: held out of "
        "`train`.",
    )
    delimiter: Delimiter | None = Field(
        default=None,
        description="files: what stands between the fields of .csv and .tsv files. Default: detected from the header "
        "and the first records.",
    )

    local_files: ClassVar[tuple[str, ...]] = ("train",)
    optional_files: ClassVar[tuple[str, ...]] = ("validation", "test")

    def read(self) -> list[RawSplit]:
        """Return the splits that are given; the errors of all files are raised together."""
        splits = {split: getattr(self, split) or self._in_train(split) for split in SPLITS}
        return collect(
            [
                lambda split=split, name=name: read_table(split, name, self.columns, self.delimiter)
                for split, name in splits.items()
                if name is not None
            ]
        )

    def _in_train(self, split: str) -> str | None:
        """Return the folder that ``train`` names, if it has this split."""
        folder = user_path(str(self.train), "data.train", DataError)
        return str(self.train) if split in split_folders(folder) else None


def read_table(
    split: str,
    name: str,
    columns: Columns,
    delimiter: str | None = None,
    *,
    parameter: str | None = None,
) -> RawSplit:
    """Read one split from a file, in the format given by its extension, or from a folder of ``save_to_disk``.

    Args:
        split: Name of the split, and of the parameter that names the file.
        name: Path of the file or folder.
        columns: Columns to read.
        delimiter: Character between the fields of a CSV file, or ``tab``; None: detected.
        parameter: Full name of the parameter that holds the path, for messages; default: ``data.`` and the split.

    Raises:
        DataError: The file does not exist, its extension is not supported or does not match its content, or a
            column does not exist.
    """
    parameter = parameter or f"data.{split}"
    path = existing_data(name, parameter)
    if path.is_dir():
        return read_saved(_folder_of(path, split), split, columns)
    return columns.split(split, _open_file(path, columns, delimiter, parameter))


def open_table(name: str, delimiter: str | None = None, *, parameter: str = "data.train") -> Table:
    """Return all columns of the file or folder that ``parameter`` names; raise as :func:`read_table` does."""
    path = existing_data(name, parameter)
    if path.is_dir():
        return open_saved(_folder_of(path, "train"))
    return _open_file(path, Columns(None), delimiter, parameter)


def is_table(path: Path) -> bool:
    """Return whether a path has the extension of a table, or is a folder."""
    return path.is_dir() or _extension(path) in _READERS or _extension(path).removesuffix(".gz") in _DELIMITED


def _extension(path: Path) -> str:
    """Return a file's extension in lower case, with the one before ``.gz``."""
    return "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]).lower()


def _open_file(path: Path, columns: Columns, delimiter: str | None, parameter: str) -> Table:
    extension = _extension(path)
    if (read := _READERS.get(extension)) is not None:
        return read(path, columns)
    if extension.removesuffix(".gz") not in _DELIMITED:
        hint = _HINTS.get(extension, "convert it to one of them")
        raise DataError(
            f"{path}: {parameter} has the extension {shown(extension)}; source files reads {FORMATS}; {hint}"
        )
    return read_delimited(path, columns, "\t" if delimiter == _TAB else delimiter)


def _folder_of(path: Path, split: str) -> Path:
    folders = split_folders(path)
    if folders and split not in folders:
        raise DataError(
            f"{path}: data.{split} has no split of that name; it has {quoted(folders)}; specify the folder of one"
        )
    return folders.get(split, path)


_READERS: dict[str, Callable[[Path, Columns], Table]] = {
    ".jsonl": read_json_lines,
    ".jsonl.gz": read_json_lines,
    ".json": read_json_list,
    ".json.gz": read_json_list,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    **dict.fromkeys(EXTENSIONS, read_conll),
}
_DELIMITED = (".csv", ".tsv")
