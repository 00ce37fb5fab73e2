"""Artifacts that predict several labels or numbers: decoded in NumPy as transformers decodes the student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifacts import LABELS, TEXTS, tiny_artifact
from models import tiny_classifier, tiny_data
from transformers import pipeline

from distiltune.errors import ArtifactError, ExportError, InputError
from distiltune.export.config import ExportConfig
from distiltune.export.out_of_scope.config import LabelThresholdsConfig
from distiltune.export.out_of_scope.fit_scores import ValidationTexts, refit_scores
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.runtime.probes import run_probes, write_probes
from distiltune.export.runtime.scores import LabelThresholds
from distiltune.export.runtime.tasks import DECODERS
from distiltune.export.variants.build import build_variant
from distiltune.export.variants.parity import Parity, check_tolerance
from distiltune.training.checkpoints.load import load_classifier
from distiltune.training.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task

SET, NUMBER = DECODERS["multi_label"], DECODERS["regression"]
THRESHOLDS = {"labels": {"third": 0.9, "first": 0.2, "second": 0.5}}
LENGTH = 16


def drawn() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, (50, 3)).astype(np.float32)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_every_label_over_its_threshold_is_predicted_with_its_score(temperature) -> None:
    logits = drawn()
    threshold = SET.read_threshold(THRESHOLDS, LABELS)
    scores = 1 / (1 + np.exp(-logits.astype(float) / temperature))
    for given, least in ((None, [0.5] * 3), (threshold, [0.2, 0.5, 0.9])):
        answers = SET.decode(logits, LABELS, given, temperature)
        for own, answer in zip(scores, answers, strict=True):
            expected = sorted(
                (
                    (float(score), name)
                    for score, name, cut in zip(own, LABELS, least, strict=True)
                    if score > cut
                ),
                reverse=True,
            )
            assert [each["label"] for each in answer["labels"]] == [name for _, name in expected]
            assert [each["score"] for each in answer["labels"]] == pytest.approx([s for s, _ in expected])
        assert [SET.decode_one(row, LABELS, given, temperature) for row in logits] == answers
    assert any(not each["labels"] for each in answers), "no label is an answer"
    ranked = SET.ranked(logits, LABELS, threshold, 2, temperature)
    assert [[each["label"] for each in row] for row in ranked] == [
        [LABELS[i] for i in np.argsort(-row)[:2]] for row in logits
    ]
    np.testing.assert_array_equal(MULTI_LABEL.predictions(logits) > 0, scores > 0.5)


def test_large_logits_have_finite_scores() -> None:
    (answer,) = SET.decode(np.array([[1e4, -1e4, 800.0]], np.float32), LABELS, None)
    assert answer == {"labels": [{"label": "first", "score": 1.0}, {"label": "third", "score": 1.0}]}


def test_numbers_are_answered_as_they_are() -> None:
    logits = drawn()
    assert NUMBER.decode(logits[:, :1], ["score"], None) == [{"value": float(each)} for each in logits[:, 0]]
    assert NUMBER.decode(logits[:1], LABELS, None) == [
        {"values": dict(zip(LABELS, map(float, logits[0]), strict=True))}
    ]
    np.testing.assert_array_equal(REGRESSION.predictions(logits), logits)
    with pytest.raises(InputError, match="top_k is 3"):
        NUMBER.ranked(logits, LABELS, None, 3)


def test_an_artifact_applies_its_thresholds(tmp_path) -> None:
    folder = tiny_artifact(tmp_path / "model", task="multi_label", threshold=THRESHOLDS, temperature=2.0)
    classifier = TextClassifier.load(folder)
    assert isinstance(classifier.threshold, LabelThresholds)
    logits = classifier.logits(TEXTS, batch_size=1)
    scores = 1 / (1 + np.exp(-logits.astype(float) / 2))
    answers = classifier(TEXTS, batch_size=1)
    for own, answer in zip(scores, answers, strict=True):
        found = {each["label"]: each["score"] for each in answer["labels"]}
        expected = {
            name: score for name, score in zip(LABELS, own, strict=True) if score > THRESHOLDS["labels"][name]
        }
        assert found == pytest.approx(expected)
    assert classifier(TEXTS[0]) == answers[0]
    assert classifier(" ")["blank"] is True
    assert [each["label"] for each in classifier(TEXTS[0], top_k=3)] == [
        LABELS[i] for i in np.argsort(-logits[0])
    ]
    assert not classifier.decoder.names_one


@pytest.mark.parametrize(
    ("task", "threshold"),
    [
        ("multi_label", {"labels": {"first": 0.5, "second": 0.5}}),
        ("multi_label", {"labels": {"first": 0.5, "second": 0.5, "third": 0.5, "fourth": 0.5}}),
        ("multi_label", {"labels": {"first": 0.5, "second": 0.5, "third": 1.0}}),
        ("multi_label", {"labels": {"first": 0.5, "second": 0.5, "third": 0}}),
        ("multi_label", {"labels": {"first": 0.5, "second": 0.5, "third": True}}),
        ("multi_label", {"labels": {"first": 0.5, "second": 0.5, "third": "0.5"}}),
        ("multi_label", {"labels": [0.5, 0.5, 0.5]}),
        ("multi_label", [0.5, 0.5, 0.5]),
        ("multi_label", 0.5),
        ("multi_label", {"score": "energy", "value": 1.0, "label": "oos"}),
        ("single_label", THRESHOLDS),
        ("regression", THRESHOLDS),
        ("regression", {"score": "energy", "value": 1.0, "label": "oos"}),
    ],
)
def test_damaged_thresholds_are_one_clear_error(task, threshold, tmp_path) -> None:
    folder = tiny_artifact(tmp_path / "model", task=task, threshold=threshold)
    with pytest.raises(ArtifactError, match=r"distiltune\.json: threshold is") as raised:
        TextClassifier.load(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_probes_are_written_and_run(task, tmp_path) -> None:
    folder = tiny_artifact(tmp_path / "model", task=task)
    write_probes(folder)
    assert run_probes(folder) == {
        "num_probes": 32,
        "num_changed": 0,
        "max_abs_diff": pytest.approx(0, abs=1e-6),
    }


NAMES = {"multi_label": [f"label_{n}" for n in range(4)], "regression": ["joy", "size", "age", "heat"]}
OWN_TEXTS = [text for text, _ in tiny_data()][::5]


def truth(task: Task) -> list[Any]:
    random = np.random.default_rng(2)
    if task is REGRESSION:
        return random.normal(size=(len(OWN_TEXTS), 4)).tolist()
    return (random.random((len(OWN_TEXTS), 4)) < 0.5).astype(int).tolist()


@pytest.fixture(scope="module", params=[MULTI_LABEL, REGRESSION], ids=lambda task: task.name)
def exported(request, tmp_path_factory, plain_graph) -> tuple[Task, Path, Path]:
    """Return a task with a tiny checkpoint and its variant; both tasks share one graph."""
    task = request.param
    folder = tmp_path_factory.mktemp(task.name)
    graph = plain_graph(tiny_classifier(folder / "any"), LENGTH)
    student = tiny_classifier(folder / "student", label_names=NAMES[task.name])
    build_variant(
        "onnx",
        student,
        folder / "onnx",
        config=ExportConfig(),
        max_length=LENGTH,
        task=task.name,
        base_onnx=graph,
        validation=ValidationTexts(
            OWN_TEXTS, truth(task), label_thresholds=LabelThresholdsConfig(min_texts=1)
        ),
    )
    return task, student, folder / "onnx"


def test_the_runtime_answers_as_the_pipeline_of_transformers(exported, tmp_path) -> None:
    task, student, variant = exported
    model, tokenizer = load_classifier(student, task)
    model.config.problem_type = task.problem_type
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu", top_k=None)
    expected = classify(OWN_TEXTS, truncation=True, max_length=LENGTH)
    (tmp_path / "bare").mkdir()
    for file in variant.iterdir():
        (tmp_path / "bare" / file.name).write_bytes(file.read_bytes())
    settings = json.loads((variant / "distiltune.json").read_text())
    (tmp_path / "bare/distiltune.json").write_text(
        json.dumps(settings | {"threshold": None, "temperature": 1.0})
    )
    classifier = TextClassifier.load(tmp_path / "bare")
    for answer, row in zip(classifier(OWN_TEXTS), expected, strict=True):
        scores = {each["label"]: each["score"] for each in row}
        if task is REGRESSION:
            assert answer["values"] == pytest.approx(scores, abs=1e-5)
        else:
            found = {each["label"]: each["score"] for each in answer["labels"]}
            assert found == pytest.approx({n: s for n, s in scores.items() if s > 0.5}, abs=1e-5)


def test_a_variant_records_its_task_temperature_and_thresholds(exported) -> None:
    task, _, variant = exported
    settings = json.loads((variant / "distiltune.json").read_text())
    config = json.loads((variant / "config.json").read_text())
    assert (settings["task"], config["problem_type"]) == (task.name, task.problem_type)
    assert settings["labels"] == [config["id2label"][str(n)] for n in range(4)] == NAMES[task.name]
    if task is REGRESSION:
        assert settings["threshold"] is None and "temperature" not in settings
        return
    assert settings["temperature"] > 0 and set(settings["threshold"]["labels"]) == set(NAMES[task.name])
    classifier = TextClassifier.load(variant)
    logits = classifier.logits(OWN_TEXTS, batch_size=1)
    given = MULTI_LABEL.predictions(logits - classifier.threshold.cuts(classifier.temperature))
    labels = np.array(truth(task))
    fitted = MULTI_LABEL.metrics(given, labels)["macro_f1"]
    plain = MULTI_LABEL.metrics(MULTI_LABEL.predictions(logits), labels)["macro_f1"]
    assert fitted is not None and plain is not None and fitted > plain
    answers = [{each["label"] for each in answer["labels"]} for answer in classifier(OWN_TEXTS, batch_size=1)]
    assert answers == [{NAMES[task.name][i] for i in np.flatnonzero(row > 0)} for row in given]


def test_scores_are_fitted_again_for_another_goal(exported) -> None:
    task, _, variant = exported
    if task is REGRESSION:
        return
    before = json.loads((variant / "distiltune.json").read_text())
    for config in (LabelThresholdsConfig(goal="recall", at_least=1.0, min_texts=1), None):
        refit_scores(variant, ValidationTexts(OWN_TEXTS, truth(task), label_thresholds=config), num_threads=1)
        after = json.loads((variant / "distiltune.json").read_text())
        assert after["temperature"] == pytest.approx(before["temperature"])
        assert after["threshold"] != before["threshold"]
    assert after["threshold"] is None
    validation = ValidationTexts(OWN_TEXTS, truth(task), label_thresholds=LabelThresholdsConfig(min_texts=1))
    refit_scores(variant, validation, num_threads=1)
    assert json.loads((variant / "distiltune.json").read_text()) == before


def test_the_first_answer_of_one_label_is_the_best() -> None:
    assert SINGLE_LABEL.has_classes and DECODERS["single_label"].names_one


def test_large_numbers_may_differ_by_a_share_of_their_size() -> None:
    """In 32 bits a price of 30,000 is rounded to 0.002, unlike logits, which are small."""
    parity = Parity(0.02, [(1, 8)], largest=30_000.0)
    check_tolerance("onnx", parity, 1e-3, relative=True)
    with pytest.raises(ExportError, match=r"differ from the student's by up to 0\.02"):
        check_tolerance("onnx", parity, 1e-3)
    with pytest.raises(ExportError, match="export is faulty"):
        check_tolerance("onnx", Parity(0.02, [(1, 8)], largest=0.5), 1e-3, relative=True)
