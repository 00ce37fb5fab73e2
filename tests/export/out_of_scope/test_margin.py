"""The score ``margin``: its values, the fit of its weight, when it is used, and how it is stored."""

import json

import numpy as np
import pytest

from distiltune.export.config import OutOfScopeConfig
from distiltune.export.out_of_scope.thresholds import (
    AccuracyWithThreshold,
    ScopeGoal,
    area_under_roc,
    choose_threshold,
    fit_weight,
    measure_threshold,
)
from distiltune.export.runtime.scores import SCORES, Threshold, margins
from distiltune.training.tasks import SINGLE_LABEL

NAMES = ["balance", "oos", "transfer", "pay"]
OUTSIDE = NAMES.index("oos")
SCOPE = SINGLE_LABEL.out_of_scope
STORED = {"score": "margin", "value": 1.25, "label": "oos", "weight": 0.35, "output": OUTSIDE}


def goal(**section):
    return ScopeGoal(OutOfScopeConfig(**section), "oos")


def drawn(weight, num_texts=2000, noise=0.01, seed=0):
    """Return logits float32[N, 4] whose margin at ``weight`` alone tells the two kinds of texts apart, and labels.

    The margin is 1 for in-scope texts and -1 for the others, with noise; the out-of-scope logit varies far more.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, num_texts)
    own = random.normal(size=num_texts) * 5
    largest = np.where(labels == OUTSIDE, -1, 1) + weight * own + noise * random.normal(size=num_texts)
    logits = (largest - 3)[:, None] - random.random((num_texts, 4))
    logits[np.arange(num_texts), np.where(labels == OUTSIDE, 0, labels)] = largest
    logits[:, OUTSIDE] = own
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("output", range(4))
@pytest.mark.parametrize("weight", [0.0, 0.35, 1.0])
def test_it_is_the_largest_other_logit_minus_the_weighted_one(output, weight):
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    expected = [
        max(float(each) for number, each in enumerate(row) if number != output) - weight * float(row[output])
        for row in logits
    ]
    found = margins(logits, output, weight)
    assert found.dtype == np.float64
    assert found.tolist() == expected
    threshold = Threshold("margin", 0.5, NAMES[output], weight, output)
    assert threshold.scores(logits).tolist() == expected
    assert threshold.refuses(logits).tolist() == [each < 0.5 for each in expected]


@pytest.mark.parametrize("score", SCORES)
def test_scores_of_other_thresholds_are_those_of_their_names(score):
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_array_equal(Threshold(score, 0.5, "oos").scores(logits), SCORES[score](logits))


@pytest.mark.parametrize("weight", [0.0, 0.2, 0.55, 1.0])
def test_the_weight_that_ranks_best_is_found(weight):
    logits, labels = drawn(weight, noise=0.6)
    outside = labels == OUTSIDE
    areas = [area_under_roc(margins(logits, OUTSIDE, step / 20), outside) for step in range(21)]
    found = fit_weight(logits, outside, OUTSIDE)
    assert found == np.argmax(areas) / 20
    assert found == pytest.approx(weight, abs=0.051)


def test_of_equally_good_weights_the_smallest_is_taken():
    logits = np.array([[3, 0, 0], [3, 0, 0], [1, 0, 0]], dtype=np.float32)
    assert fit_weight(logits, np.array([False, False, True]), 1) == 0
    logits = np.array([[1, 0, 0], [0, 1, 1.2], [0, 1.05, 1]], dtype=np.float32)
    assert fit_weight(logits, np.array([False, True, True]), 1) == 0.25  # the first with 1 > 1.2 - weight


def test_it_is_the_default_where_the_model_has_the_output():
    logits, labels = drawn(0.3)
    chosen = choose_threshold(SCOPE, logits, labels, OUTSIDE, goal())
    assert (chosen.score, chosen.label, chosen.output) == ("margin", "oos", OUTSIDE)
    assert chosen.weight == fit_weight(logits, labels == OUTSIDE, OUTSIDE)
    assert chosen == choose_threshold(SCOPE, logits, labels, OUTSIDE, goal(score="margin"))
    found = measure_threshold(SCOPE, chosen, logits, labels, OUTSIDE)
    assert {name: found[name] for name in chosen.to_json()} == chosen.to_json()
    largest = logits.argmax(axis=1)
    answers = np.where(margins(logits, OUTSIDE, chosen.weight) < chosen.value, OUTSIDE, largest)
    assert found["accuracy"] == (answers == labels).mean()
    by_energy = choose_threshold(SCOPE, logits, labels, OUTSIDE, goal(score="energy"))
    assert found["accuracy"] > measure_threshold(SCOPE, by_energy, logits, labels, OUTSIDE)["accuracy"] + 0.05
    assert AccuracyWithThreshold("single_label", goal(), OUTSIDE)(logits, labels) == found["accuracy"]


@pytest.mark.parametrize("section", [{}, {"score": "margin"}])
def test_without_the_output_or_one_kind_of_texts_it_is_energy(section):
    logits, labels = drawn(0.3)
    inside, bounded = labels != OUTSIDE, goal(max_in_scope_refused=0.1, **section)
    for given, own, outside in [
        (logits, labels, 4),
        (logits[inside], labels[inside], OUTSIDE),
        (logits[~inside], labels[~inside], OUTSIDE),
    ]:
        chosen = choose_threshold(SCOPE, given, own, outside, bounded)
        assert (chosen.score, chosen.weight, chosen.output) == ("energy", None, None)


def test_at_most_the_given_share_of_in_scope_texts_is_rejected():
    logits, labels = drawn(0.3, noise=1.0)
    chosen = choose_threshold(SCOPE, logits, labels, OUTSIDE, goal(max_in_scope_refused=0.05))
    below = margins(logits, OUTSIDE, chosen.weight) < chosen.value
    rejected = below | (logits.argmax(axis=1) == OUTSIDE)
    by_logits = (logits.argmax(axis=1) == OUTSIDE)[labels != OUTSIDE].mean()
    assert rejected[labels != OUTSIDE].mean() <= max(0.05, by_logits)


def test_a_threshold_is_stored_with_the_fields_that_it_has():
    margin, energy = Threshold("margin", 1.25, "oos", 0.35, OUTSIDE), Threshold("energy", 4.5, "oos")
    assert margin.to_json() == STORED
    assert energy.to_json() == {"score": "energy", "value": 4.5, "label": "oos"}
    assert Threshold("margin", 0.0, "balance", 0.0, 0).to_json()["output"] == 0
    for each in (margin, energy):
        assert Threshold.from_json(json.loads(json.dumps(each.to_json())), NAMES) == each
    assert Threshold.from_json(STORED | {"weight": 1}, NAMES).weight == 1.0


WEIGHT = "its weight must be a finite number of at least 0"
OUTPUT = "its output must be the index of its label in labels"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({"weight": value}, WEIGHT) for value in (True, "1", None, -0.1, float("nan"), float("inf"))),
        ({"weight": 10**400}, WEIGHT),
        *(({"output": value}, OUTPUT) for value in (True, "1", None, -1, 1.0, 4, 10**400)),
        ({"output": 2}, OUTPUT),
        ({"label": "none of these"}, OUTPUT),
        ({"score": "energy"}, "weight and output if its score is margin, else neither"),
        ({"more": 1}, "an object of score, value and label, for margin also weight and output"),
        ({"score": []}, "its score must be one of margin, energy, max_logit, max_softmax"),
        ({"value": None}, "its value must be a finite number"),
    ],
)
def test_a_stored_threshold_that_is_none_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Threshold.from_json(STORED | change, NAMES)


@pytest.mark.parametrize("missing", [("weight",), ("output",), ("weight", "output")])
def test_a_stored_margin_has_both_fields(missing):
    given = {name: value for name, value in STORED.items() if name not in missing}
    with pytest.raises(ValueError, match="weight and output"):
        Threshold.from_json(given, NAMES)
