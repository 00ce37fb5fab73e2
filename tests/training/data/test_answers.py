"""Answers as spans of a context: every supported form, SQuAD files, and an error for each fault."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from askers import questions, squad, write_squad

from distiltune.errors import DataError
from distiltune.training.data.config import data_config
from distiltune.training.data.label_kinds import ANSWERS, LabelFormat
from distiltune.training.data.label_kinds.answers import Span
from distiltune.training.data.rows import LabelError
from distiltune.training.data.sources.formats.squad import is_squad_file
from distiltune.training.data.text_data import TextData, load_data

CONTEXT = "Ann lives in New York, and Bo in Oslo."
YORK = {"text": "New York", "answer_start": 13}
OSLO = {"text": "Oslo", "answer_start": 33}
COLUMNS = {"text_column": "question", "text_pair_column": "context", "label_column": "answers"}
read = ANSWERS.reader(LabelFormat())
read_columns = ANSWERS.reader(LabelFormat(columns=("answer", "start")))


@pytest.mark.parametrize(
    "label",
    [
        {"text": ["New York", "Oslo"], "answer_start": [13, 33]},
        {"text": ("New York", "Oslo"), "answer_start": (13, 33)},
        [YORK, OSLO],
        json.dumps([YORK, OSLO]),
        json.dumps({"text": ["New York", "Oslo"], "answer_start": [13, 33]}),
        [YORK, OSLO, YORK],
        [{"text": " New York", "answer_start": 12}, {**OSLO, "answer_start": 33.0}],
    ],
)
def test_every_form_gives_the_same_answers(label):
    assert read((CONTEXT, label)) == (Span(13, 21), Span(33, 37))


@pytest.mark.parametrize("label", [[], {"text": [], "answer_start": []}, "[]"])
def test_no_answer_is_an_empty_list(label):
    assert read((CONTEXT, label)) == ()


def test_an_answer_is_read_from_two_columns():
    assert read_columns((CONTEXT, ("New York", 13))) == read_columns((CONTEXT, ("New York", "13")))
    assert read_columns((CONTEXT, ("New York", 13))) == read((CONTEXT, {**YORK})) == (Span(13, 21),)
    assert read_columns((CONTEXT, ("", ""))) == read_columns((CONTEXT, (None, None))) == ()
    assert read_columns((CONTEXT, (["Oslo"], [33]))) == (Span(33, 37),)
    with pytest.raises(LabelError, match=r"answer_start of answer 1 is None"):
        read_columns((CONTEXT, ("Oslo", None)))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"text": ["New York"], "answer_start": [12]}, r"answer 1 is 'New York', but its context has ' New Yor' at 12"),
        ({"text": ["Oslo", "Rome"], "answer_start": [33, 33]}, r"answer 2 is 'Rome', but its context has 'Oslo' at 33"),
        ({"text": ["Oslo"], "answer_start": [90]}, r"answer 1 starts at 90, outside of its context of 38 characters"),
        ({"text": ["Oslo"], "answer_start": [-5]}, r"answer 1 starts at -5, outside"),
        ({"text": ["Oslo", "New York"], "answer_start": [33]}, r"2 answers for 1 first characters"),
        ({"text": ["Oslo"]}, r"answers has no answer_start"),
        ({"answer_start": [1]}, r"answers has no text"),
        ({"text": [7], "answer_start": [33]}, r"answer 1 is 7 \(int\), not text"),
        ({"text": [" "], "answer_start": [3]}, r"answer 1 is empty or blank"),
        ({"text": ["Oslo"], "answer_start": ["there"]}, r"answer_start of answer 1 is 'there', not a whole number"),
        ({"text": ["Oslo"], "answer_start": [33.5]}, r"answer_start of answer 1 is 33\.5"),
        ({"text": ["Oslo"], "answer_start": [True]}, r"answer_start of answer 1 is True"),
        ([YORK, "Oslo"], r"answer 2 is 'Oslo', not an object with text and answer_start"),
        ([YORK, {"text": "Oslo"}], r"answer 2 has no answer_start"),
        ("New York", r"answers is 'New York', not an object"),
        ("{not json", r"answers is '\{not json', not an object"),
        (7, r"answers is 7, not an object with text and answer_start"),
        (None, r"answers is null"),
    ],
)  # fmt: skip
def test_the_fault_of_an_invalid_answer_is_described(label, message):
    with pytest.raises(LabelError, match=message):
        read((CONTEXT, label))


def test_keys_of_other_label_formats_are_rejected():
    with pytest.raises(DataError, match=r"data\.label_separator: ';' given"):
        ANSWERS.reader(LabelFormat(separator=";"))
    with pytest.raises(
        DataError, match=r"data\.label_columns: \['a', 'b', 'c'\] given; accepted: two columns"
    ):
        ANSWERS.reader(LabelFormat(columns=("a", "b", "c")))


def loaded(path: Path, **more: Any) -> TextData:
    return load_data(data_config(source="files", train=str(path), **{**COLUMNS, **more}), ANSWERS)


def test_a_squad_file_is_loaded(tmp_path):
    rows = questions(60, unanswerable=True)
    data = loaded(write_squad(tmp_path / "train.json", rows))
    assert data.has_pairs and data.label_names == data.class_names == ["start", "end"]
    found = {
        (row["text"], row["text_pair"], json.dumps(row["label"]))  # pyright: ignore[reportCallIssue, reportArgumentType]
        for split in data.splits.values()
        for row in split
    }
    assert found == {(question, context, json.dumps(answers)) for question, context, answers in rows}


def test_held_out_questions_have_contexts_of_their_own(tmp_path):
    data = loaded(write_squad(tmp_path / "train.json", questions(120, unanswerable=True)))
    contexts = {name: set(split["text_pair"][:]) for name, split in data.splits.items()}
    assert all(contexts.values())
    assert not contexts["train"] & contexts["validation"] and not contexts["train"] & contexts["test"]
    assert not contexts["validation"] & contexts["test"]
    grouped = tmp_path / "one.json"
    grouped.write_text(json.dumps(squad(questions(40))))
    with pytest.raises(DataError, match=r"no text can be held out for the validation split"):
        loaded(grouped, group_column="title")  # a single article


def test_the_fingerprint_depends_on_the_answers_not_on_their_form(tmp_path):
    rows = questions(40)
    marked = [[{"text": context[a:b], "answer_start": a} for a, b in own] for _, context, own in rows]
    table = {
        "question": [row[0] for row in rows],
        "context": [row[1] for row in rows],
        "answers": [
            {"text": [each["text"] for each in own], "answer_start": [each["answer_start"] for each in own]}
            for own in marked
        ],
    }
    struct = datasets.Features(
        {
            "question": datasets.Value("string"),
            "context": datasets.Value("string"),
            "answers": {
                "text": datasets.List(datasets.Value("string")),
                "answer_start": datasets.List(datasets.Value("int32")),
            },
        }
    )
    datasets.Dataset.from_dict(table, features=struct).to_parquet(str(tmp_path / "a.parquet"))
    lines = [
        json.dumps({"question": row[0], "context": row[1], "answer": own[0]["text"], "start": own[0]["answer_start"]})
        for row, own in zip(rows, marked, strict=True)
    ]  # fmt: skip
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    csv = ["question,context,answers"]
    for (question, context, _), own in zip(rows, marked, strict=True):
        cell = json.dumps(own).replace('"', '""')
        csv.append(f'{question},"{context}","{cell}"')
    (tmp_path / "c.csv").write_text("\n".join(csv))
    first = loaded(tmp_path / "a.parquet").fingerprint
    two = loaded(tmp_path / "b.jsonl", label_column="label", label_columns=["answer", "start"])
    assert first == two.fingerprint == loaded(tmp_path / "c.csv").fingerprint
    packed = tmp_path / "d.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(squad(rows)).encode()))
    assert is_squad_file(str(packed)) and loaded(packed).has_pairs


def damaged(change: Any) -> dict[str, Any]:
    content = copy.deepcopy(squad(questions(12)))
    change(content["data"][0])
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda article: article.pop("paragraphs"), r"article 1 \('Journeys'\): no 'paragraphs'"),
        (lambda article: article.update(paragraphs={}), r"article 1 \('Journeys'\): 'paragraphs' is \{\}, not a list"),
        (lambda article: article["paragraphs"][1].pop("context"), r"article 1 .*, paragraph 2: no 'context'"),
        (lambda article: article["paragraphs"][0].pop("qas"), r"paragraph 1: no 'qas'; it has 'context'"),
        (lambda article: article["paragraphs"][0]["qas"][1].pop("question"), r"question 2: no 'question'"),
        (lambda article: article["paragraphs"][0]["qas"][0].pop("answers"), r"question 1: no 'answers'"),
        (
            lambda article: article["paragraphs"][0]["qas"][0]["answers"][0].pop("answer_start"),
            r"paragraph 1, question 1, answer 1: no 'answer_start'",
        ),
        (lambda article: article["paragraphs"].__setitem__(0, "context"), r"paragraph 1: a JSON str, not an object"),
        (
            lambda article: article["paragraphs"][0]["qas"][0]["answers"][0].update(answer_start=1),
            r"paragraph 1, question 1: answer 1 is 'ann', but its context has 'est' at 1",
        ),
        (lambda article: article["paragraphs"][0].update(context=7), r"text_pair is 7 \(int\), not text"),
    ],
)  # fmt: skip
def test_a_damaged_squad_file_is_one_error_with_its_place(tmp_path, change, message):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(damaged(change)))
    with pytest.raises(DataError, match=rf"train\.json: .*{message}"):
        loaded(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"version": "1.1", "data": [',
            r"line 1 column \d+: not valid JSON \(.*though it begins as a file of SQuAD",
        ),
        ('{"version": "1.1", "data": []}', r"has no question; write it as SQuAD does"),
        ('{\n "data": [{"title": "x", "paragraphs": []}]\n}', r"has no question"),
        ('{"version": 1.1, "articles": []}', r"no column 'question'"),
    ],
)
def test_an_unusable_squad_file_is_one_error(tmp_path, content, message):
    path = tmp_path / "train.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        loaded(path)


def test_json_lines_with_a_list_called_data_are_not_squad(tmp_path):
    path = tmp_path / "train.json"
    row = {"data": [1, 2], "question": "who?", "context": CONTEXT, "answers": [YORK]}
    path.write_text("\n".join(json.dumps({**row, "context": f"{CONTEXT} {n}"}) for n in range(9)))
    assert sum(map(len, loaded(path).splits.values())) == 9


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (
            [{"question": "who?", "answers": [YORK]}] * 3,
            {},
            r"no column 'context' \(data\.text_pair_column\)",
        ),
        ([{"question": "who?", "context": CONTEXT}] * 3, {}, r"no column 'answers' \(data\.label_column\)"),
        (
            [{"question": "who?", "context": CONTEXT, "answers": [YORK]}] * 3,
            {"text_pair_column": None},
            r"the rows have no contexts, .*set data\.text_pair_column",
        ),
        (
            [{"question": f"who? {n}", "context": CONTEXT, "answers": []} for n in range(3)],
            {},
            r"no question of the train split has an answer",
        ),
        (
            [{"question": "who?", "context": " ", "answers": []}] * 3,
            {},
            r"no row of the train split has a second text",
        ),
        (
            [{"question": "who?", "context": CONTEXT, "answers": "New York"}],
            {},
            r"line 1: answers is 'New York', not an object with text and answer_start; give each row a question",
        ),
    ],
)
def test_an_invalid_table_is_one_error(tmp_path, rows, more, message):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=message):
        loaded(path, validation=str(path), test=str(path), **more)


def test_rare_labels_are_rejected_and_a_lack_of_unanswerable_questions_is_noted(tmp_path, caplog):
    path = write_squad(tmp_path / "train.json", questions(60))
    with pytest.raises(DataError, match=r"data\.min_examples_per_label: 2 given"):
        loaded(path, min_examples_per_label=2)
    silent = write_squad(tmp_path / "test.json", questions(60, unanswerable=True))
    loaded(path, validation=str(silent), test=str(silent))
    assert "validation and test: some questions have no answer, but every one of train has" in caplog.text


def test_questions_are_summarized_in_words():
    assert ANSWERS.summary([[[0, 1]], [], []], []) == "3 questions, 2 of them without an answer"
    assert ANSWERS.summary([[[0, 1]]], []) == "1 question"
