"""Every source gives the same checked data; order, draw and fingerprint depend on content alone."""

import json
import logging
import os
import subprocess
import sys
from collections import Counter

import datasets
import pyarrow.parquet as pq
import pytest
from datafiles import LABELS, clinc_config, clinc_document, files_config, local_hub_dataset, rows_of, write

from distiltune.errors import DataError
from distiltune.training.data.config import data_config
from distiltune.training.data.text_data import load_data


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Give `datasets`, which keeps converted data in its cache, a cache of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub-cache")


@pytest.mark.parametrize("extension", [".csv", ".jsonl", ".parquet", ".CSV"])
def test_files_of_every_format_give_the_same_data(tmp_path, extension):
    if extension == ".CSV":
        config = files_config(tmp_path, ".csv")
        for split in ("train", "validation", "test"):
            (tmp_path / f"{split}.csv").rename(tmp_path / f"{split}.CSV")
        config = config.model_copy(
            update={s: str(tmp_path / f"{s}.CSV") for s in ("train", "validation", "test")}
        )
    else:
        config = files_config(tmp_path, extension)
    data = load_data(config)
    assert data.label_names == ["alarm", "oos", "weather"]
    assert data.out_of_scope_label is None and data.out_of_scope_id is None
    train = data.splits["train"]
    assert list(data.splits) == ["train", "validation", "test"]
    assert train.features == datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["alarm", "oos", "weather"])}
    )
    assert [(t, data.label_names[n]) for t, n in zip(train["text"], train["label"], strict=True)] == rows_of(
        "train"
    )
    (tmp_path / "b").mkdir()
    other = load_data(files_config(tmp_path / "b", ".jsonl"))
    assert data.fingerprint == other.fingerprint


def test_reading_files_leaves_nothing_behind(tmp_path, hub_cache):
    before = {tmp_path / f"{s}.csv" for s in ("train", "validation", "test")}
    load_data(files_config(tmp_path, ".csv"))
    assert set(tmp_path.iterdir()) == before


def test_clinc_format_joins_in_and_out_of_scope_rows(tmp_path):
    data = load_data(clinc_config(tmp_path))
    assert data.out_of_scope_label == "oos" and data.out_of_scope_id == 1
    assert {split: len(rows) for split, rows in data.splits.items()} == dict.fromkeys(data.splits, 12)
    assert sorted(data.splits["test"]["text"]) == sorted(text for text, _ in rows_of("test"))


def test_clinc_format_without_out_of_scope_rows_has_no_such_label(tmp_path):
    document = {key: rows for key, rows in clinc_document().items() if not key.startswith("oos")}
    (tmp_path / "data.json").write_text(json.dumps(document), encoding="utf-8")
    data = load_data(data_config(source="clinc_json", path=str(tmp_path / "data.json")))
    assert data.label_names == ["alarm", "weather"] and data.out_of_scope_id is None


def test_an_out_of_scope_label_need_not_be_in_train(tmp_path):
    document = clinc_document()
    document["train"] += [["train alarm", "zoo"]]  # sorts after oos, but is numbered before it
    document["test"] += [["test alarm", "zoo"]]
    (tmp_path / "data.json").write_text(json.dumps(document | {"oos_train": []}), encoding="utf-8")
    data = load_data(data_config(source="clinc_json", path=str(tmp_path / "data.json")))
    assert data.class_names == ["alarm", "weather", "zoo"]
    assert data.label_names == [*data.class_names, "oos"] and data.out_of_scope_id == 3
    assert data.splits["validation"]["label"].count(3) == 4
    assert load_data(clinc_config(tmp_path)).class_names == ["alarm", "oos", "weather"]


def test_embedded_corpus_is_complete_and_without_duplicates(caplog):
    data = load_data(data_config())
    assert data.out_of_scope_label == "oos"
    counts = Counter(data.splits["train"]["label"])
    assert len(counts) >= 16 and min(counts.values()) >= 60
    for split in ("validation", "test"):
        assert set(data.splits[split]["label"]) == set(counts)
    assert not caplog.records


def test_numbers_and_their_strings_are_the_same_labels(tmp_path):
    def numbered(split):
        return [(text, LABELS.index(label)) for text, label in rows_of(split)]

    prints = set()
    for extension in (".csv", ".jsonl", ".parquet"):
        (tmp_path / extension[1:]).mkdir()
        data = load_data(files_config(tmp_path / extension[1:], extension, numbered))
        assert data.label_names == ["0", "1", "2"]
        prints.add(data.fingerprint)
    assert len(prints) == 1


def test_columns_can_have_other_names_and_stand_beside_others(tmp_path):
    named = {}
    for split in ("train", "validation", "test"):
        rows = [(i, label, text) for i, (text, label) in enumerate(rows_of(split))]
        named[split] = write(tmp_path / f"{split}.parquet", rows, ("id", "intent", "utterance"))
    data = load_data(data_config(source="files", **named, text_column="utterance", label_column="intent"))
    assert data.splits["train"]["text"][0] == rows_of("train")[0][0]


def test_csv_with_byte_order_mark_quotes_and_windows_line_ends(tmp_path):
    config = files_config(tmp_path, ".csv")
    content = 'text,label\r\n"two\r\nlines, ""quoted""",alarm\r\n\r\nplain,weather\r\nother,oos\r\n'
    (tmp_path / "train.csv").write_bytes(b"\xef\xbb\xbf" + content.encode())
    train = load_data(config).splits["train"]
    assert train["text"][:] == ['two\r\nlines, "quoted"', "plain", "other"]


