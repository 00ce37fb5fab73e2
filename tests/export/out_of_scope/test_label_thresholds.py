"""A threshold for each label, against trying every one; and the temperature of labels that may occur together."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from distiltune.export.out_of_scope.config import LabelThresholdsConfig
from distiltune.export.out_of_scope.label_thresholds import choose_label_thresholds
from distiltune.export.runtime.scores import LabelThresholds
from distiltune.export.temperature import LEAST, MOST, fit_sigmoid_temperature

NAMES = ["air", "fire", "water"]


def drawn(num_texts: int = 200, digits: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = (random.random((num_texts, 3)) < [0.5, 0.2, 0.01]).astype(np.int8)
    logits = random.normal(size=labels.shape) + 2 * labels - [1, 3, 4]
    return (logits if digits is None else np.round(logits, digits)).astype(np.float32), labels


def chosen(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0, **options) -> np.ndarray:
    found = choose_label_thresholds(logits, labels, NAMES, LabelThresholdsConfig(**options), temperature)
    assert found is not None
    return found.cuts(temperature)


def measured(logits: np.ndarray, truth: np.ndarray, cut: float) -> dict[str, float]:
    given = logits > cut
    hits = float((given & truth).sum())
    return {
        "f1": 2 * hits / max(given.sum() + truth.sum(), 1),
        "precision": hits / max(given.sum(), 1),
        "recall": hits / truth.sum(),
    }


@pytest.mark.parametrize("digits", [None, 0])
def test_no_other_threshold_has_a_higher_f1(digits) -> None:
    logits, labels = drawn(digits=digits)
    cuts = chosen(logits, labels)
    for number in (0, 1):
        own, truth = logits[:, number], labels[:, number] > 0
        best = max(measured(own, truth, cut)["f1"] for cut in [*(own - 1e-4), own.min() - 1])
        assert measured(own, truth, cuts[number])["f1"] == pytest.approx(best)
    assert cuts[2] == 0, "too few texts to choose one on"
    assert abs(chosen(logits, labels, min_texts=1)[2]) > 0


@pytest.mark.parametrize(("goal", "other"), [("precision", "recall"), ("recall", "precision")])
def test_a_share_is_reached_with_the_best_other(goal, other) -> None:
    logits, labels = drawn()
    cuts = chosen(logits, labels, goal=goal, at_least=0.8)
    for number in (0, 1):
        own, truth = logits[:, number], labels[:, number] > 0
        found = measured(own, truth, cuts[number])
        tried = [measured(own, truth, cut) for cut in own - 1e-4]
        reaching = [each for each in tried if each[goal] >= 0.8]
        assert found[goal] >= 0.8
        assert found[other] == pytest.approx(max(each[other] for each in reaching))


def test_a_share_that_none_reaches_is_come_close_to() -> None:
    logits, labels = drawn()
    labels[:, 0] = np.arange(200) % 2
    own, truth = logits[:, 0], labels[:, 0] > 0
    found = measured(own, truth, chosen(logits, labels, goal="precision", at_least=1.0)[0])
    assert found["precision"] == max(measured(own, truth, cut)["precision"] for cut in own - 1e-4)


def test_a_threshold_lies_between_the_logits_that_it_divides() -> None:
    logits, labels = drawn()
    for cut, own in zip(chosen(logits, labels)[:2], logits.T, strict=False):
        assert np.abs(own - cut).min() > 0


@pytest.mark.parametrize("temperature", [0.3, 1.0, 7.5])
def test_the_temperature_changes_how_a_threshold_is_written_and_no_prediction(temperature) -> None:
    logits, labels = drawn()
    found = choose_label_thresholds(logits, labels, NAMES, LabelThresholdsConfig(), temperature)
    assert found is not None
    assert ((logits > found.cuts(temperature)) == (logits > chosen(logits, labels))).all()
    scores = 1 / (1 + np.exp(-logits.astype(float) / temperature))
    assert ((scores > np.array(found.values)) == (logits > found.cuts(temperature))).all()
    again = LabelThresholds.from_json(found.to_json(), [*reversed(NAMES)])
    assert again.labels == (*reversed(NAMES),) and again.values == (*reversed(found.values),)
    assert choose_label_thresholds(logits, labels, NAMES, None, temperature) is None


def test_thresholds_are_bounded() -> None:
    found = LabelThresholds.of_cuts(NAMES, np.array([-900.0, 0.0, 900.0]), 1.0)
    assert found.values == (pytest.approx(1e-6, rel=0.1), 0.5, pytest.approx(1 - 1e-6))
    assert np.isfinite(found.cuts(0.02)).all()


@pytest.mark.parametrize(
    "options", [{"goal": "f2"}, {"at_least": 0.5}, {"goal": "recall", "at_least": 1.5}, {"min_texts": 0}]
)
def test_wrong_goals_are_refused(options) -> None:
    with pytest.raises(ValidationError):
        LabelThresholdsConfig(**options)


@pytest.mark.parametrize("scale", [0.25, 1.0, 6.0])
def test_the_temperature_of_sets_is_the_likeliest(scale) -> None:
    random = np.random.default_rng(1)
    true = random.normal(0, 2, (4000, 3))
    labels = random.random(true.shape) < 1 / (1 + np.exp(-true))
    logits = (true * scale).astype(np.float32)
    found = fit_sigmoid_temperature(logits, labels)
    assert found == pytest.approx(scale, rel=0.1)

    def loss(temperature: float) -> float:
        z = logits.astype(float) / temperature
        return float(np.where(labels, np.logaddexp(0, -z), np.logaddexp(0, z)).mean())

    assert loss(found) <= min(loss(found * 1.02), loss(found / 1.02))


def test_the_temperature_is_bounded() -> None:
    logits, labels = np.array([[0.1], [-0.1]]), np.array([[1], [0]])
    assert fit_sigmoid_temperature(logits, labels) == pytest.approx(LEAST, rel=0.01)
    assert fit_sigmoid_temperature(logits, 1 - labels) == pytest.approx(MOST, rel=0.01)
    assert fit_sigmoid_temperature(np.zeros((0, 3)), np.zeros((0, 3))) == 1.0
