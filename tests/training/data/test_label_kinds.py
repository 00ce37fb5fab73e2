"""Labels that are sets of names or numbers: reading, errors, storage, and stratified splits."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datafiles import write

from distiltune.errors import DataError
from distiltune.training.data.config import data_config
from distiltune.training.data.label_kinds import NAME_SETS, NAMES, NUMBERS, TAGS, LabelKind
from distiltune.training.data.splitting import hold_out
from distiltune.training.data.text_data import TextData, load_data

TOPICS = ("air", "earth", "fire", "water")


def own_topics(number: int) -> list[str]:
    """Return the topics of a text, none for many; `water` is rare."""
    return [name for name, every in zip(TOPICS, (2, 3, 5, 17), strict=True) if number % every == 0]


def rows_with(label, count: int = 60) -> list[tuple[str, Any]]:
    return [(f"text number {n}", label(n)) for n in range(count)]


def loaded(path: Path, kind: LabelKind, rows, columns=("text", "label"), **options) -> TextData:
    return load_data(data_config(source="files", train=write(path, rows, columns), **options), kind)


def names_of(data: TextData, split: str) -> dict[str, list[str]]:
    """Return the topics of each text of a split."""
    rows = data.splits[split]
    return {
        text: [name for name, is_set in zip(data.label_names, label, strict=True) if is_set]
        for text, label in zip(rows["text"][:], rows["label"][:], strict=True)
    }


FORMS: dict[str, tuple[str, Any, tuple[str, ...], dict[str, Any]]] = {
    "lists in JSON": (".jsonl", own_topics, ("text", "label"), {}),
    "lists in Parquet": (".parquet", own_topics, ("text", "label"), {}),
    "lists as JSON in CSV": (".csv", lambda n: json.dumps(own_topics(n)), ("text", "label"), {}),
    "lists as Python in CSV": (".csv", lambda n: str(own_topics(n)), ("text", "label"), {}),
    "a separator": (".csv", lambda n: "; ".join(own_topics(n)), ("text", "label"), {"label_separator": ";"}),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> TextData:
    return loaded(tmp_path_factory.mktemp("plain") / "data.jsonl", NAME_SETS, rows_with(own_topics))


@pytest.mark.parametrize("form", list(FORMS))
def test_every_form_gives_the_same_labels(form, tmp_path, plain) -> None:
    suffix, label, columns, options = FORMS[form]
    data = loaded(tmp_path / f"data{suffix}", NAME_SETS, rows_with(label), columns, **options)
    assert data.label_names == data.class_names == list(TOPICS)
    assert data.fingerprint == plain.fingerprint
    every = {text: names for split in data.splits for text, names in names_of(data, split).items()}
    assert every == {f"text number {n}": own_topics(n) for n in range(60)}
    assert every["text number 1"] == [], "no label at all is a valid example"


@pytest.mark.parametrize(
    ("one", "zero"), [(1, 0), ("1", "0"), (1.0, 0.0), (True, False), ("TRUE", "false"), ("1.0", "0.0")]
)
def test_columns_of_zero_and_one_are_labels(one, zero, tmp_path, plain) -> None:
    rows = [
        (text, *(one if name in names else zero for name in TOPICS)) for text, names in rows_with(own_topics)
    ]
    data = loaded(
        tmp_path / "data.jsonl", NAME_SETS, rows, ("text", *TOPICS), label_columns=[*reversed(TOPICS)]
    )
    assert data.fingerprint == plain.fingerprint


def test_lists_of_class_numbers_have_the_names_of_the_dataset(tmp_path, plain) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "topics": datasets.List(datasets.ClassLabel(names=list(TOPICS)))}
    )
    texts, labels = zip(*rows_with(lambda n: [TOPICS.index(name) for name in own_topics(n)]), strict=True)
    rows = datasets.Dataset.from_dict({"text": list(texts), "topics": list(labels)}, features=features)
    rows.save_to_disk(str(tmp_path / "saved"))
    rows.to_parquet(str(tmp_path / "data.parquet"))
    for options in (
        {"source": "hub", "dataset": str(tmp_path / "saved")},
        {"source": "files", "train": str(tmp_path / "saved")},
        {"source": "files", "train": str(tmp_path / "data.parquet"), "label_column": "topics"},
    ):
        assert load_data(data_config(**options), NAME_SETS).fingerprint == plain.fingerprint


def test_a_set_is_stored_as_zeros_and_ones(plain) -> None:
    label = plain.splits["train"].features["label"]
    assert (label.length, label.feature.dtype) == (4, "int8")
    assert NAME_SETS.counts(plain.splits["train"]["label"][:], plain.label_names) == Counter(
        name for names in names_of(plain, "train").values() for name in names
    )


INVALID_SETS: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "one name": (lambda n: "air", {}, ["label is 'air'", "not a list", "data.label_separator"]),
    "a number": (lambda n: 7, {}, ["label is 7", "not a list"]),
    "a null": (lambda n: None if n == 3 else ["air"], {}, ["line 4: label is null", "an empty one"]),
    "an object": (lambda n: {"air": 1}, {}, ["label is {'air': 1}", "not a list"]),
    "a null in a list": (lambda n: ["air", None], {}, ["label is null"]),
    "a blank name": (lambda n: ["air", " "], {}, ["label is empty or blank"]),
    "a list in a list": (lambda n: [["air"]], {}, ["label is ['air'] (list), not text"]),
    "half a list": (lambda n: "['air'", {}, ["not a list of labels"]),
    "two spellings": (
        lambda n: ["air", "Air"] if n == 0 else ["air"],
        {},
        ["'Air' (1 row: ", "differ only in case"],
    ),
    "no label": (lambda n: [], {}, ["no row of the train split has a label"]),
}


@pytest.mark.parametrize("fault", list(INVALID_SETS))
def test_invalid_sets_are_one_clear_error(fault, tmp_path) -> None:
    label, options, parts = INVALID_SETS[fault]
    with pytest.raises(DataError) as raised:
        loaded(tmp_path / "data.jsonl", NAME_SETS, rows_with(label), **options)
    message = str(raised.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (2, ["fire is 2", "not 0 or 1", "regression"]),
        (0.5, ["fire is 0.5", "not 0 or 1"]),
        ("yes", ["fire is 'yes'"]),
        ("", ["fire is empty or blank"]),
        (None, ["fire is null"]),
        ("nan", ["fire is 'nan'"]),
        ([1], ["fire is [1]"]),
    ],
)
def test_a_label_column_may_only_hold_zero_and_one(value, parts, tmp_path) -> None:
    rows = [(f"text {n}", 1, 0) for n in range(20)] + [("wrong", 0, value)]
    with pytest.raises(DataError) as raised:
        loaded(
            tmp_path / "data.jsonl",
            NAME_SETS,
            rows,
            ("text", "air", "fire"),
            label_columns=["air", "fire"],
        )
    message = str(raised.value)
    assert "line 21" in message and all(part in message for part in parts), message


def test_a_missing_label_column_is_reported(tmp_path) -> None:
    rows = [(f"text {n}", 1) for n in range(20)]
    with pytest.raises(DataError, match=r"no column 'fire' \(data\.label_columns\).*'air'.*label_columns"):
        loaded(tmp_path / "data.csv", NAME_SETS, rows, ("text", "air"), label_columns=["air", "fire"])


def test_splits_with_other_label_columns_are_one_error(tmp_path) -> None:
    train = write(tmp_path / "a.csv", [(f"text {n}", 1, 0) for n in range(20)], ("text", "air", "fire"))
    test = write(tmp_path / "b.csv", [(f"more {n}", 1) for n in range(20)], ("text", "air"))
    config = data_config(source="files", train=train, test=test, label_columns=["air", "fire"])
    with pytest.raises(DataError, match=r"b\.csv: no column 'fire'"):
        load_data(config, NAME_SETS)


def test_keys_of_another_kind_are_refused_with_their_task(tmp_path) -> None:
    path = write(tmp_path / "data.csv", [("a", "b"), ("c", "d")])
    for kind, options, parts in (
        (NAMES, {"label_separator": ";"}, "data.label_separator.*multi_label"),
        (NAMES, {"label_columns": ["text", "label"]}, "data.label_columns.*multi_label"),
        (NUMBERS, {"label_separator": ";"}, "data.label_separator.*label_columns"),
        (NUMBERS, {"min_examples_per_label": 3}, "data.min_examples_per_label: 3"),
        (NAME_SETS, {"label_separator": ";", "label_columns": ["label"]}, "data.label_separator.*remove"),
    ):
        rows = write(tmp_path / "numbers.csv", [(f"a{n}", n) for n in range(9)])
        train = rows if kind is NUMBERS else path
        with pytest.raises(DataError, match=parts):
            load_data(data_config(source="files", train=train, **options), kind)


def test_a_label_of_another_task_names_the_task(tmp_path) -> None:
    for label, task in ((["air"], "multi_label"), (0.5, "regression")):
        with pytest.raises(DataError, match=rf"not text \(a label of the task {task}\).*set task: {task}"):
            loaded(tmp_path / "data.jsonl", NAMES, rows_with(lambda n, label=label: label))
    for text in ("['air', 'fire']", '["air"]'):
        with pytest.raises(
            DataError, match=r"label is .*, a label of the task multi_label.*set task: multi_label"
        ):
            loaded(tmp_path / "data.csv", NAMES, rows_with(lambda n, text=text: text))


@pytest.mark.parametrize(
    ("kind", "label", "task"),
    [
        (NAME_SETS, "air", "single_label"),
        (NAME_SETS, 3, "single_label"),
        (NAME_SETS, 0.5, "regression"),
        (NUMBERS, "air", "single_label"),
        (NUMBERS, True, "single_label"),
        (NUMBERS, ["air", "fire"], "multi_label"),
        (NUMBERS, '["air", "fire"]', "multi_label"),
        (TAGS, "air", "single_label"),
        (TAGS, "an order", "single_label"),
        (TAGS, 3, "single_label"),
        (TAGS, 0.5, "regression"),
        (TAGS, ["air", "fire"], "multi_label"),
        (TAGS, {"text": ["text"], "answer_start": [0]}, "question_answering"),
    ],
)
def test_labels_of_whole_texts_name_the_task_that_reads_them(kind, label, task, tmp_path) -> None:
    with pytest.raises(DataError, match=rf"set task: {task}, or"):
        loaded(tmp_path / "data.jsonl", kind, rows_with(lambda n: label if n % 5 else []))


@pytest.mark.parametrize(
    ("kind", "valid", "wrong"),
    [
        (NUMBERS, 1.5, "air"),
        (NAME_SETS, ["air"], "air"),
        (TAGS, ["B-x", "O", "O"], "B-x"),
        (TAGS, ["B-x", "O", "O"], ["PER", "LOC", "LOC"]),
    ],
)
def test_a_slip_names_no_other_task(kind, valid, wrong, tmp_path) -> None:
    with pytest.raises(DataError) as raised:
        loaded(tmp_path / "data.jsonl", kind, rows_with(lambda n: valid if n else wrong))
    assert "set task" not in str(raised.value) and "line 1" in str(raised.value)
    if kind is TAGS:  # tags of parts of speech, or one tag too few
        with pytest.raises(DataError) as raised:
            loaded(tmp_path / "data.jsonl", kind, rows_with(lambda n: wrong))
        assert "set task" not in str(raised.value)


def test_several_names_in_a_string_need_a_separator(tmp_path) -> None:
    with pytest.raises(DataError, match=r"set data\.label_separator") as raised:
        loaded(tmp_path / "data.jsonl", NAME_SETS, rows_with(lambda n: "air; fire"))
    assert "set task" not in str(raised.value)


OF_OTHER_TASKS: dict[str, tuple[Any, str]] = {
    "tags": (["B-name", "O", "O"], "token_classification"),
    "tags in a string": ("B-name O O", "token_classification"),
    "tags as Python": ("['B-name', 'O', 'O']", "token_classification"),
    "tags outside of entities": (["O", "O", "O"], "token_classification"),
    "spans": ([{"start": 0, "end": 4, "label": "name"}], "token_classification"),
    "spans as lists": ([[0, 4, "name"]], "token_classification"),
    "spans in a string": ('[{"start": 0, "end": 4, "label": "name"}]', "token_classification"),
    "answers": ({"text": ["text"], "answer_start": [0]}, "question_answering"),
    "a list of answers": ([{"text": "text", "answer_start": 0}], "question_answering"),
    "answers in a string": ('{"text": ["text"], "answer_start": [0]}', "question_answering"),
}


@pytest.mark.parametrize("kind", [NAMES, NAME_SETS, NUMBERS], ids=lambda each: each.name)
@pytest.mark.parametrize("form", OF_OTHER_TASKS)
def test_tags_spans_and_answers_are_no_labels_of_whole_texts(form, kind, tmp_path) -> None:
    label, task = OF_OTHER_TASKS[form]
    with pytest.raises(DataError, match=rf"line 2: label is .*the task {task}.*; set task: {task}, or"):
        loaded(tmp_path / "data.jsonl", kind, rows_with(lambda n: label if n % 2 else []))


@pytest.mark.parametrize(
    ("content", "name", "task"),
    [
        ("Ann NNP B-name\nflies VBZ O\n\nBo NNP B-name\n\n" * 9, "data.conll", "token_classification"),
        (
            '{"data": [{"paragraphs": [{"context": "Ann", "qas": [{"question": "who?", "id": "1", '
            '"answers": [{"text": "Ann", "answer_start": 0}]}]}]}]}',
            "data.json",
            "question_answering",
        ),
    ],
)
@pytest.mark.parametrize("kind", [NAMES, NAME_SETS, NUMBERS], ids=lambda each: each.name)
def test_a_file_of_another_task_names_the_task(kind, content, name, task, tmp_path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"set task: {task}"):
        load_data(data_config(source="files", train=str(tmp_path / name)), kind)


@pytest.mark.parametrize(
    "names", [["O", "A", "B"], ["S-Bahn", "U-Bahn"], ["B-Ware"], ["O"], ["[new", "{old}"], ["A O", "B O"]]
)
def test_names_that_resemble_tags_are_still_names(names, tmp_path) -> None:
    single = loaded(
        tmp_path / "data.jsonl", NAMES, rows_with(lambda n: ["other", *names][n % (len(names) + 1)])
    )
    assert single.label_names == sorted(["other", *names])
    several = loaded(tmp_path / "sets.jsonl", NAME_SETS, rows_with(lambda n: names))
    assert several.label_names == sorted(names)


@pytest.mark.parametrize(
    "options",
    [
        {"label_columns": ["air", "air"]},
        {"label_columns": []},
        {"label_columns": ["air"], "label_column": "fire"},
        {"label_separator": ""},
    ],
)
def test_contradicting_keys_are_rejected(options) -> None:
    with pytest.raises(ValueError, match="label_"):
        data_config(source="files", train="data.csv", **options)


@pytest.mark.parametrize(("treatment", "names"), [("keep", 4), ("drop", 3), ("other", 4)])
def test_a_rare_label_leaves_its_texts_in(treatment, names, tmp_path, caplog) -> None:
    data = loaded(
        tmp_path / "data.jsonl",
        NAME_SETS,
        rows_with(own_topics),
        min_examples_per_label=5,
        rare=treatment,
    )
    assert len(data.label_names) == names
    assert sum(map(len, data.splits.values())) == 60
    assert "'water' (4)" in caplog.text


def test_a_label_that_train_lacks_leaves_its_texts_in(tmp_path, caplog) -> None:
    train = write(tmp_path / "train.jsonl", rows_with(lambda n: own_topics(n)[:1] or ["air"], 40))
    test = write(tmp_path / "test.jsonl", [("a", ["ether"]), ("b", ["ether", "air"]), ("c", ["air"])])
    data = load_data(data_config(source="files", train=train, validation=test, test=test), NAME_SETS)
    assert names_of(data, "test") == {"a": [], "b": ["air"], "c": ["air"]}
    assert "1 label is not in train" in caplog.text and "keep their other labels" in caplog.text


def test_an_unused_label_column_is_left_out_with_a_warning(tmp_path, caplog) -> None:
    rows = [(f"text {n}", n % 2, 0) for n in range(20)]
    data = loaded(
        tmp_path / "data.csv", NAME_SETS, rows, ("text", "air", "fire"), label_columns=["air", "fire"]
    )
    assert data.label_names == ["air"]
    assert "no text has the labels 'fire'" in caplog.text


def test_splits_have_every_labels_share(plain) -> None:
    total = Counter(name for n in range(60) for name in own_topics(n))
    for split in ("validation", "test"):
        held = Counter(name for names in names_of(plain, split).values() for name in names)
        for name in TOPICS:
            assert abs(held[name] - total[name] * 0.1) <= 1.5, (split, name)
    assert set(NAME_SETS.counts(plain.splits["train"]["label"][:], plain.label_names) or ()) == set(TOPICS)


def test_iterative_stratification_keeps_rare_labels_apart() -> None:
    """Two splits of a third each get two of a label's six texts, whatever the order of the rows."""
    random = np.random.default_rng(0)
    labels = [tuple(sorted({TOPICS[i] for i in random.choice(3, 2)})) for _ in range(90)]
    labels = [(*own, "water") if n % 15 == 0 else own for n, own in enumerate(labels)]
    texts = [f"text {n}" for n in range(90)]
    found = hold_out(texts, labels, [None] * 90, {"validation": 1 / 3, "test": 1 / 3}, 0)
    assert {name: sum("water" in labels[row] for row in rows) for name, rows in found.items()} == {
        "train": 2,
        "validation": 2,
        "test": 2,
    }
    order = random.permutation(90)
    moved = hold_out(
        [texts[i] for i in order],
        [labels[i] for i in order],
        [None] * 90,
        {"validation": 1 / 3, "test": 1 / 3},
        0,
    )
    for name, rows in found.items():
        assert {texts[row] for row in rows} == {texts[order[row]] for row in moved[name]}