def test_jsonl_texts_may_contain_unicode_line_separators(tmp_path):
    config = files_config(tmp_path, ".jsonl")
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"text": "a\u2028b", "label": "oos"}, ensure_ascii=False) + "\n")
    assert load_data(config).splits["train"]["text"][-1] == "a\u2028b"


def test_parquet_of_the_hub_keeps_its_label_names(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "intent": datasets.ClassLabel(names=list(LABELS))}
    )
    named = {}
    for split in ("train", "validation", "test"):
        texts, labels = zip(*rows_of(split), strict=True)
        rows = datasets.Dataset.from_dict({"text": texts, "intent": labels}, features=features)
        named[split] = str(tmp_path / f"{split}.parquet")
        pq.write_table(rows.data.table.replace_schema_metadata(features.arrow_schema.metadata), named[split])
    data = load_data(data_config(source="files", **named, label_column="intent"))
    (tmp_path / "b").mkdir()
    assert data.fingerprint == load_data(files_config(tmp_path / "b", ".csv")).fingerprint


@pytest.mark.parametrize("class_labels", [True, False])
def test_hub_dataset_from_a_local_directory(tmp_path, hub_cache, class_labels):
    for split, rows in local_hub_dataset(class_labels).items():
        folder = tmp_path / "set" / "data"
        folder.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    # The only column of classes (`intent` in clinc_oos) is found; a column of strings has to be named.
    options = {} if class_labels else {"label_column": "intent"}
    config = data_config(source="hub", dataset=str(tmp_path / "set"), out_of_scope_label="oos", **options)
    assert config.dataset_config is None
    data = load_data(config)
    assert data.label_names == ["alarm", "oos", "weather"] and data.out_of_scope_id == 1
    clinc = load_data(files_config(tmp_path, ".csv", out_of_scope_label="oos"))
    assert data.fingerprint == clinc.fingerprint


def test_hub_dataset_that_was_saved_to_disk(tmp_path):
    local_hub_dataset(True).save_to_disk(str(tmp_path / "saved"))
    data = load_data(data_config(source="hub", dataset=str(tmp_path / "saved")))
    assert len(data.splits["test"]) == 12


def test_default_hub_configuration_belongs_to_clinc_alone():
    assert data_config(source="hub").dataset_config == "plus"
    assert (
        data_config(source="hub", dataset="clinc/clinc_oos", dataset_config="small").dataset_config == "small"
    )
    other = data_config(source="hub", dataset="someone/else")
    assert other.dataset_config is None
    assert data_config(**other.model_dump()) == other


def test_draw_keeps_shares_is_nested_and_ignores_file_order(tmp_path):
    def many(split, step=1):
        rows = [
            (f"{split} {label} {i}", label) for label, n in (("a", 60), ("b", 30), ("c", 1)) for i in range(n)
        ]
        return rows[::step]

    config = files_config(tmp_path, ".csv", many)
    (tmp_path / "turned").mkdir()
    turned = files_config(tmp_path / "turned", ".jsonl", lambda split: many(split, -1))

    def drawn(config, num_examples, seed=0):
        data = load_data(config.model_copy(update={"max_train_examples": num_examples, "seed": seed}))
        return data.splits["train"], data

    train, data = drawn(config, 31)
    assert Counter(data.label_names[n] for n in train["label"]) == {"a": 20, "b": 10, "c": 1}
    assert len(data.splits["test"]) == 91
    assert set(drawn(turned, 31)[0]["text"]) == set(train["text"])
    assert set(drawn(config, 12)[0]["text"]) < set(train["text"])
    assert set(drawn(config, 31, seed=1)[0]["text"]) != set(train["text"])
    assert len(drawn(config, 3)[0]) == 3
    assert drawn(config, 500)[1].fingerprint == load_data(config).fingerprint
    with pytest.raises(DataError, match=r"max_train_examples: 2 is less than the 3 labels.*at least 3"):
        drawn(config, 2)


def test_fingerprint_is_the_same_in_another_process_and_changes_with_the_data(tmp_path):
    config = clinc_config(tmp_path)
    data = load_data(config)
    code = (
        "import sys\nfrom distiltune.training.data.config import data_config\n"
        "from distiltune.training.data.text_data import load_data\n"
        "print(load_data(data_config(source='clinc_json', path=sys.argv[1])).fingerprint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(config.path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert done.stdout.strip() == data.fingerprint
    assert len(data.fingerprint) == 64
    other = load_data(config.model_copy(update={"out_of_scope_label": "alarm"}))
    assert other.fingerprint != data.fingerprint


def test_duplicates_across_splits_are_counted_in_one_warning(tmp_path, caplog):
    config = files_config(tmp_path, ".csv")
    with (tmp_path / "test.csv").open("a", encoding="utf-8") as file:
        file.write(f'"{rows_of("train")[0][0]}",weather\n"{rows_of("validation")[1][0]}",alarm\n')
    with caplog.at_level(logging.WARNING):
        data = load_data(config)
    assert len(data.splits["test"]) == 14
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith(
        "2 texts are in more than one split (train and test: 1, validation and test: 1)"
    )
    assert f"train in {tmp_path}/train.csv line 2, test in {tmp_path}/test.csv line 14" in message


def test_unknown_out_of_scope_label_is_reported_with_the_nearest(tmp_path):
    with pytest.raises(
        DataError, match=r"out_of_scope_label: no row has the label 'weathr'; nearest: 'weather'"
    ):
        load_data(clinc_config(tmp_path, out_of_scope_label="weathr"))
