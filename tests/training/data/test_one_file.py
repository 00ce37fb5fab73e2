"""Data in a single file: splits held out of train, rare labels, and labels that a split lacks."""

import logging
import random
from collections import Counter

import datasets
import pytest
from datafiles import files_config, local_hub_dataset, rows_of, write

from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.errors import ConfigError, DataError
from distiltune.training.data.config import data_config
from distiltune.training.data.text_data import load_data

SPLITS = ("train", "validation", "test")
ROWS = [(f"{label} number {i}", label) for label, n in (("a", 60), ("b", 30), ("c", 10)) for i in range(n)]


def texts(data) -> dict[str, set[str]]:
    return {split: set(data.splits[split]["text"]) for split in SPLITS}


def counts(data) -> list[dict[str, int]]:
    return [dict(Counter(data.label_names[n] for n in data.splits[split]["label"][:])) for split in SPLITS]


def loaded(path, **options):
    return load_data(data_config(train=str(path), **options))


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "my.csv", ROWS)


# ---- Splits that are held out -----------------------------------------------------------------------------------


def test_one_file_is_enough(path, caplog):
    data = loaded(path, source="files")
    assert counts(data) == [{"a": 48, "b": 24, "c": 8}, {"a": 6, "b": 3, "c": 1}, {"a": 6, "b": 3, "c": 1}]
    assert set().union(*texts(data).values()) == {text for text, _ in ROWS}
    assert not caplog.records
    assert texts(data) == texts(loaded(path))


def test_the_split_does_not_depend_on_order_format_or_other_columns(path, tmp_path):
    expected = texts(loaded(path))
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    for extension in (".csv", ".jsonl", ".parquet"):
        assert texts(loaded(write(tmp_path / f"other{extension}", shuffled))) == expected
    rows = datasets.Dataset.from_dict({"text": [t for t, _ in shuffled], "label": [n for _, n in shuffled]})
    rows.save_to_disk(str(tmp_path / "saved"))
    assert texts(loaded(tmp_path / "saved")) == expected
    assert texts(load_data(data_config(dataset=str(tmp_path / "saved")))) == expected
    assert texts(loaded(path, max_train_examples=20))["test"] == expected["test"]


def test_shares_and_seed_can_be_configured(path):
    data = loaded(path, split={"validation": 0.3, "test": 0.2})
    assert [len(data.splits[split]) for split in SPLITS] == [50, 30, 20]
    assert texts(loaded(path, split={"seed": 1})) != texts(loaded(path))
    job = JobConfig.model_validate({"seed": 7, "data": {"train": path}})
    assert (job.data.source, job.data.split.seed) == ("files", 7)
    assert JobConfig.model_validate({"data": {"train": path, "split": {"seed": 5}}}).data.split.seed == 5
    with pytest.raises(ValueError, match="leaves no text to train"):
        data_config(train=path, split={"validation": 0.5, "test": 0.5})


@pytest.mark.parametrize("missing", ["validation", "test"])
def test_only_the_missing_split_is_held_out(path, tmp_path, missing):
    given = ({"validation", "test"} - {missing}).pop()
    rows = [(f"given {i}", "abc"[i % 3]) for i in range(9)]
    data = loaded(path, **{given: write(tmp_path / "given.csv", rows)})
    assert data.splits[given]["text"][:] == [text for text, _ in rows]
    assert (len(data.splits["train"]), len(data.splits[missing])) == (90, 10)
    assert texts(data)["train"] | texts(data)[missing] == {text for text, _ in ROWS}


