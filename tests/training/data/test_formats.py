"""Formats of data files: delimiters, encodings, compression, JSON lists, Arrow, saved datasets, templates."""

import csv
import gzip
import io
import json
import logging

import datasets
import pyarrow as pa
import pytest
from datafiles import LABELS, files_config, local_hub_dataset, rows_of

from distiltune.errors import DataError
from distiltune.training.data.config import data_config
from distiltune.training.data.text_data import load_data

SPLITS = ("train", "validation", "test")
COLUMNS = ("text", "label")


@pytest.fixture(scope="module")
def fingerprint(tmp_path_factory):
    """Fingerprint of ``rows_of`` for all three splits."""
    return load_data(files_config(tmp_path_factory.mktemp("plain"), ".csv")).fingerprint


def delimited(rows, delimiter=",", end="\r\n", columns=COLUMNS) -> str:
    made = io.StringIO(newline="")
    csv.writer(made, delimiter=delimiter, lineterminator=end).writerows([columns, *rows])
    return made.getvalue()


def objects(rows) -> list[dict]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def json_lines(rows, end="\n") -> str:
    return end.join(json.dumps(each) for each in objects(rows)) + end


def arrow(rows, of_file) -> bytes:
    table = pa.table(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))
    made = pa.BufferOutputStream()
    with (pa.ipc.new_file if of_file else pa.ipc.new_stream)(made, table.schema) as writer:
        writer.write_table(table)
    return made.getvalue().to_pybytes()


FORMS = {
    "semicolons": ("csv", lambda rows: delimited(rows, ";")),
    "tabs": ("csv", lambda rows: delimited(rows, "\t")),
    "bars": ("csv", lambda rows: delimited(rows, "|")),
    "tsv": ("tsv", lambda rows: delimited(rows, "\t")),
    "TSV": ("TSV", lambda rows: delimited(rows, "\t")),
    "tsv with commas": ("tsv", delimited),
    "newlines": ("csv", lambda rows: delimited(rows, end="\n")),
    "returns alone": ("csv", lambda rows: delimited(rows, end="\r")),
    "UTF-8 with a mark": ("csv", lambda rows: delimited(rows, ";").encode("utf-8-sig")),
    "UTF-16, little": ("csv", lambda rows: b"\xff\xfe" + delimited(rows, "\t").encode("utf-16-le")),
    "UTF-16, big": ("tsv", lambda rows: b"\xfe\xff" + delimited(rows, "\t").encode("utf-16-be")),
    "csv.gz": ("csv.gz", lambda rows: gzip.compress(delimited(rows).encode())),
    "tsv.gz": ("tsv.gz", lambda rows: gzip.compress(delimited(rows, "\t").encode("utf-16"))),
    "CSV.GZ": ("CSV.GZ", lambda rows: gzip.compress(delimited(rows, "|").encode())),
    "jsonl.gz": ("jsonl.gz", lambda rows: gzip.compress(json_lines(rows).encode())),
    "jsonl, CRLF": ("jsonl", lambda rows: json_lines(rows, "\r\n")),
    "jsonl, CR": ("jsonl", lambda rows: json_lines(rows, "\r")),
    "jsonl, UTF-16": ("jsonl", lambda rows: json_lines(rows).encode("utf-16")),
    "json list": ("json", lambda rows: json.dumps(objects(rows))),
    "json list, indented": ("json", lambda rows: "\ufeff" + json.dumps(objects(rows), indent=2)),
    "json list.gz": ("json.gz", lambda rows: gzip.compress(json.dumps(objects(rows)).encode())),
    "json lines": ("json", json_lines),
    "arrow stream": ("arrow", lambda rows: arrow(rows, False)),
    "arrow file": ("arrow", lambda rows: arrow(rows, True)),
}


