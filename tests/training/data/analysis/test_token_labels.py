"""Columns of entities and of answers, in every form that the readers accept."""

import json

import datasets
import pytest

from distiltune.training.data.analysis.guess import guess_columns
from distiltune.training.data.sources.columns import Table
from distiltune.training.data.sources.table import open_table

TOKENS = [["Ann", "flies"], ["to", "Oslo", "now"], ["she", "left"], ["I", "saw", "Bo"]]
TAGS = [["B-per", "O"], ["O", "B-loc", "O"], ["O", "O"], ["O", "O", "B-per"]]
TEXTS = list(map(" ".join, TOKENS))
SPANS = [
    [{"start": 0, "end": 3, "label": "per"}],
    [{"start": 3, "end": 7, "label": "loc"}],
    [],
    [{"start": 6, "end": 8, "label": "per"}],
]


def guess(columns, **given):
    return guess_columns(Table("data", list(columns), columns.__getitem__, str), **given)


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (TOKENS, TAGS),
        (list(map(json.dumps, TOKENS)), list(map(json.dumps, TAGS))),
        (list(map(str, TOKENS)), list(map(str, TAGS))),  # as pandas writes lists
        (TEXTS, list(map(" ".join, TAGS))),
        (TEXTS, list(map(json.dumps, TAGS))),
        (TOKENS, list(map(" ".join, TAGS))),
        (TEXTS, SPANS),
        (TEXTS, list(map(json.dumps, SPANS))),
        (TEXTS, list(map(str, SPANS))),
        (TEXTS, [[[span["start"], span["end"], span["label"]] for span in row] for row in SPANS]),
    ],
)
def test_entities_are_recognised_in_every_form(texts, labels):
    found = guess({"id": [1, 2, 3, 4], "words": texts, "ner": labels})
    assert (found.text, found.label, found.task, found.separator) == (
        "words",
        "ner",
        "token_classification",
        None,
    )
    assert guess({"a": texts, "b": labels}, label="b").task == "token_classification"


def test_the_text_has_a_token_for_each_tag():
    sentences = ["Ann flies.", "To Oslo, now!", "She left...", "I, too, saw Bo."]
    columns = {"sentence": sentences, "tokens": list(map(json.dumps, TOKENS)), "tags": list(map(str, TAGS))}
    assert guess(columns).text == "tokens"
    assert guess({**columns, "tags": list(map(json.dumps, SPANS))}).text == "sentence"


@pytest.mark.parametrize(
    "names",
    [
        ["S-Bahn", "U-Bahn", "S-Bahn", "U-Bahn"],
        ["O", "A", "B", "AB"],
        ["B-x", "B-y", "O", "O"],
        ["A O", "B O", "O O", "A O"],
    ],
)
def test_names_that_resemble_tags_are_names(names):
    texts = [f"{text} {n}" for n in range(3) for text in TEXTS]
    assert guess({"text": texts, "label": names * 3}).task == "single_label"


def test_a_parquet_file_of_conll_2003_is_recognised(tmp_path):
    """Its tags are numbers of classes, and chunks have tags as well."""
    names = ["O", "B-per", "I-per", "B-loc", "I-loc"]
    classes = datasets.Sequence(datasets.ClassLabel(names=names))
    chunks = ["B-NP", "B-VP", "O"]
    made = datasets.Dataset.from_dict(
        {
            "id": list("abcd"),
            "tokens": TOKENS,
            "chunk_tags": [[n % 3 for n in range(len(row))] for row in TOKENS],
            "ner_tags": [[names.index(tag) for tag in row] for row in TAGS],
        },
        features=datasets.Features(
            {
                "id": datasets.Value("string"),
                "tokens": datasets.Sequence(datasets.Value("string")),
                "chunk_tags": datasets.Sequence(datasets.ClassLabel(names=chunks)),
                "ner_tags": classes,
            }
        ),
    )
    made.to_parquet(str(tmp_path / "train.parquet"))
    found = guess_columns(open_table(str(tmp_path / "train.parquet")))
    assert (found.text, found.label, found.task) == ("tokens", "ner_tags", "token_classification")


CONTEXTS = ["Ann flies to Oslo", "Bo is here", "nobody is here", "it is late"]
QUESTIONS = ["Where to?", "Who is here?", "Who is there?", "how late"]


@pytest.mark.parametrize("names", [("answer", "start"), ("Answer", "answer_start"), ("answer_text", "Start")])
@pytest.mark.parametrize("starts", [[13, 0, None, 6], ["13", "0", "", "6"], [13.0, 0.0, float("nan"), 6.0]])
def test_answers_in_two_columns_are_recognised(names, starts):
    answers = ["Oslo", "Bo", "", "late"]
    columns = {
        "id": [1, 2, 3, 4],
        "question": QUESTIONS,
        "context": CONTEXTS,
        names[0]: answers,
        names[1]: starts,
    }
    found = guess(columns)
    assert (found.task, found.label, found.labels) == ("question_answering", None, list(names))
    assert (found.text, found.pair, found.others) == ("question", "context", ["id"])
    assert guess(columns, label=names[0]).labels == list(names)
    assert guess({**columns, names[1]: [1, 2, 3, 5]}, label=names[0]).task == "single_label"


@pytest.mark.parametrize("empty", ["[]", "", [], " [] "])
def test_questions_without_an_answer_are_recognised(empty):
    answers = [json.dumps({"text": ["Oslo"], "answer_start": [13]}), empty, empty, empty]
    found = guess({"question": QUESTIONS, "context": CONTEXTS, "answers": answers})
    assert (found.task, found.label, found.pair) == ("question_answering", "answers", "context")
