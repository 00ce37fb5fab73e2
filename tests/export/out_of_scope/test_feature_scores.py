"""The scores on features that `benchmarks/out_of_scope_scores.py` compares, against their formulas."""

import numpy as np
import pytest
from out_of_scope_scores import BASE, MARGIN, NEIGHBOURS, Outputs, feature_scores, measured, rows_of

from distiltune.export.config import OutOfScopeConfig
from distiltune.export.out_of_scope.thresholds import ScopeGoal, choose_threshold, measure_threshold
from distiltune.export.runtime.scores import SCORES
from distiltune.training.tasks import SINGLE_LABEL

OUTSIDE = 3


@pytest.fixture
def train():
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 400)
    features = (
        random.normal(size=(400, 5)) @ random.normal(size=(5, 5)) + 3 * random.normal(size=(4, 5))[labels]
    )
    return Outputs(features.astype(np.float32), np.zeros((400, 4), dtype=np.float32), labels)


def test_scores_on_features_are_those_of_the_papers(train):
    asked = np.random.default_rng(1).normal(size=(30, 5)).astype(np.float32) * 3
    found = feature_scores(train, OUTSIDE, asked)
    known = train.labels != OUTSIDE
    features, labels = train.features[known].astype(float), train.labels[known]
    means = np.stack([features[labels == each].mean(axis=0) for each in range(3)])

    def distance(point, mean, residuals):
        return (point - mean) @ np.linalg.inv(residuals.T @ residuals / len(residuals)) @ (point - mean)

    middle = features.mean(axis=0)
    for row, point in enumerate(asked.astype(float)):
        tied = min(distance(point, mean, features - means[labels]) for mean in means)
        assert found["mahalanobis"][row] == pytest.approx(-tied, rel=1e-6)
        background = distance(point, middle, features - middle)
        assert found["relative"][row] == pytest.approx(background - tied, rel=1e-5, abs=1e-6)
        unit = features / np.linalg.norm(features, axis=1)[:, None]
        own = point / np.linalg.norm(point)
        nearest = np.sort(np.linalg.norm(unit - own, axis=1))
        for k in NEIGHBOURS:
            assert found[f"knn-{k}"][row] == pytest.approx(-nearest[k - 1], abs=2e-3)
        centres = np.stack([unit[labels == each].mean(axis=0) for each in range(3)])
        centres /= np.linalg.norm(centres, axis=1)[:, None]
        assert found["centroid"][row] == pytest.approx((centres @ own).max(), abs=1e-6)


def test_a_threshold_is_selected_and_measured_as_in_an_export():
    random, goal = np.random.default_rng(2), ScopeGoal(OutOfScopeConfig(score="energy"), "oos")
    splits = [(random.normal(size=(200, 4)) * 2, random.integers(0, 4, 200)) for _ in range(2)]
    scores, guesses, labels = (
        tuple(SCORES["energy"](logits) for logits, _ in splits),
        tuple(logits.argmax(axis=1) for logits, _ in splits),
        tuple(each for _, each in splits),
    )
    found = measured("energy", scores, guesses, labels, OUTSIDE, goal)
    scope = SINGLE_LABEL.out_of_scope
    threshold = choose_threshold(scope, *splits[0], OUTSIDE, goal)
    expected = measure_threshold(scope, threshold, *splits[1], OUTSIDE)
    names = {
        "accuracy": "accuracy",
        "auroc": "auroc",
        "in_scope": "in_scope_accuracy",
        "recall": "oos_recall",
    }
    assert found == pytest.approx({name: expected[other] for name, other in names.items()})


def test_the_weight_of_a_margin_is_fitted_where_its_threshold_is_selected(train):
    random = np.random.default_rng(3)
    outputs = {"train": train}
    for split in ("validation", "test"):
        labels = random.integers(0, 4, 200)
        logits = random.normal(size=(200, 4)) + 2 * np.eye(4)[labels]
        outputs[split] = Outputs(random.normal(size=(200, 5)).astype(np.float32), logits, labels)
    rows = {row["score"]: row for row in rows_of(outputs, OUTSIDE, ScopeGoal(OutOfScopeConfig(), "oos"), 3)}
    for name in (MARGIN, BASE):
        scope, goal = SINGLE_LABEL.out_of_scope, ScopeGoal(OutOfScopeConfig(score=name), "oos")
        held = [(outputs[split].logits, outputs[split].labels) for split in ("validation", "test")]
        threshold = choose_threshold(scope, *held[0], OUTSIDE, goal)
        expected = measure_threshold(scope, threshold, *held[1], OUTSIDE)
        assert rows[name]["accuracy"] == pytest.approx(expected["accuracy"])
        assert rows[name]["auroc"] == pytest.approx(expected["auroc"])
    assert rows[BASE]["accuracy_gain"] == 0 != rows[MARGIN]["auroc_gain"]