@pytest.mark.parametrize(("extension", "make"), FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_data(tmp_path, fingerprint, extension, make):
    named = {split: tmp_path / f"{split}.{extension}" for split in SPLITS}
    for split, path in named.items():
        content = make(rows_of(split))
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    config = data_config(**{split: str(path) for split, path in named.items()})
    assert config.source == "files"
    assert load_data(config).fingerprint == fingerprint


@pytest.mark.parametrize(
    ("content", "given", "texts"),
    [
        # Only with semicolons has the header the columns, however many commas the texts have.
        ('text;label;note\na, b, c;x;1\n"d; e";y;2,5\n', None, ["a, b, c", "d; e"]),
        ("id,n|text|label\n1,2|a, b|x\n1,2|c, d|y\n", None, ["a, b", "c, d"]),
        ("text,label\na;b;c,x\nd;e;f,y\n", None, ["a;b;c", "d;e;f"]),
        ("text|label\na\tb\tc|x\nd\te\tf|y\n", "|", ["a\tb\tc", "d\te\tf"]),
        ("text\tlabel\na,x\tx\nb\ty\n", "tab", ["a,x", "b"]),
        ("text\tlabel\na,x\tx\nb\ty\n", "\t", ["a,x", "b"]),
    ],
)
def test_the_delimiter_is_detected_or_given(tmp_path, content, given, texts):
    path = tmp_path / "train.csv"
    path.write_text(content)
    config = data_config(train=str(path), validation=str(path), test=str(path), delimiter=given)
    assert load_data(config).splits["train"]["text"][:] == texts


def test_a_wrong_delimiter_is_reported(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text;label\na;x\nb;y\n")
    with pytest.raises(DataError, match=r"no column 'text' .*it has 'text;label'"):
        load_data(data_config(train=str(path), delimiter=","))
    with pytest.raises(ValueError, match="delimiter"):
        data_config(train=str(path), delimiter=":")


def test_a_cell_may_be_longer_than_the_limit_of_the_csv_module(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{'ab ' * 50_000}{i}\t{i % 2}\n" for i in range(10)))
    data = load_data(data_config(train=str(path)))
    assert min(len(text) for text in data.splits["train"]["text"]) >= 150_000


@pytest.mark.parametrize(
    ("label", "name"),
    [
        (3, "3"),
        (3.0, "3"),
        (-1, "-1"),
        (True, "True"),
        ("3.5", "3.5"),
        ("v1.0", "v1.0"),
        (2.0**52, str(2**52)),
    ],
)
@pytest.mark.parametrize("form", ["json", "arrow"])
def test_numbers_and_booleans_become_labels(tmp_path, label, name, form):
    other = {str: "x", bool: False}.get(type(label), type(label)(0))
    rows = [("a", label), ("b", other)]
    path = tmp_path / f"train.{form}"
    path.write_bytes(arrow(rows, False) if form == "arrow" else json.dumps(objects(rows)).encode())
    named = dict.fromkeys(SPLITS, str(path))
    assert name in load_data(data_config(**named)).label_names


def test_whole_numbers_with_and_without_decimals_are_the_same_labels(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,1.0\nb,0.0\nc,2.0\n")
    (tmp_path / "b.csv").write_text("text,label\nd,1\ne,0\nf,2\n")
    named = {"train": str(tmp_path / "a.csv"), "validation": str(tmp_path / "b.csv")}
    assert load_data(data_config(**named, test=named["validation"])).label_names == ["0", "1", "2"]
    (tmp_path / "a.csv").write_text("text,label\na,1.0\nb,1.5\nc,2.0\n")
    named = dict.fromkeys(SPLITS, str(tmp_path / "a.csv"))
    assert load_data(data_config(**named)).label_names == ["1.0", "1.5", "2.0"]


# ---- Templates ------------------------------------------------------------------------------------------------


def test_a_template_joins_columns(tmp_path):
    rows = [("T1", "B1", 5, "x"), ("", "B2", None, "y"), ("{T3}", None, 1, "x"), (" ", "", None, "y")]
    path = tmp_path / "train.json"
    path.write_text(
        json.dumps([dict(zip(("title", "the body", "n", "label"), row, strict=True)) for row in rows])
    )
    named = dict.fromkeys(SPLITS, str(path))
    config = data_config(**named, text_template="{title}\n{the body} {{{n}}}")
    assert load_data(config).splits["train"]["text"][:] == ["T1\nB1 {5}", "B2 {}", "{T3}\n {1}"]
    assert data_config(**json.loads(config.model_dump_json())) == config
    with pytest.raises(
        DataError, match=r"no column 'tite' \(data.text_template\); it has .*nearest: 'title'"
    ):
        load_data(data_config(**named, text_template="{tite}"))


def test_a_template_joins_columns_of_a_hub_dataset(tmp_path):
    made = local_hub_dataset(True).map(lambda row: {"title": row["text"][:3]})
    made.save_to_disk(str(tmp_path / "saved"))
    data = load_data(data_config(dataset=str(tmp_path / "saved"), text_template="{title}: {text}"))
    text, _ = rows_of("train")[0]
    assert data.splits["train"]["text"][0] == f"{text[:3]}: {text}"


@pytest.mark.parametrize("template", ["text", "{}", "{text", "}", "{text} { }", "{{text}}"])
def test_a_template_without_columns_is_refused(template):
    with pytest.raises(ValueError, match=r"text_template\n.*columns in braces"):
        data_config(train="a.csv", text_template=template)


def test_a_template_and_a_text_column_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="one of text_column and text_template"):
        data_config(train="a.csv", text_template="{a}", text_column="b")
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "x", "label": "l"}\n{"a": ["y"], "label": "l"}\n')
    with pytest.raises(DataError, match=r"line 2: text is \['y'\] \(list\), not text"):
        load_data(data_config(train=str(path), text_template="{a}"))


# ---- Rows without a text --------------------------------------------------------------------------------------


def test_rows_without_a_text_are_dropped_and_counted_in_every_split(tmp_path, caplog):
    named = {}
    for split in SPLITS:
        rows = [
            *objects(rows_of(split)),
            {"label": "oos"},
            {"text": None, "label": "oos"},
            {"text": " \n", "label": ""},
        ]
        named[split] = tmp_path / f"{split}.jsonl"
        named[split].write_text("\n".join(map(json.dumps, rows)))
    with caplog.at_level(logging.WARNING):
        data = load_data(data_config(**{split: str(path) for split, path in named.items()}))
    assert [len(data.splits[split]) for split in SPLITS] == [12, 12, 12]
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        f"{named[split]}: 3 rows of 15 in the {split} split dropped, without a text; the first: line 13"
        for split in SPLITS
    ]


def test_nan_is_not_a_text(tmp_path):
    (tmp_path / "a.jsonl").write_text(json_lines([("a", "x"), ("b", "y")]))
    table = pa.table({"text": pa.array([float("nan")] * 2), "label": ["x", "y"]})
    path = tmp_path / "a.arrow"
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)
    named = dict.fromkeys(SPLITS, str(tmp_path / "a.jsonl")) | {"test": str(path)}
    with pytest.raises(DataError, match="no row of the test split has a text: row 1"):
        load_data(data_config(**named))


