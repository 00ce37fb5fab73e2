"""Entities as tags or spans: every supported form, and one clear error for each fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from distiltune.errors import DataError
from distiltune.training.data.config import data_config
from distiltune.training.data.label_kinds import TAGS, LabelFormat
from distiltune.training.data.label_kinds.tags import Entity
from distiltune.training.data.rows import LabelError, RawSplit
from distiltune.training.data.text_data import TextData, load_data

TOKENS = ["Ann", "lives", "in", "New", "York", "."]
IOB2 = ["B-per", "O", "O", "B-loc", "I-loc", "O"]
TEXT = " ".join(TOKENS)
ENTITIES = (Entity(0, 3, "per"), Entity(13, 21, "loc"))
SPANS = [{"start": 13, "end": 21, "label": "loc"}, {"start": 0, "end": 3, "label": "per"}]


def read(row: tuple[Any, Any]) -> Any:
    """Read the text or tokens of a row, and its tags or spans."""
    [given] = TAGS.prepared(RawSplit("train", "a.csv", [row[0]], [row[1]], str)).labels
    return TAGS.reader(LabelFormat())(given)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (TOKENS, IOB2),
        (TEXT, IOB2),
        (TEXT, " ".join(IOB2)),
        (TEXT, json.dumps(IOB2)),
        (json.dumps(TOKENS), json.dumps(IOB2)),
        (str(TOKENS), str(IOB2)),  # as pandas writes lists
        (str(TOKENS), IOB2),
        (TOKENS, ["I-per", "O", "O", "I-loc", "I-loc", "O"]),  # IOB1
        (TOKENS, ["S-per", "O", "O", "B-loc", "E-loc", "O"]),  # BIOES
        (TOKENS, ["U-per", "O", "O", "B-loc", "L-loc", "O"]),  # BILOU
        (TEXT, SPANS),
        (TEXT, json.dumps(SPANS)),
        (TEXT, str(SPANS)),
        (TEXT, [[0, 3, "per"], (13, 21, "loc")]),
        (
            TEXT,
            [{"start": 13.0, "end": 21.0, "label": "loc"}, [0.0, 3, "per"]],
        ),  # as pandas writes beside nulls
        (
            TEXT,
            [{**SPANS[0], "score": 0.9}, {"start": 0, "end": 4, "label": "per"}],
        ),  # with the blank after it
    ],
)
def test_every_form_gives_the_same_entities(text, label):
    assert read((text, label)) == ENTITIES


def test_adjacent_entities_and_texts_without_any():
    assert read((["a", "b"], ["B-x", "B-x"])) == (Entity(0, 1, "x"), Entity(2, 3, "x"))
    assert read((["a", "b"], ["B-x", "I-y"])) == (Entity(0, 1, "x"), Entity(2, 3, "y"))
    assert read(("a b", [])) == read(("a b", ["O", "O"])) == read((["a"], ["O"])) == ()
    assert read(("a  b\tc", ["O", "B-x", "I-x"])) == (Entity(3, 6, "x"),), "places refer to the text itself"
    assert read((["a", "b"], ["B-a-b", "I-a-b"])) == (Entity(0, 3, "a-b"),)


def test_tokens_in_a_string_become_the_text_and_a_text_in_brackets_stays_one():
    texts, labels = [str(TOKENS), "[1] a note", '["a", "b"]', "10\u00a0000 euros"], [
        str(IOB2), "O O B-x", [{"start": 2, "end": 3, "label": "x"}], "B-sum I-sum",
    ]  # fmt: skip
    found = TAGS.prepared(RawSplit("train", "a.csv", texts, labels, str))
    assert list(found.texts) == [TEXT, *texts[1:]]
    entities = list(map(TAGS.reader(LabelFormat()), found.labels))
    assert entities == [ENTITIES, (Entity(6, 10, "x"),), (Entity(2, 3, "x"),), (Entity(0, 12, "sum"),)]


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        (TOKENS, IOB2[:5], "5 tags for 6 tokens"),
        (TEXT, [*IOB2, "O"], "7 tags for 6 tokens"),
        (TOKENS, [], "0 tags for 6 tokens"),
        (["a"], ["NN"], "tag 1 is 'NN', not O, B-TYPE or I-TYPE"),
        (["a"], ["B-"], "tag 1 is 'B-'"),
        (["a"], ["o"], "tag 1 is 'o'"),
        (["a", "b"], ["O", None], "tag 2 is null"),
        (["a", "b"], ["O", 3], "tag 2 is 3"),
        (["a", ""], ["O", "O"], "token 2 is empty or blank"),
        (["a", 7], ["O", "O"], "token 2 is 7"),
        (
            TEXT,
            [{"start": 20, "end": 40, "label": "x"}],
            "span 1 is from 20 to 40, outside of its text of 23 characters",
        ),
        (TEXT, [{"start": -1, "end": 4, "label": "x"}], "span 1 is from -1 to 4, outside"),
        (TEXT, [{"start": 4, "end": 4, "label": "x"}], "span 1 is from 4 to 4"),
        (TEXT, [{"start": 0.5, "end": 4, "label": "x"}], "span 1 is from 0.5"),
        (TEXT, [{"start": 0, "end": float("inf"), "label": "x"}], "span 1 is from 0 to inf"),
        (TEXT, [{"start": True, "end": 4, "label": "x"}], "span 1 is from True"),
        (TEXT, [{"start": 3, "end": 4, "label": "x"}], "where the text is blank"),
        (TEXT, [{"start": 0, "label": "x"}], "span 1 has no end"),
        (TEXT, [{"start": 0, "end": 3, "label": " "}], "label of span 1 is empty or blank"),
        (TEXT, [{"start": 0, "end": 3, "label": 5}], "label of span 1 is 5"),
        (TEXT, [[0, 3]], r"span 1 is \[0, 3\]"),
        (TEXT, [4], "span 1 is 4"),
        (TEXT, [[0, 8, "x"], [4, 12, "y"]], "the spans 0 to 8 and 4 to 12 overlap"),
        (TOKENS, SPANS, "6 tokens"),
        (TEXT, "[0, 3", r"'\[0, 3', not a list of tags or of spans"),
        (str(TOKENS[:-1]), IOB2, "6 tags for 5 tokens"),
        (TEXT, None, "label is null"),
        (TEXT, "", "label is empty"),
        (TEXT, {"start": 0}, "not a list of tags or of spans"),
        (TEXT, 3, "label is 3"),
    ],
)
def test_the_fault_of_an_invalid_label_is_described(text, label, message):
    with pytest.raises(LabelError, match=message):
        read((text, label))


def test_keys_of_other_label_formats_are_rejected():
    for form, key in (
        (LabelFormat(columns=("a", "b")), "label_columns"),
        (LabelFormat(separator=";"), "label_separator"),
    ):
        with pytest.raises(DataError, match=rf"data\.{key}"):
            TAGS.reader(form)


def rows(number: int, *, types: tuple[str, str] = ("per", "loc")) -> list[dict[str, Any]]:
    tags = [each.replace("per", types[0]).replace("loc", types[1]) for each in IOB2]
    return [{"tokens": [*TOKENS[:-1], str(n)], "tags": tags} for n in range(number)]


def loaded(folder: Path, *, validation: list[dict[str, Any]] | None = None, **more: Any) -> TextData:
    files = {"train": rows(20), "validation": validation or rows(4), "test": rows(4)}
    for name, content in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    given = {name: str(folder / f"{name}.jsonl") for name in files}
    config = data_config(source="files", text_column="tokens", label_column="tags", **{**given, **more})
    return load_data(config, TAGS)


def test_a_file_of_tokens_is_loaded(tmp_path):
    data = loaded(tmp_path)
    assert data.label_names == data.class_names == ["O", "B-loc", "I-loc", "B-per", "I-per"]
    assert data.splits["train"][3] == {"text": "Ann lives in New York 3", "label": [[0, 3, 1], [13, 21, 0]]}
    assert data.label_kind is TAGS and data.out_of_scope_label is None


def test_the_fingerprint_depends_on_the_entities_not_on_their_form(tmp_path):
    data = loaded(tmp_path)
    spans = [{"text": " ".join(row["tokens"]), "label": SPANS} for row in rows(20)]
    (tmp_path / "spans.jsonl").write_text("".join(json.dumps(row) + "\n" for row in spans))
    lines = [
        "\n".join(f"{token} x {tag}" for token, tag in zip(r["tokens"], r["tags"], strict=True))
        for r in rows(4)
    ]
    (tmp_path / "rest.conll").write_text("-DOCSTART- -X- O\n\n" + "\n\n".join(lines) + "\n")
    tsv = "".join(f"{' '.join(row['tokens'])}\t{' '.join(row['tags'])}\n" for row in rows(4))
    (tmp_path / "rest.tsv").write_text(f"text\tlabel\n{tsv}")
    other = data_config(
        source="files", train=str(tmp_path / "spans.jsonl"), validation=str(tmp_path / "rest.conll"),
        test=str(tmp_path / "rest.tsv"),
    )  # fmt: skip
    assert load_data(other, TAGS).fingerprint == data.fingerprint
    assert loaded(tmp_path, validation=rows(5)).fingerprint != data.fingerprint


def test_class_numbers_of_datasets_and_parquet_files_become_names(tmp_path):
    names = ["O", "B-loc", "I-loc", "B-per", "I-per"]
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=names)),
        }
    )
    made = datasets.Dataset.from_dict(
        {"tokens": [row["tokens"] for row in rows(20)], "ner_tags": [[names.index(t) for t in IOB2]] * 20},
        features=features,
    )
    datasets.DatasetDict({"train": made, "validation": made, "test": made}).save_to_disk(
        str(tmp_path / "saved")
    )
    made.to_parquet(str(tmp_path / "train.parquet"))
    columns = {"text_column": "tokens", "label_column": "ner_tags"}
    hub = load_data(data_config(source="hub", dataset=str(tmp_path / "saved"), **columns), TAGS)
    files = load_data(data_config(source="files", train=str(tmp_path / "train.parquet"), **columns), TAGS)
    assert hub.splits["train"][0]["label"] == [[0, 3, 1], [13, 21, 0]]
    assert files.label_names == hub.label_names == names


def test_splits_are_held_out_with_every_type(tmp_path):
    content = [*rows(30), *rows(6, types=("org", "loc"))]
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps({**row, "n": n}) + "\n" for n, row in enumerate(content))
    )
    config = data_config(
        source="files", train=str(tmp_path / "train.jsonl"), text_column="tokens", label_column="tags",
        split={"validation": 0.2, "test": 0.2},
    )  # fmt: skip
    data = load_data(config, TAGS)
    assert data.label_names[1::2] == ["B-loc", "B-org", "B-per"]
    assert sum(map(len, data.splits.values())) == 36 and len(data.splits["validation"]) > 3


def test_words_of_a_type_that_train_lacks_are_outside(tmp_path, caplog):
    data = loaded(tmp_path, validation=[*rows(3), *rows(1, types=("org", "loc"))])
    assert "B-org" not in data.label_names
    assert data.splits["validation"]["label"][:][3] == [[13, 21, 0]]
    assert (
        "their words count as outside of entities" in caplog.text
        and "'org' only in validation" in caplog.text
    )


def test_rare_types_are_merged_or_left_out(tmp_path):
    mixed = [*rows(20), *rows(1, types=("org", "loc"))]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mixed))
    for rare, expected in (("other", ["loc", "other", "per"]), ("drop", ["loc", "per"])):
        data = loaded(tmp_path, train=str(tmp_path / "mixed.jsonl"), min_examples_per_label=2, rare=rare)
        assert [name[2:] for name in data.label_names[1::2]] == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, r"line 21: 1 tags for 2 tokens; .*one tag for each"),
        ({"tokens": ["a"], "tags": ["NN"]}, r"line 21: tag 1 is 'NN'"),
        ({"tokens": ["a", None], "tags": ["O", "O"]}, r"line 21: token 2 is null"),
        ({"tokens": {"a": 1}, "tags": []}, r"line 21: text is .*dict"),
        (
            {"tokens": "a b", "tags": [{"start": 0, "end": 9, "label": "x"}]},
            r"line 21: span 1 is from 0 to 9, outside",
        ),
    ],
)
def test_invalid_rows_are_one_error_with_their_place(tmp_path, row, message):
    (tmp_path / "wrong.jsonl").write_text("".join(json.dumps(each) + "\n" for each in [*rows(20), row]))
    with pytest.raises(DataError, match=message) as error:
        loaded(tmp_path, train=str(tmp_path / "wrong.jsonl"))
    assert "\n" not in str(error.value) and "1 fault" in str(error.value)


def test_a_train_split_without_entities_is_refused(tmp_path):
    nothing = [{"tokens": ["a", str(n)], "tags": ["O", "O"]} for n in range(5)]
    (tmp_path / "none.jsonl").write_text("".join(json.dumps(row) + "\n" for row in nothing))
    with pytest.raises(DataError, match="no row of the train split has an entity"):
        loaded(tmp_path, train=str(tmp_path / "none.jsonl"))


def test_a_sentence_without_tokens_is_dropped(tmp_path, caplog):
    data = loaded(tmp_path, validation=[*rows(3), {"tokens": [], "tags": []}])
    assert len(data.splits["validation"]) == 3 and "1 row of 4 in the validation split dropped" in caplog.text
