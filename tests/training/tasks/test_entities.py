"""Spans of tags and their counts: cases worked by hand, and one tag after another in plain Python."""

from __future__ import annotations

import numpy as np
import pytest

from distiltune.errors import InputError
from distiltune.training.data.label_kinds.tag_scheme import entity_types, tag_names
from distiltune.training.ragged import Ragged
from distiltune.training.tasks import TOKEN_CLASSIFICATION
from distiltune.training.tasks.entities import entities, entity_counts, f1, precision, recall, word_counts

TYPES = ["LOC", "PER"]
NAMES = tag_names(TYPES)


def tags(*texts: str) -> Ragged:
    return Ragged.of([[NAMES.index(tag) for tag in text.split()] for text in texts], np.int64)


def spans(*texts: str) -> list[tuple[int, int, str]]:
    given = tags(*texts)
    return [
        (start, end, TYPES[kind]) for start, end, kind in entities(given.values, given.row_numbers).tolist()
    ]


def slow_entities(rows: list[list[str]]) -> set[tuple[int, int, int, str]]:
    """Text, first word, word after the last and type of each entity, found from word to word."""
    found = set()
    for number, row in enumerate(rows):
        start, kind = 0, None
        for place, tag in enumerate([*row, "O"]):
            prefix, _, name = tag.partition("-")
            if kind is not None and (prefix != "I" or name != kind):
                found.add((number, start, place, kind))
                kind = None
            if prefix in ("B", "I") and kind is None:
                start, kind = place, name
    return found


def test_names_of_tags():
    assert NAMES == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert entity_types(NAMES) == TYPES and entity_types(tag_names(["B-", "x-y"])) == ["B-", "x-y"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("O O O", []),
        ("B-PER I-PER O", [(0, 2, "PER")]),
        ("B-PER B-PER", [(0, 1, "PER"), (1, 2, "PER")]),
        ("I-PER I-PER O I-LOC", [(0, 2, "PER"), (3, 4, "LOC")]),  # as conlleval reads IOB1
        ("B-PER I-LOC I-LOC", [(0, 1, "PER"), (1, 3, "LOC")]),
        ("B-LOC I-LOC B-LOC I-LOC", [(0, 2, "LOC"), (2, 4, "LOC")]),
        ("O B-LOC O I-LOC", [(1, 2, "LOC"), (3, 4, "LOC")]),
        ("O B-LOC", [(1, 2, "LOC")]),
        ("B-LOC", [(0, 1, "LOC")]),
    ],
)
def test_spans_of_one_text(given, expected):
    assert spans(given) == expected


def test_no_entity_continues_into_the_next_text():
    assert spans("O B-PER", "I-PER O", "", "I-PER") == [(1, 2, "PER"), (2, 3, "PER"), (4, 5, "PER")]
    assert spans("") == []