def test_duplicates_and_groups_stay_in_one_split(tmp_path, caplog):
    rows = [*ROWS, *((f" {text.upper()}", label) for text, label in ROWS[::2])]
    found = texts(loaded(write(tmp_path / "twice.csv", rows)))
    bare = {split: {" ".join(text.casefold().split()) for text in found[split]} for split in SPLITS}
    assert not bare["train"] & (bare["validation"] | bare["test"]) and not bare["validation"] & bare["test"]
    numbered = [(text, label, i // 3 if i % 7 else None) for i, (text, label) in enumerate(ROWS)]
    for extension in (".jsonl", ".parquet"):
        file = write(tmp_path / f"groups{extension}", numbered, ("text", "label", "user"))
        data = loaded(file, group_column="user")
        users = {text: user for text, _, user in numbered}
        where = {split: {users[text] for text in data.splits[split]["text"]} - {None} for split in SPLITS}
        assert not where["train"] & (where["validation"] | where["test"])
        assert 7 <= len(data.splits["validation"]) <= 13 and 7 <= len(data.splits["test"]) <= 13
    assert not caplog.records
    with pytest.raises(DataError, match=r"no column 'usr' \(data.group_column\).*nearest: 'user'"):
        loaded(file, group_column="usr")


def test_too_few_texts_to_hold_out_are_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"few.csv: no text .* validation split \(data.split.validation: 0.1 of 2"
    ):
        loaded(write(tmp_path / "few.csv", [("one", "a"), ("two", "b")]))
    rows = [(text, label, "u") for text, label in ROWS]
    file = write(tmp_path / "group.csv", rows, ("text", "label", "user"))
    with pytest.raises(DataError, match="no text can be held out"):
        loaded(file, group_column="user")


def test_hub_datasets_may_lack_validation_or_test(tmp_path):
    made = local_hub_dataset(True)
    for names in (("train", "test"), ("train",), ("train", "valid")):
        folder = tmp_path / "-".join(names)
        there = {"train": made["train"], "test": made["test"], "valid": made["validation"]}
        datasets.DatasetDict({name: there[name] for name in names}).save_to_disk(str(folder))
        data = load_data(data_config(dataset=str(folder)))
        assert data.label_names == ["alarm", "oos", "weather"]
        assert len(data.splits["train"]) == 12 - (3 - len(names))
        assert len(data.splits["test"]) == (12 if "test" in names else 1)


def test_an_override_of_a_preset_implies_the_source(path):
    job = load_config("quickstart", [f"data.train={path}"])
    assert (job.data.source, job.data.train) == ("files", path)
    assert load_config("quickstart", ["data.max_train_examples=50"]).data.source == "embedded"
    with pytest.raises(ConfigError, match="needs train"):
        load_config("quickstart", ["data.source=files"])


def test_keys_of_two_sources_need_the_source(path):
    with pytest.raises(ConfigError, match=r"data: train, dataset given, .*files, hub; set source"):
        load_config("quickstart", [f"data={{train: {path}, dataset: owner/name}}"])
    assert data_config(source="files", train=path, dataset="owner/name").source == "files"
    assert data_config(train=path, path=None).source == "files"


# ---- Labels that are rare, or that a split lacks ----------------------------------------------------------------


def test_a_label_that_is_too_rare_for_every_split_is_counted(tmp_path, caplog):
    rows = [*ROWS, ("solo", "d"), ("duo 1", "e"), ("duo 2", "e")]
    with caplog.at_level(logging.WARNING):
        data = loaded(write(tmp_path / "rare.csv", rows))
    assert data.label_names == data.class_names == ["a", "b", "c", "d", "e"]
    (message,) = messages(caplog)
    assert message.startswith("2 of 5 labels are not in every split, and not measured where")
    assert "'d' (train 1, validation 0, test 0); 'e' (train " in message
    assert "data.min_examples_per_label" in message and "data.rare" in message


@pytest.mark.parametrize(
    ("rare", "names", "num_texts", "word"),
    [
        ("keep", ["a", "b", "c", "d", "e"], 103, "kept"),
        ("drop", ["a", "b", "c"], 100, "dropped"),
        ("other", ["a", "b", "c", "other"], 103, "merged into 'other'"),
    ],
)
def test_rare_labels_are_kept_dropped_or_merged(tmp_path, caplog, rare, names, num_texts, word):
    rows = [*ROWS, ("solo", "d"), ("duo 1", "e"), ("duo 2", "e")]
    with caplog.at_level(logging.WARNING):
        data = loaded(write(tmp_path / "rare.csv", rows), min_examples_per_label=3, rare=rare)
    assert data.label_names == names and sum(map(len, texts(data).values())) == num_texts
    first = messages(caplog)[0]
    assert "2 of 5 labels have fewer than 3 texts" in first and word in first
    assert "'d' (1); 'e' (2)" in first


def test_rare_labels_are_merged_into_an_existing_label_other(tmp_path):
    rows = [*ROWS, ("solo", "d"), *((f"thing {i}", "Other") for i in range(20))]
    data = loaded(write(tmp_path / "rare.csv", rows), min_examples_per_label=2, rare="other")
    assert data.label_names == ["Other", "a", "b", "c"]
    assert sum(each["Other"] for each in counts(data)) == 21


def test_the_out_of_scope_label_is_never_rare(tmp_path):
    rows = [*ROWS, ("solo", "oos")]
    file = write(tmp_path / "rare.csv", rows)
    data = loaded(file, min_examples_per_label=5, rare="drop", out_of_scope_label="oos")
    assert data.label_names == ["a", "b", "c", "oos"]
    with pytest.raises(DataError, match="the only label is 'a'"):
        loaded(file, min_examples_per_label=50, rare="drop")


def test_rows_of_labels_that_train_lacks_are_dropped_and_counted(tmp_path, caplog):
    config = files_config(tmp_path, ".csv")
    write(tmp_path / "test.csv", [*rows_of("test"), ("tune", "alarms"), ("tone", "alarms")])
    with caplog.at_level(logging.WARNING):
        data = load_data(config)
    assert data.label_names == data.class_names == ["alarm", "oos", "weather"]
    assert data.splits["test"]["text"][:] == [text for text, _ in rows_of("test")]
    (message,) = messages(caplog)
    assert message.startswith("1 label is not in train") and "the rows are dropped" in message
    assert "'alarms' only in test (2 rows, the first: " in message
    assert f"{tmp_path}/test.csv line 14, nearest in train: 'alarm')" in message


def test_a_label_that_only_train_has_is_kept_and_counted(tmp_path, caplog):
    config = files_config(tmp_path, ".csv")
    write(tmp_path / "train.csv", [*rows_of("train"), ("tune", "music")])
    with caplog.at_level(logging.WARNING):
        assert load_data(config).class_names == ["alarm", "music", "oos", "weather"]
    (message,) = messages(caplog)
    assert "1 of 4 labels is not in every split" in message
    assert "'music' (train 1, validation 0, test 0)" in message


def test_many_labels_are_counted_and_the_first_named(tmp_path, caplog):
    rows = [*ROWS, *((f"solo {i}", f"label {i}") for i in range(30))]
    with caplog.at_level(logging.WARNING):
        loaded(write(tmp_path / "many.csv", rows))
    (message,) = messages(caplog)
    assert "30 of 33 labels" in message and "and 25 more" in message and len(message) < 600
