"""CoNLL files: columns, documents, comments and line ends; and one clear error for an invalid file."""

from __future__ import annotations

from pathlib import Path

import pytest

from distiltune.errors import DataError
from distiltune.training.data.sources.columns import Columns
from distiltune.training.data.sources.table import is_table, open_table, read_table

COLUMNS = Columns("text", "label")


def table(folder: Path, content: str, name: str = "data.conll", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(content.encode(encoding))
    return path


def texts(path: Path) -> list[tuple[object, object]]:
    raw = read_table("train", str(path), COLUMNS)
    return list(zip(raw.texts, raw.labels, strict=True))


@pytest.mark.parametrize(
    "content",
    [
        "EU NNP B-org\ncalls VBZ O\n\nAnn NNP B-per\n",
        "EU\tB-org\ncalls\tO\n\nAnn\tB-per",
        "-DOCSTART- -X- O O\n\nEU NNP I-NP B-org\ncalls VBZ I-VP O\n\n-DOCSTART- -X- O O\n\nAnn NNP I-NP B-per\n\n\n",
        "# id 7\nEU B-org\ncalls O\n   \n# a comment\nAnn B-per\n",
        "EU B-org\r\ncalls O\r\n\r\nAnn B-per\r\n",
        "\ufeffEU B-org\ncalls O\n\nAnn B-per\n",
    ],
)
def test_texts_are_divided_by_blank_lines(tmp_path, content):
    assert texts(table(tmp_path, content)) == [(["EU", "calls"], ["B-org", "O"]), (["Ann"], ["B-per"])]


def test_a_hash_with_a_tag_is_a_token(tmp_path):
    assert texts(table(tmp_path, "# O\n1 B-number\n")) == [(["#", "1"], ["O", "B-number"])]


def test_a_field_between_tabs_may_have_blanks(tmp_path):
    assert texts(table(tmp_path, "New York\tB-loc\nis\tO\n")) == [(["New York", "is"], ["B-loc", "O"])]


def test_a_no_break_space_belongs_to_its_token(tmp_path):
    for blank in (" ", "\t"):
        path = table(tmp_path, f"10\u00a0000{blank}B-sum\neuros{blank}I-sum\n")
        assert texts(path) == [(["10\u00a0000", "euros"], ["B-sum", "I-sum"])]


@pytest.mark.parametrize("name", ["a.conll", "a.iob", "a.iob2", "a.bio", "A.CONLL"])
def test_a_file_with_each_extension_is_read(tmp_path, name):
    path = table(tmp_path, "Ann B-per\n", name)
    assert texts(path) == [(["Ann"], ["B-per"])] and is_table(path)


def test_the_place_of_a_text_is_its_first_line(tmp_path):
    raw = read_table(
        "train", str(table(tmp_path, "-DOCSTART- O\n\nEU B-org\n\nAnn B-per\nBo I-per\n")), COLUMNS
    )
    assert [raw.place(number) for number in range(2)] == ["line 3", "line 5"]


def test_all_columns_have_names(tmp_path):
    opened = open_table(str(table(tmp_path, "Ann B-per\n")))
    assert list(opened.names) == ["tokens", "tags"]
    assert (opened.column("tokens"), opened.column("tags")) == ([["Ann"]], [["B-per"]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("EU B-org\ncalls\n", r"1 fault: line 2: 'calls' has no tag; write a token and its tag"),
        ("a\nb\n" * 4, r"8 faults: line 1: 'a' has no tag.*and 3 more"),
        ("-DOCSTART- O\n\n# id 1\n", r"has no token"),
        ("   \n", r"the file is empty"),
        ("a\0b O\n", r"binary file"),
    ],
)
def test_an_invalid_file_is_one_error(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as error:
        read_table("train", str(table(tmp_path, content)), COLUMNS)
    assert "\n" not in str(error.value)


def test_invalid_utf_8_is_reported_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r"line 2: not valid UTF-8.*CoNLL"):
        read_table("train", str(table(tmp_path, "a O\né O\n", encoding="latin-1")), COLUMNS)


def test_other_columns_are_rejected(tmp_path):
    with pytest.raises(DataError, match=r"no column 'channel' \(data\.slice_columns\)"):
        read_table("train", str(table(tmp_path, "a O\n")), Columns("text", "label", slices=("channel",)))


def test_the_error_for_a_txt_file_has_a_remedy(tmp_path):
    with pytest.raises(
        DataError, match=r"'\.txt'.*rename it, to \.conll if each line has a token and its tag"
    ):
        read_table("train", str(table(tmp_path, "a O\n", "train.txt")), COLUMNS)
