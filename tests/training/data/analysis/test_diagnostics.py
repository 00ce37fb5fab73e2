"""Diagnostics of labels and texts, against plain loops and planted faults."""

import numpy as np
import pytest

from distiltune.training.data.analysis.diagnostics import (
    MIN_SIMILARITY,
    confused_labels,
    label_issues,
    near_duplicates,
)


def probabilities(labels: np.ndarray, num_labels: int, seed: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(len(labels), num_labels))
    logits[np.arange(len(labels)), labels] += 4
    exponents = np.exp(logits)
    return exponents / exponents.sum(axis=1, keepdims=True)


def test_planted_wrong_labels_are_found() -> None:
    truth = np.random.default_rng(0).integers(0, 6, 600)
    given, wrong = truth.copy(), np.arange(0, 600, 40)
    given[wrong] = (truth[wrong] + 1) % 6
    found = label_issues(probabilities(truth, 6, 1), given)
    rows = [each.row for each in found]
    planted = set(wrong.tolist())
    assert len(planted & set(rows)) >= 0.75 * len(planted)
    assert len(planted & set(rows[: len(planted)])) >= 0.6 * len(planted)
    first = found[0]
    assert (first.label, first.predicted) == (given[first.row], truth[first.row])
    margins = [each.label_probability - each.predicted_probability for each in found]
    assert margins == sorted(margins)
    assert margins[-1] < 0


def test_issues_match_the_definition() -> None:
    """The reference uses loops instead of arrays."""
    generator = np.random.default_rng(2)
    labels = generator.integers(0, 4, 80)
    given = generator.dirichlet(np.ones(5), size=80)  # no text has label 4
    expected = set()
    thresholds = {j: np.mean([given[i, j] for i in range(80) if labels[i] == j]) for j in range(4)}
    for i in range(80):
        confident = [j for j in thresholds if given[i, j] >= thresholds[j]]
        if confident:
            best = max(confident, key=lambda j: given[i, j])
            if best != labels[i] and given[i, best] > given[i, labels[i]]:
                expected.add((i, best))
    assert {(each.row, each.predicted) for each in label_issues(given, labels)} == expected
    assert expected


def test_a_model_that_agrees_has_no_issues() -> None:
    labels = np.arange(20) % 4
    assert label_issues(np.eye(4)[labels], labels) == []


def test_confused_pairs_count_both_directions() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 3])
    predictions = np.array([1, 1, 0, 0, 1, 3, 3])
    assert confused_labels(predictions, labels) == [(0, 1, 2, 1), (2, 3, 1, 0)]
    assert confused_labels(labels, labels) == []


TRAIN = [
    "please turn the heating in the bedroom up to twenty degrees",
    "where is my parcel",
    "what time does the last train leave for the airport tonight",
    "hello there",
]


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("please turn the heating in the bedroom up to thirty degrees", 0),
        ("Please, turn the heating in the bedroom up to twenty degrees NOW!", 0),
        ("what time does the last train leave for the airport today tonight", 2),
    ],
)
def test_a_text_that_almost_equals_a_training_text_is_found(text: str, row: int) -> None:
    (found,) = near_duplicates({"train": TRAIN, "validation": ["something else entirely", text]})
    assert (found.split, found.row, found.other_split, found.other_row) == ("validation", 1, "train", row)
    assert MIN_SIMILARITY <= found.similarity < 1


@pytest.mark.parametrize("text", ["where is the parcel of mine", "hello", *TRAIN[:2], "WHERE is my parcel?"])
def test_equal_and_different_texts_are_not_near_duplicates(text: str) -> None:
    assert near_duplicates({"train": TRAIN, "test": [text]}) == []


def test_the_test_split_is_also_compared_with_validation() -> None:
    texts = ["can you tell me the way to the old harbour", "can you tell me the way to the new harbour"]
    (found,) = near_duplicates({"train": TRAIN, "validation": texts[:1], "test": texts[1:]})
    assert (found.split, found.other_split) == ("test", "validation")


def test_the_filter_finds_the_same_as_comparing_all_pairs() -> None:
    generator = np.random.default_rng(3)
    words = np.array([f"w{number}" for number in range(30)])
    texts = [" ".join(generator.choice(words, size=8, replace=False)) for _ in range(150)]
    near = [" ".join([*text.split()[:7], "other"]) for text in texts[:40]]
    train, test = texts, near + [" ".join(generator.choice(words, size=8)) for _ in range(100)]

    def best(text: str) -> float:
        own = set(text.split())
        return max(len(own & set(each.split())) / len(own | set(each.split())) for each in train)

    expected = {row for row, text in enumerate(test) if MIN_SIMILARITY <= best(text) < 1}
    assert {each.row for each in near_duplicates({"train": train, "test": test})} == expected


def test_short_texts_and_scripts_without_spaces_are_compared_by_characters() -> None:
    texts = {
        "train": ["我想预订明天去上海的火车票两张请尽快发给我确认短信谢谢"],
        "test": ["我想预订明天去上海的火车票三张请尽快发给我确认短信谢谢"],
    }
    (found,) = near_duplicates(texts)
    assert found.similarity >= MIN_SIMILARITY
    assert near_duplicates({"train": ["", "a"], "test": ["", "b", "!"]}) == []