def test_single_names_are_split_alike_as_strings_and_as_tuples() -> None:
    texts, labels = [f"text {n}" for n in range(50)], [TOPICS[n % 4] for n in range(50)]
    given: tuple[Any, ...] = ([None] * 50, {"validation": 0.2}, 3)
    assert hold_out(texts, labels, *given) == hold_out(texts, NAMES.strata(labels), *given)


@pytest.mark.parametrize("num_examples", [4, 9, 20])
def test_a_draw_keeps_every_label(num_examples, tmp_path) -> None:
    rows = rows_with(lambda n: sorted({*own_topics(n), "air"} if n % 17 == 0 else own_topics(n)), 160)
    data = loaded(
        tmp_path / "data.jsonl", NAME_SETS, rows, max_train_examples=num_examples + 1, seed=num_examples
    )
    kept = names_of(data, "train")
    assert len(kept) == num_examples + 1
    assert {name for names in kept.values() for name in names} == set(TOPICS)


# ---- Numbers


def grade(number: int) -> float:
    return (number * 37 % 60) / 10 - 2


def test_numbers_are_read_stored_and_stratified_by_size(tmp_path) -> None:
    data = loaded(tmp_path / "data.csv", NUMBERS, rows_with(grade, 200), label_column="label")
    again = loaded(tmp_path / "again.jsonl", NUMBERS, rows_with(grade, 200))
    assert data.fingerprint == again.fingerprint
    assert data.label_names == data.class_names == ["label"]
    train = np.array(data.splits["train"]["label"][:])
    assert train.shape == (160, 1)
    for split in ("validation", "test"):
        held = np.array(data.splits[split]["label"][:])
        assert len(held) == pytest.approx(20, abs=6)
        assert abs(held.mean() - train.mean()) < 0.5 * train.std()
        assert held.min() < np.quantile(train, 0.25) and held.max() > np.quantile(train, 0.75)