# ---- Folders of save_to_disk ----------------------------------------------------------------------------------


def test_a_saved_dataset_gives_its_splits_and_class_names(tmp_path, fingerprint):
    made = local_hub_dataset(True)
    made.save_to_disk(str(tmp_path / "all"))
    options = {"label_column": "intent"}
    assert load_data(data_config(train=str(tmp_path / "all"), **options)).fingerprint == fingerprint
    assert load_data(data_config(train=str(tmp_path / "all"))).fingerprint == fingerprint, "the only classes"
    for split in SPLITS:
        made[split].save_to_disk(str(tmp_path / split))
    named = {split: str(tmp_path / split) for split in SPLITS}
    assert load_data(data_config(**named)).fingerprint == fingerprint
    named["validation"] = str(tmp_path / "all")
    assert load_data(data_config(**named)).fingerprint == fingerprint
    file = next((tmp_path / "train").glob("*.arrow"))
    named["train"] = str(file)
    assert load_data(data_config(**named, **options)).fingerprint == fingerprint
    assert load_data(data_config(**named, **options)).label_names == sorted(LABELS)


def test_a_saved_dataset_under_other_names_and_without_a_split(tmp_path):
    made = local_hub_dataset(True)
    datasets.DatasetDict({"train": made["train"], "dev": made["test"]}).save_to_disk(str(tmp_path / "two"))
    data = load_data(data_config(train=str(tmp_path / "two")))
    assert data.splits["validation"]["text"][:] == [text for text, _ in rows_of("test")]
    assert len(data.splits["test"]) == 1 and len(data.splits["train"]) == 11


@pytest.mark.parametrize("name", ["dataset_dict.json", "train/state.json", "train/data-00000-of-00001.arrow"])
def test_a_damaged_saved_dataset_is_reported(tmp_path, name):
    local_hub_dataset(True).save_to_disk(str(tmp_path / "all"))
    (tmp_path / "all" / name).write_text("[")
    with pytest.raises(DataError) as caught:
        load_data(data_config(train=str(tmp_path / "all")))
    assert str(tmp_path / "all") in str(caught.value) and "save" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
