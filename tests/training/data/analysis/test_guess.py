"""Guessing the columns of a user's table."""

import pytest

from distiltune.errors import DataError
from distiltune.training.data.analysis.guess import guess_columns, guess_out_of_scope, look_at, rare_labels
from distiltune.training.data.rows import MISSING
from distiltune.training.data.sources.columns import Table

NUM_ROWS = 60
TEXTS = [f"could you please tell me about order number {n} of mine" for n in range(NUM_ROWS)]
LABELS = [("orders", "billing", "other")[n % 3] for n in range(NUM_ROWS)]


def table(**columns: list[object]) -> Table:
    return Table("data.csv", list(columns), columns.__getitem__, lambda i: f"line {i + 2}")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text": TEXTS, "label": LABELS}, ("text", "label")),
        ({"label": LABELS, "text": TEXTS}, ("text", "label")),
        ({"Utterance": TEXTS, "Intent": LABELS}, ("Utterance", "Intent")),
        ({"customer_message": TEXTS, "ticket-category": LABELS}, ("customer_message", "ticket-category")),
        ({"a": TEXTS, "b": LABELS}, ("a", "b")),
        ({"id": list(range(NUM_ROWS)), "q": TEXTS, "stars": [n % 5 for n in range(NUM_ROWS)]}, ("q", "stars")),
        (  # the usual name counts more than the fewest values
            {"lang": ["en", "fr"] * 30, "intent": LABELS, "query": TEXTS},
            ("query", "intent"),
        ),
        ({"title": ["a", "b c"] * 30, "text": TEXTS, "y": [0, 1] * 30}, ("text", "y")),
        ({"date": [f"2024-01-{n % 28 + 1:02}" for n in range(60)], "body": TEXTS, "tag": LABELS}, ("body", "tag")),
        ({"text": TEXTS, "label": [True, False] * 30}, ("text", "label")),
    ],
)  # fmt: skip
def test_text_and_label_are_found(columns, expected) -> None:
    found = guess_columns(table(**columns))
    assert (found.text, found.label) == expected
    assert set(found.others) == set(columns) - set(expected)


def test_given_columns_are_not_guessed() -> None:
    columns = {"text": TEXTS, "label": LABELS, "body": list(reversed(TEXTS)), "lang": ["en", "fr"] * 30}
    found = guess_columns(table(**columns), text="body", label="lang")
    assert (found.text, found.label) == ("body", "lang")
    found = guess_columns(table(**columns), label="lang")
    assert (found.text, found.label) == ("text", "lang")


@pytest.mark.parametrize(
    ("columns", "options", "parts"),
    [
        ({"text": TEXTS}, {}, ["looks like the label", "--label", "'text'"]),
        ({"text": TEXTS, "id": list(range(NUM_ROWS))}, {}, ["looks like the label", "60 distinct values"]),
        ({"n": list(range(NUM_ROWS)), "label": LABELS}, {}, ["looks like the text", "--text"]),
        ({"text": TEXTS, "label": ["one"] * NUM_ROWS}, {}, ["looks like the label", "1 distinct"]),
        ({"text": TEXTS, "label": LABELS}, {"text": "txet"}, ["--text: 'txet' given", "'text', 'label'"]),
        ({"text": TEXTS, "label": LABELS}, {"label": "x"}, ["--label: 'x' given"]),
    ],
)
def test_the_error_for_a_failed_guess_names_the_option(columns, options, parts) -> None:
    with pytest.raises(DataError) as caught:
        guess_columns(table(**columns), **options)
    for part in parts:
        assert part in str(caught.value)


def test_blank_and_missing_values_do_not_count() -> None:
    found = look_at("x", ["a b", "", None, MISSING, "  ", "a b", "c"])
    assert (found.num_filled, found.num_distinct) == (3, 2)
    assert found.mean_words == pytest.approx(5 / 3)
    assert look_at("x", [1, 2.5, "3"]).is_numeric
    assert not look_at("x", []).is_numeric


@pytest.mark.parametrize(
    "name", ["oos", "OOS", "out_of_scope", "Out of scope", "out-of-domain", "nlu_fallback", " ood "]
)
def test_names_of_an_out_of_scope_label_are_recognized(name: str) -> None:
    assert guess_out_of_scope(["a", name, "b"]) == name


@pytest.mark.parametrize("labels", [["other", "none"], ["scope"], ["oos", "out_of_scope"], ["goods"], []])
def test_other_names_are_ordinary_labels(labels: list[str]) -> None:
    assert guess_out_of_scope(labels) is None


def test_rare_labels_come_first() -> None:
    assert rare_labels(["a"] * 5 + ["b"] * 2 + ["c"] * 9, 6) == {"b": 2, "a": 5}


@pytest.mark.parametrize(
    ("columns", "text", "label"),
    [
        ({"tokens": [["a", "b"], ["c"]], "tags": [["O", "B-x"], ["O"]]}, "tokens", "tags"),
        ({"id": [1, 2], "words": [["a", "b"], ["c"]], "ner": [["B-x", "I-x"], ["S-y"]]}, "words", "ner"),
        ({"text": ["a b", "c d"], "spans": [[{"start": 0, "end": 1, "label": "x"}], []]}, "text", "spans"),
    ],
)
def test_tags_and_spans_are_entities(columns, text, label):
    table = Table("data", list(columns), columns.__getitem__, str)
    guess = guess_columns(table)
    assert (guess.text, guess.label, guess.task, guess.separator) == (
        text,
        label,
        "token_classification",
        None,
    )


@pytest.mark.parametrize(
    "answers",
    [
        [{"text": ["a"], "answer_start": [0]}, {"text": [], "answer_start": []}],
        [[{"text": "a", "answer_start": 0}], []],
        ['{"text": ["a"], "answer_start": [0]}', '{"text": ["c"], "answer_start": [0]}'],
    ],
)
def test_answers_with_their_places_are_question_answering(answers):
    columns = {"id": ["x", "y"], "question": ["who?", "why?"], "context": ["a b", "c d"], "answers": answers}
    guess = guess_columns(Table("data", list(columns), columns.__getitem__, str))
    assert (guess.text, guess.pair, guess.label) == ("question", "context", "answers")
    assert (guess.task, guess.separator, guess.others) == ("question_answering", None, ["id"])


def test_lists_of_names_are_not_entities():
    columns = {"text": ["a b", "c d", "e f"], "labels": [["O", "news"], ["O"], ["news"]]}
    assert guess_columns(Table("data", list(columns), columns.__getitem__, str)).task == "multi_label"