def test_counts_worked_by_hand():
    labels = tags("B-PER I-PER O B-LOC", "O O", "B-LOC I-LOC")
    predictions = tags("B-PER I-PER O B-PER", "B-LOC O", "B-LOC O")
    # In the first text the person is right and the place has the wrong type; in the second no entity should be
    # predicted; in the third the entity is too short.
    assert entity_counts(predictions, labels).tolist() == [[1, 2, 2], [0, 1, 0], [0, 1, 1]]
    assert entity_counts(predictions, labels, kind=0).tolist() == [[0, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert entity_counts(predictions, labels, kind=1).tolist() == [[1, 2, 1], [0, 0, 0], [0, 0, 0]]
    assert word_counts(predictions, labels).tolist() == [[3, 4], [1, 2], [1, 2]]
    total = entity_counts(predictions, labels).sum(axis=0)
    assert (precision(total), recall(total), f1(total)) == (
        pytest.approx(1 / 4),
        pytest.approx(1 / 3),
        pytest.approx(2 / 7),
    )


def test_ratios_without_entities_are_zero():
    nothing = entity_counts(tags("O O"), tags("O O")).sum(axis=0)
    assert [float(of(nothing)) for of in (precision, recall, f1)] == [0, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_random_tags_are_counted_as_one_by_one(seed):
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 12, size=40)
    rows = [[NAMES[tag] for tag in random.integers(len(NAMES), size=length)] for length in lengths]
    others = [[tag if random.random() < 0.7 else "O" for tag in row] for row in rows]
    labels, predictions = (tags(*(" ".join(row) for row in each)) for each in (rows, others))
    true, found = slow_entities(rows), slow_entities(others)
    expected = [
        [sum(each[0] == number for each in part) for part in (found & true, found, true)]
        for number in range(40)
    ]
    assert entity_counts(predictions, labels).tolist() == expected


def test_metrics_of_the_task_are_of_whole_entities_and_of_words():
    labels = Ragged.of([[-100, 1, -100, 2, 0], [-100, 3, -1, 0]], np.int64)
    predictions = Ragged.of([[4, 1, 3, 2, 1], [0, 3, 3, 0]], np.int64)
    found = TOKEN_CLASSIFICATION.metrics(predictions, labels)
    assert found == pytest.approx(
        {"entity_f1": 4 / 5, "entity_precision": 2 / 3, "entity_recall": 1.0, "token_accuracy": 4 / 5}
    ), "special tokens, pieces within words and words without a label do not count"
    assert TOKEN_CLASSIFICATION.correct(predictions, labels).tolist() == [False, True]
    with pytest.raises(ValueError, match="0 labels"):
        TOKEN_CLASSIFICATION.metrics(predictions[:1], Ragged.of([[-100] * 5], np.int64))
    with pytest.raises(ValueError, match="1 predictions for 2 labels"):
        TOKEN_CLASSIFICATION.metrics(predictions[:1], labels)


def test_metrics_by_name_equal_those_of_every_epoch():
    random = np.random.default_rng(0)
    labels = Ragged.of([random.integers(-1, 5, size=9) for _ in range(30)], np.int64)
    predictions = labels.like(
        np.where(random.random(270) < 0.7, labels.values, random.integers(5, size=270)).clip(0)
    )
    epoch = TOKEN_CLASSIFICATION.metrics(predictions, labels)
    for name in TOKEN_CLASSIFICATION.metric_names:
        metric = TOKEN_CLASSIFICATION.metric(name, NAMES)
        assert metric.measure(predictions, labels) == pytest.approx(epoch[name])
    of_types = {
        each: TOKEN_CLASSIFICATION.metric(each, NAMES) for each in ("f1.PER", "precision.LOC", "recall.LOC")
    }
    assert [each.mode for each in of_types.values()] == ["max"] * 3
    values = {name: each.measure(predictions, labels) for name, each in of_types.items()}
    assert 0 < values["f1.PER"] < 1 and values["precision.LOC"] != values["recall.LOC"]


def test_a_metric_of_an_unknown_type_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"metric: .*f1\.PERS.*no label.*f1\.PER\?"):
        TOKEN_CLASSIFICATION.metric("f1.PERS", NAMES)
    with pytest.raises(InputError, match=r"entity_f2.*entity_f1"):
        TOKEN_CLASSIFICATION.metric("entity_f2", NAMES)


def test_a_metric_of_a_type_is_about_the_texts_that_have_it():
    labels = Ragged.of([[-100, 1, 2, 0], [0, 0], [3, 0, 4], [-1, 0, 3]], np.int64)
    for name in ("f1.LOC", "precision.LOC", "recall.LOC"):
        concerns = TOKEN_CLASSIFICATION.metric(name, NAMES).concerns
        assert concerns is not None and concerns(labels).tolist() == [True, False, False, False]
        assert concerns(labels.padded(-100)).tolist() == [True, False, False, False]
    assert TOKEN_CLASSIFICATION.metric("entity_f1", NAMES).concerns is None
    assert TOKEN_CLASSIFICATION.metric("token_accuracy", NAMES).concerns is None