def test_several_columns_are_several_numbers(tmp_path) -> None:
    rows = [(f"text {n}", grade(n), str(n)) for n in range(60)]
    data = loaded(
        tmp_path / "data.jsonl", NUMBERS, rows, ("text", "joy", "size"), label_columns=["size", "joy"]
    )
    assert data.label_names == ["size", "joy"], "in the order that the job gives"
    first = dict(zip(data.splits["train"]["text"][:], data.splits["train"]["label"][:], strict=True))
    assert first["text 7"] == pytest.approx([7, grade(7)])
    other = loaded(
        tmp_path / "other.jsonl", NUMBERS, rows, ("text", "joy", "size"), label_columns=["joy", "size"]
    )
    assert other.fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("warm", ["label is 'warm', not a number"]),
        ("3,5", ["label is '3,5', not a number"]),
        ("1_000", ["label is '1_000', not a number"]),
        ("nan", ["label is 'nan', not a finite number"]),
        ("inf", ["label is 'inf', not a finite number"]),
        (1e60, ["not a finite number in 32 bits"]),
        (10**400, ["not a finite number"]),
        (True, ["label is True, not a number"]),
        ([1.0], ["label is [1.0], not a number"]),
        ({"a": 1}, ["not a number"]),
        ("", ["label is empty or blank"]),
        (None, ["label is null"]),
    ],
)
def test_an_invalid_number_is_one_clear_error(value, parts, tmp_path) -> None:
    rows = [*rows_with(grade, 20), ("wrong", value)]
    with pytest.raises(DataError) as raised:
        loaded(tmp_path / "data.jsonl", NUMBERS, rows)
    message = str(raised.value)
    assert "line 21" in message and "data.label_column" in message
    assert all(part in message for part in parts), message


def test_nan_in_a_csv_file_is_rejected(tmp_path) -> None:
    with pytest.raises(DataError, match=r"line 3: label is 'NaN', not a finite number"):
        loaded(tmp_path / "data.csv", NUMBERS, [("a", 1.0), ("b", "NaN"), ("c", 2.0)])


def test_numbers_that_are_all_equal_are_rejected(tmp_path) -> None:
    with pytest.raises(DataError, match=r"every number of the column 'label' in the train split is 3"):
        loaded(tmp_path / "data.csv", NUMBERS, rows_with(lambda n: 3.0))


def test_a_draw_of_numbers_covers_their_range(tmp_path) -> None:
    data = loaded(tmp_path / "data.csv", NUMBERS, rows_with(grade, 200), max_train_examples=12)
    drawn = np.array(data.splits["train"]["label"][:])
    assert len(drawn) == 12
    assert np.ptp(drawn) > 3
    assert (
        len(loaded(tmp_path / "few.csv", NUMBERS, rows_with(grade, 40), max_train_examples=2).splits["train"])
        == 2
    )
