"""Temperature scaling against a grid of likelihoods, and in the runtime."""

import json

import numpy as np
import pytest

from distiltune.errors import ArtifactError
from distiltune.export.runtime.classifier_config import read_config
from distiltune.export.runtime.scores import Threshold
from distiltune.export.runtime.tasks import DECODERS
from distiltune.export.temperature import LEAST, MOST, fit_temperature


def drawn(temperature: float, num_texts: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits, and labels drawn from softmax(logits / temperature)."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=3, size=(num_texts, 6))
    scaled = np.exp(logits / temperature)
    cumulated = (scaled / scaled.sum(axis=1, keepdims=True)).cumsum(axis=1)
    return logits, (generator.random((num_texts, 1)) > cumulated).sum(axis=1)


def loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    scaled = logits / temperature
    normaliser = np.log(np.exp(scaled - scaled.max(axis=1, keepdims=True)).sum(axis=1)) + scaled.max(axis=1)
    return float((normaliser - scaled[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature, 20_000)) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_no_temperature_of_a_grid_is_better(seed: int) -> None:
    logits, labels = drawn(1.7, 200, seed)
    found = fit_temperature(logits.astype(np.float32), labels)
    best = loss(logits, labels, found)
    assert all(best <= loss(logits, labels, each) + 1e-9 for each in np.geomspace(LEAST, MOST, 400))
    assert fit_temperature(logits + 1000, labels) == pytest.approx(found)


def test_extremes_stay_within_bounds() -> None:
    logits = np.eye(4)
    assert fit_temperature(logits, np.arange(4)) == pytest.approx(LEAST, rel=1e-6)
    assert fit_temperature(logits, (np.arange(4) + 1) % 4) == pytest.approx(MOST, rel=1e-6)
    assert fit_temperature(np.zeros((0, 4)), np.zeros(0, int)) == 1.0


def test_scores_are_scaled_and_labels_and_threshold_are_not() -> None:
    logits, labels = drawn(1.0, 50)
    del labels
    names, decoder = list("abcdef"), DECODERS["single_label"]
    threshold = Threshold("max_softmax", 0.6, "none")
    plain, scaled = (decoder.decode(logits, names, threshold, each) for each in (1.0, 2.0))
    assert [each["label"] for each in plain] == [each["label"] for each in scaled]
    assert {"none"} < {each["label"] for each in plain}
    probabilities = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
    expected = [
        1 - p.max() if a["label"] == "none" else p.max() for a, p in zip(scaled, probabilities, strict=True)
    ]
    assert [each["score"] for each in scaled] == pytest.approx(expected)
    (first, *_), *_ = decoder.ranked(logits, names, None, 3, 2.0)
    assert first["score"] == pytest.approx(probabilities[0].max())


@pytest.mark.parametrize("value", [0, -1, "1", True, [1.0], 1e400])
def test_a_temperature_that_cannot_be_is_refused(value, tmp_path) -> None:
    settings = {"task": "single_label", "labels": ["a", "b"], "max_length": 8, "pad_token_id": 0}
    path = tmp_path / "distiltune.json"
    for given, expected in ((None, 1.0), (2, 2.0), (0.5, 0.5)):
        content = json.dumps({**settings, "temperature": given}).encode()
        assert read_config(content, path).temperature == expected
    with pytest.raises(ArtifactError, match="temperature"):
        read_config(json.dumps({**settings, "temperature": value}).encode(), path)
