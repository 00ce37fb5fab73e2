"""Slice columns: their values stay with the text through every source, check and held-out split."""

import json

import datasets
import pytest
from datafiles import write
from pydantic import ValidationError

from distiltune.cluster.cli import main
from distiltune.errors import DataError
from distiltune.training.data.config import data_config
from distiltune.training.data.text_data import load_data

ROWS = [
    (f"{label} text number {i}", label, None if i % 7 == 0 else f"{label}{i}", i % 3)
    for label in ("a", "b", "c")
    for i in range(40)
]
COLUMNS = ("text", "label", "channel", "tier")
CHANNEL = {text: channel for text, _, channel, _ in ROWS}
TIER = {text: str(tier) for text, _, _, tier in ROWS}


def loaded(path, **more):
    return load_data(data_config(train=str(path), slice_columns=["channel", "tier"], **more))


def check(data) -> None:
    texts = data.splits["test"]["text"][:]
    assert len(texts) > 5
    assert data.slices == {
        "channel": [CHANNEL[text] for text in texts],
        "tier": [TIER[text] for text in texts],
    }


@pytest.mark.parametrize("extension", [".jsonl", ".parquet", ".csv"])
def test_values_stay_with_their_text_in_a_held_out_split(tmp_path, extension):
    check(loaded(write(tmp_path / f"data{extension}", ROWS, COLUMNS)))


def test_a_saved_dataset_has_columns_and_class_numbers_become_names(tmp_path):
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.Value("string"),
            "channel": datasets.Value("string"),
        }
        | {"tier": datasets.ClassLabel(names=["0", "1", "2"])}
    )
    values = dict(zip(COLUMNS, map(list, zip(*ROWS, strict=True)), strict=True))
    datasets.Dataset.from_dict(values, features=features).save_to_disk(str(tmp_path / "saved"))
    check(loaded(tmp_path / "saved"))
    check(load_data(data_config(dataset=str(tmp_path / "saved"), slice_columns=["channel", "tier"])))


def test_values_of_dropped_rows_are_dropped(tmp_path):
    """Rows are dropped without a text, with a rare label, and with a label that train lacks."""
    path = write(tmp_path / "train.jsonl", [*ROWS, ("rare", "d", "x", 1)], COLUMNS)
    test = [
        ("", "a", "blank", 0),
        ("one", "a", "first", 0),
        ("two", "z", "untaught", 0),
        ("three", "d", "rare", 1),
    ]
    test += [("four", "b", None, 2), ("five", "c", " ", 2.5), ("six", "c", True, 3.0)]
    lines = [json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in test]
    lines.append(json.dumps({"text": "seven", "label": "a"}))
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    data = loaded(path, test=str(tmp_path / "test.jsonl"), min_examples_per_label=3, rare="drop")
    assert data.splits["test"]["text"][:] == ["one", "four", "five", "six", "seven"]
    assert data.slices == {
        "channel": ["first", None, None, "True", None],
        "tier": ["0", "2", "2.5", "3", None],
    }


def test_a_slice_may_be_a_column_that_is_read_already(tmp_path):
    path = write(tmp_path / "data.csv", ROWS, COLUMNS)
    config = data_config(train=path, slice_columns=["label", "channel", "label"], group_column="channel")
    data = load_data(config)
    names = data.label_names
    assert list(data.slices) == ["label", "channel"]
    assert data.slices["label"] == [names[number] for number in data.splits["test"]["label"]]


def test_slices_change_neither_splits_nor_fingerprint(tmp_path):
    path = write(tmp_path / "data.csv", ROWS, COLUMNS)
    plain = load_data(data_config(train=path))
    assert plain.slices == {}
    assert loaded(path).fingerprint == plain.fingerprint


def test_a_missing_column_is_reported_with_the_nearest_name(tmp_path):
    path = write(tmp_path / "data.csv", ROWS, COLUMNS)
    message = r"no column 'chanel' \(data\.slice_columns\); .*nearest: 'channel'; name columns that it has in"
    with pytest.raises(DataError, match=message):
        load_data(data_config(train=path, slice_columns=["chanel"]))


@pytest.mark.slow
def test_a_job_with_a_missing_column_is_rejected_before_work_starts(tmp_path, monkeypatch, capsys):
    write(tmp_path / "data.csv", ROWS, COLUMNS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(
        "data: {train: data.csv, slice_columns: [chanel]}\nteacher: {scratch: {}}\n"
    )
    assert main(["check", "job.yaml"]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "data.slice_columns" in error and "nearest: 'channel'" in error
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data.csv", "job.yaml"]


@pytest.mark.parametrize("value", ["channel", [""], [3], ["x"] * 21])
def test_an_invalid_list_of_columns_is_rejected(value):
    with pytest.raises(ValidationError, match="slice_columns"):
        data_config(train="data.csv", slice_columns=value)
