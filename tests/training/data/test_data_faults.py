"""Each invalid input raises one DataError with file, row and remedy, never another exception."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafiles import clinc_document, files_config, local_hub_dataset, rows_of, write

from distiltune.errors import DataError
from distiltune.training.data.config import DataConfig, data_config
from distiltune.training.data.text_data import load_data

CSV = "text,label\nwake me,alarm\nrain?,weather\n,oos\n"


def message_of(config: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        load_data(config)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    return message


def with_train(tmp_path: Path, name: str, content: bytes | str, **options) -> tuple[str, str]:
    """Return the error when this file is the training split beside valid ones, and its path."""
    config = files_config(tmp_path, ".csv", **options)
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return message_of(config.model_copy(update={"train": str(path)})), str(path)


def lines(*rows: object) -> str:
    return "\n".join(json.dumps(row) for row in rows) + "\n"


GOOD = {"text": "wake me", "label": "alarm"}

BAD_FILES = {
    "empty": ("a.csv", b"", ["the file is empty"]),
    "blank": ("a.csv", b"\n \n", ["the file is empty"]),
    "only a byte-order mark": ("a.csv", b"\xef\xbb\xbf\r\n\n", ["the file is empty"]),
    "only a mark, jsonl": ("a.jsonl", b"\xef\xbb\xbf\n", ["the file is empty"]),
    "header only": ("a.csv", "text,label\n", ["the train split has no row"]),
    "no column": (
        "a.csv",
        "text,intent\nhi,alarm\n",
        ["no column 'label'", "'text', 'intent'", "data.label_column"],
    ),
    "no text column": (
        "a.csv",
        "Text,label\nhi,alarm\n",
        ["no column 'text'", "nearest: 'Text'", "data.text_column"],
    ),
    "semicolons": ("a.csv", "text;intent\nhi;alarm\n", ["no column 'label'", "it has 'text', 'intent'"]),
    "semicolons, fewer": (
        "a.csv",
        "text;label\nhi;alarm\nho\n",
        ["line 3: 1 field where the header has 2", "semicolons (data.delimiter)"],
    ),
    "column twice": ("a.csv", "text,label,text\nhi,alarm,ho\n", ["2 columns are called 'text'"]),
    "only empty texts": (
        "a.csv",
        "text,label\n,oos\n ,a\n",
        ["no row of the train split has a text: line 2: "],
    ),
    "blank label": ("a.csv", "text,label\n\nhi,  \n", ["line 3: label is empty or blank"]),
    "more fields": (
        "a.csv",
        "text,label\na,alarm\nhi, you,alarm\n",
        ["line 3: 3 fields where the header has 2"],
    ),
    "fewer fields": ("a.csv", "text,label\nhi\n", ["line 2: 1 field where the header has 2"]),
    "open quote": ("a.csv", 'text,label\nhi,alarm\n"never closed,alarm\nho,oos\n', ["line 3: not valid CSV"]),
    "after a text of two lines": ("a.csv", 'text,label\n"a\nb",alarm\nc,\n', ["line 4: label is empty"]),
    "after a text of two lines, Mac": (
        "a.csv",
        'text,label\r"a\rb",alarm\rc,\r',
        ["1 fault: line 4: label is empty"],
    ),
    "not UTF-8": ("a.csv", b"text,label\nhi,alarm\ncaf\xe9,oos\n", ["line 3: not valid UTF-8 (byte 0xe9)"]),
    "UTF-16, cut": ("a.csv", CSV.encode("utf-16")[:-1], ["line 4: not valid UTF-16", "UTF-8"]),
    "UTF-16, blank": ("a.csv", " \n".encode("utf-16"), ["the file is empty"]),
    "UTF-16, without a label": ("a.csv", "text,label\nhi,\n".encode("utf-16"), ["line 2: label is empty"]),
    "UTF-32": ("a.csv", CSV.encode("utf-32"), ["it is UTF-32 text", "UTF-8"]),
    "binary": ("a.csv", b"text,label\n\x00\x01\x02", ["it is a binary file"]),
    "gzip as csv": ("a.csv", gzip.compress(CSV.encode()), ["gzip-compressed", ".gz"]),
    "csv as gzip": ("a.csv.gz", CSV, ["not a gzip file", "remove .gz"]),
    "cut gzip": ("a.csv.gz", gzip.compress(CSV.encode())[:-9], ["a damaged or truncated gzip file"]),
    "changed gzip": ("a.csv.gz", gzip.compress(CSV.encode())[:-8] + bytes(8), ["a damaged gzip file"]),
    "empty gzip": ("a.csv.gz", gzip.compress(b"\n"), ["the file is empty"]),
    "gzip, without a label": ("a.tsv.gz", gzip.compress(b"text\tlabel\nhi\t\n"), ["line 2: label is empty"]),
    "workbook as csv": ("a.csv", b"PK\x03\x04rest", ["Excel workbook"]),
    "json as csv": ("a.csv", lines(GOOD), ["JSON", ".jsonl"]),
    "key twice": (
        "a.jsonl",
        lines(GOOD) + '{"text": "a", "label": "b", "text": "c"}\n',
        ["line 2: ", "key 'text' is given twice"],
    ),
    "key twice in a list": (
        "a.jsonl",
        '{"text": "a", "label": "b", "more": [{"a": 1, "\\u0061": 2}]}\n',
        ["line 1: ", "key 'a' is given twice"],
    ),
    "not a number": ("a.jsonl", lines(GOOD) + '{"text": "a", "label": NaN}', ["line 2: ", "NaN"]),
    "infinity": ("a.jsonl", '{"text": "a", "label": "b", "more": 1e999}', ["line 1: ", "'1e999'"]),
    "csv as jsonl": ("a.jsonl", CSV, ["line 1: not valid JSON", "one object per line"]),
    "truncated jsonl": ("a.jsonl", lines(GOOD) + '{"text": "hi', ["line 2: not valid JSON"]),
    "array as jsonl": ("a.jsonl", json.dumps([GOOD]), ["line 1: a JSON list, not an object", ".json"]),
    "deep jsonl": ("a.jsonl", "[" * 200_000, ["line 1: not valid JSON"]),
    "huge number": ("a.jsonl", '{"text": "a", "label": ' + "9" * 5000 + "}", ["line 1: not valid JSON"]),
    "jsonl no column": (
        "a.jsonl",
        lines({"text": "a", "intent": "b"}),
        ["no column 'label'", "'text', 'intent'"],
    ),
    "jsonl one lacks": ("a.jsonl", lines(GOOD, {"text": "hi"}), ["line 2: label is missing"]),
    "null": ("a.jsonl", lines(GOOD, {"text": "a", "label": None}), ["line 2: label is null"]),
    "number": ("a.jsonl", lines(GOOD, {"text": 4, "label": "oos"}), ["line 2: text is 4 (int), not text"]),
    "fraction": ("a.jsonl", lines({"text": "a", "label": 1.5}), ["line 1: label is 1.5 (float), not text"]),
    "list": ("a.jsonl", lines({"text": ["a"], "label": "b"}), ["text is ['a'] (list), not text"]),
    "half surrogate": (
        "a.jsonl",
        '{"text": "a\\ud800", "label": "b"}\n',
        ["line 1: text ", "surrogate"],
    ),
    "csv as parquet": ("a.parquet", CSV, ["not a Parquet file", "perhaps CSV"]),
    "json as parquet": ("a.parquet", lines(GOOD), ["not a Parquet file", "JSON text"]),
    "empty parquet": ("a.parquet", b"", ["the file is empty"]),
    "cut parquet": ("a.parquet", b"PAR1" + b"x" * 50, ["damaged or truncated Parquet"]),
    "json without columns": ("a.json", "{}", ["no column 'text'"]),
    "json of clinc": (
        "a.json",
        json.dumps(clinc_document(), indent=1),
        ["a JSON object over several lines", "clinc_json"],
    ),
    "json list, cut": ("a.json", '[{"text": "a",\n "label": "b"}', ["line 2 column ", "not valid JSON"]),
    "json list of lists": ("a.json", '[["a", "b"]]', ["row 1: a JSON list", "a list of objects"]),
    "json list, no label": ("a.json", json.dumps([GOOD, {"text": "a"}]), ["row 2: label is missing"]),
    "json list, other columns": (
        "a.json",
        '[{"text": "a", "intent": "b"}]',
        ["no column 'label'", "'intent'"],
    ),
    "json list, empty": ("a.json", "[]", ["the train split has no row"]),
    "json lines as json": ("a.json", lines(GOOD, {"text": "a"}), ["line 2: label is missing"]),
    "key twice in a json list": (
        "a.json",
        '[{"text": "a",\n "text": "b"}]',
        ["line 2", "'text' is given twice"],
    ),
    "csv as arrow": ("a.arrow", CSV, ["not an Arrow file", "perhaps CSV"]),
    "empty arrow": ("a.arrow", b"", ["the file is empty"]),
    "cut arrow": ("a.arrow", b"ARROW1" + b"x" * 50, ["damaged or truncated Arrow"]),
    "cut arrow stream": ("a.arrow", b"\xff\xff\xff\xff\x80\0\0\0xx", ["damaged or truncated Arrow"]),
    "no extension": ("data", CSV, ["extension ''", ".csv, .tsv, .jsonl, .json", ".arrow"]),
    "workbook": ("a.xlsx", b"PK\x03\x04rest", ["extension '.xlsx'", "export it as CSV"]),
}


@pytest.mark.parametrize(("name", "content", "expected"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file_is_named_with_row_and_remedy(tmp_path, name, content, expected):
    message, path = with_train(tmp_path, name, content)
    assert message.startswith(path)
    assert len(message.splitlines()) == 1
    for part in expected:
        assert part in message


def test_a_long_text_is_read(tmp_path):
    config = files_config(tmp_path, ".csv")
    path = Path(str(config.train))
    header, first, *rest = path.read_text().splitlines()
    text = "a" * 140_000
    path.write_text("\n".join([header, f"{text},{first.rpartition(',')[2]}", first, *rest, ""]))
    assert text in load_data(config).splits["train"]["text"][:]


@pytest.mark.parametrize(
    "name", ["~no-such-user/a.csv", "a\0.csv", "x" * 300 + ".csv", "\ud800.csv"], ids=ascii
)
def test_an_impossible_file_name_is_a_fault_of_its_parameter(tmp_path, name):
    config = files_config(tmp_path, ".csv").model_copy(update={"train": name})
    assert message_of(config).startswith("data.train: ")
    for update in ({"source": "clinc_json", "path": name}, {"source": "hub", "dataset": name}):
        assert message_of(config.model_copy(update=update)).startswith("data.")


def test_a_key_given_twice_in_a_clinc_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "clinc.json"
    path.write_text('{"train": [["a {", "b"]],\n "val": [],\n "train": [], "test": []}')
    message = message_of(data_config(source="clinc_json", path=str(path)))
    assert f"{path}: line 3 column 2: " in message and "'train'" in message
    path.write_text('{"train": [["NaN", "b"],\n["c", NaN]], "val": [], "test": []}')
    assert f"{path}: line 2 column 7: " in message_of(data_config(source="clinc_json", path=str(path)))


def test_first_faults_are_shown_and_all_are_counted(tmp_path):
    rows = [{"text": "a", "label": None}] * 11 + [GOOD]
    message, _ = with_train(tmp_path, "a.jsonl", lines(*rows))
    assert "11 faults: line 1: label is null; " in message and "; and 6 more; " in message


def test_faults_of_several_files_are_reported_together(tmp_path):
    config = files_config(tmp_path, ".csv")
    (tmp_path / "train.csv").unlink()
    (tmp_path / "test.csv").write_text("a,b\n1,2\n")
    message = message_of(config)
    assert message.splitlines()[0].startswith(f"{tmp_path}/train.csv: data.train does not exist")
    assert message.splitlines()[1].startswith(f"{tmp_path}/test.csv: no column 'text'")


def test_missing_file_lists_near_names(tmp_path):
    config = files_config(tmp_path, ".csv").model_copy(update={"test": str(tmp_path / "tset.csv")})
    assert "'test.csv'" in message_of(config)
    config = config.model_copy(update={"test": str(tmp_path / "none" / "x.csv")})
    assert f"looked in {tmp_path}/none" in message_of(config)


def test_directories_and_pipes_are_rejected(tmp_path):
    config = files_config(tmp_path, ".csv").model_copy(update={"train": str(tmp_path)})
    assert "data.train is a directory, not a file" in message_of(config)
    os.mkfifo(tmp_path / "pipe.csv")
    config = config.model_copy(update={"train": str(tmp_path / "pipe.csv")})
    assert "not a regular file" in message_of(config)
    assert "data.path is a directory" in message_of(data_config(source="clinc_json", path=str(tmp_path)))


def test_parquet_values_that_are_not_text_are_rejected(tmp_path):
    config = files_config(tmp_path, ".parquet")
    table = pa.table({"text": ["a", "b", "c"], "label": ["alarm", None, "weather"]})
    pq.write_table(table, tmp_path / "train.parquet")
    assert "row 2: label is null" in message_of(config)
    pq.write_table(table.set_column(0, "text", pa.array([b"a", b"b", b"c"])), tmp_path / "train.parquet")
    assert "4 faults: row 1: text is b'a' (bytes), not text" in message_of(config)
    wrong = pa.StringArray.from_buffers(
        1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")
    )  # no check of its bytes
    pq.write_table(pa.table({"text": wrong, "label": ["alarm"]}), tmp_path / "train.parquet")
    assert "not valid UTF-8" in message_of(config)
    pq.write_table(table.slice(0, 0), tmp_path / "train.parquet")
    assert "the train split has no row" in message_of(config)
    pq.write_table(table.drop_columns("label"), tmp_path / "train.parquet")
    assert "no column 'label' (data.label_column); it has 'text'" in message_of(config)


def test_parquet_with_damaged_pages_is_rejected(tmp_path):
    config = files_config(tmp_path, ".parquet")
    path = tmp_path / "train.parquet"
    content = bytearray(path.read_bytes())
    content[8:60] = b"\xff" * 52
    path.write_bytes(content)
    assert message_of(config).startswith(f"{path}: a damaged or truncated Parquet file")
    path.write_bytes(bytes(content[: len(content) // 2]))
    assert message_of(config).startswith(f"{path}: a damaged or truncated Parquet file")


def test_splits_without_a_common_label_are_refused(tmp_path):
    config = files_config(
        tmp_path, ".csv", lambda split: [(f"{split} {i}", f"{split}{i}") for i in range(20)]
    )
    message = message_of(config)
    assert message.startswith(f"{tmp_path}/validation.csv: no label of the validation split is in train; ")
    assert "'validation0'" in message and "'train0'" in message and "check data.label_column" in message


@pytest.mark.parametrize(
    ("spelling", "shown"),
    [
        ("Alarm", "'Alarm'"),
        (" alarm", "' alarm'"),
        ("alarm ", "'alarm '"),
        ("alarm\u00a0", r"'alarm\xa0'"),
        ("ALARM", "'ALARM'"),
    ],
)
def test_labels_that_are_nearly_equal_are_named_with_places_and_counts(tmp_path, spelling, shown):
    config = files_config(tmp_path, ".csv")
    write(tmp_path / "test.csv", [*rows_of("test"), ("tune", spelling), ("tone", spelling)])
    message = message_of(config)
    assert f"{shown} (2 rows, the first: {tmp_path}/test.csv line 14)" in message
    assert f"'alarm' (12 rows, the first: {tmp_path}/train.csv line 3)" in message
    assert "differ only in case, white space or Unicode form" in message and len(message) < 500


def test_labels_that_look_the_same_are_shown_by_their_characters(tmp_path):
    config = files_config(
        tmp_path, ".csv", lambda split: [("a", "caf\u00e9"), ("b", "cafe\u0301"), ("c", "a  b"), ("d", "a b")]
    )
    message = message_of(config)
    assert r"'cafe\u0301' (3 rows" in message and r"'caf\xe9' (3 rows" in message
    assert "'a  b' (3 rows" in message and "'a b' (3 rows" in message


def test_one_label_is_not_a_classification(tmp_path):
    config = files_config(tmp_path, ".csv", lambda split: [(f"{split} {i}", "same") for i in range(3)])
    assert "the only label is 'same'" in message_of(config)


def _clinc(change) -> bytes:
    document = clinc_document()
    document = change(document) or document
    return json.dumps(document).encode()


BAD_CLINC = {
    "truncated": (
        json.dumps(clinc_document()).encode()[:300],
        ["line 1 column", "not valid JSON", "truncated"],
    ),
    "not json": (CSV.encode(), ["line 1 column 1: not valid JSON"]),
    "list": (b"[1]", ["the document is a list", "CLINC150's format"]),
    "other keys": (b'{"banking": ["a"]}', ["no key 'train', 'val', 'test'", "it has 'banking'"]),
    "split not a list": (_clinc(lambda d: {**d, "val": {}}), ["'val' is a dict"]),
    "oos not a list": (_clinc(lambda d: {**d, "oos_test": "x"}), ["'oos_test' is a str"]),
    "empty split": (_clinc(lambda d: {**d, "val": [], "oos_val": []}), ["the validation split has no row"]),
    "row of three": (_clinc(lambda d: d["val"].insert(1, ["a", "b", "c"])), ["val row 2: ['a', 'b', 'c']"]),
    "row not a list": (_clinc(lambda d: d["oos_test"].insert(0, "ab")), ["oos_test row 1: 'ab'"]),
    "null": (_clinc(lambda d: d["test"].insert(2, ["a", None])), ["test row 3: label is null"]),
    "number": (_clinc(lambda d: d["oos_train"].insert(0, [7, "oos"])), ["oos_train row 1: text is 7 (int)"]),
    "empty": (b"", ["the file is empty"]),
    "not UTF-8": (b'{"train": [["caf\xe9', ["line 1: not valid UTF-8"]),
    "parquet": (b"PAR1\0", ["it is a Parquet file"]),
    "deep": (b"[" * 200_000, ["not usable JSON"]),
}


@pytest.mark.parametrize(("content", "expected"), BAD_CLINC.values(), ids=BAD_CLINC)
def test_bad_clinc_file_is_named_with_row_and_remedy(tmp_path, content, expected):
    path = tmp_path / "clinc.json"
    path.write_bytes(content)
    message = message_of(data_config(source="clinc_json", path=str(path)))
    assert message.startswith(str(path))
    for part in expected:
        assert part in message


def test_missing_clinc_file_is_named(tmp_path):
    message = message_of(data_config(source="clinc_json", path=str(tmp_path / "no.json")))
    assert "no.json: data.path does not exist" in message


def test_hub_without_network_names_dataset_and_remedies(tmp_path):
    code = (
        "from distiltune.training.data.config import data_config\n"
        "from distiltune.training.data.text_data import load_data\n"
        "from distiltune.errors import DataError\n"
        "try:\n    load_data(data_config(source='hub'))\nexcept DataError as error:\n    print(error)"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    (line,) = done.stdout.splitlines()
    assert line.startswith("clinc/clinc_oos (plus): ")
    for part in ("HF_HUB_OFFLINE=1", "local directory", "files or clinc_json"):
        assert part in line
    assert not done.stderr


def test_missing_splits_columns_and_directories_of_hub_datasets_are_named(tmp_path):
    made = local_hub_dataset(True)
    folder = tmp_path / "saved"
    config = data_config(source="hub", dataset=str(folder))
    assert "data.dataset is not a directory" in message_of(config)
    type(made)({"learn": made["train"], "test": made["test"]}).save_to_disk(str(folder))
    assert "no split 'train'; it has 'learn', 'test'" in message_of(config)
    config = data_config(source="files", train=str(folder), label_column="intent")
    assert "data.train has no split of that name; it has 'test'" in message_of(config)
    made.save_to_disk(str(tmp_path / "whole"))
    config = data_config(source="hub", dataset=str(tmp_path / "whole"), label_column="class")
    assert "no column 'class' (data.label_column); it has 'text', 'intent'" in message_of(config)


def test_hub_class_without_a_name_is_unlabelled(tmp_path):
    made = local_hub_dataset(True)
    made["test"] = made["test"].map(
        lambda row, i: {"intent": -1 if i == 4 else row["intent"]}, with_indices=True
    )
    made.save_to_disk(str(tmp_path / "saved"))
    message = message_of(data_config(source="hub", dataset=str(tmp_path / "saved")))
    assert "test row 5: label is null" in message


def test_hub_directory_without_usable_files_or_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub-cache")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"text": "a", ')
    message = message_of(data_config(source="hub", dataset=str(tmp_path / "set")))
    assert message.startswith(f"{tmp_path}/set: cannot be loaded")
    message = message_of(data_config(source="hub", dataset=str(tmp_path / "set"), dataset_config="plus"))
    assert "plus" in message and "data.dataset_config" in message
