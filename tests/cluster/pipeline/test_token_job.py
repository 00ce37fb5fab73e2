"""A whole job of entities, from the command line: what it learns, judges, seals and shows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_job import COMMAND, JOB, environment
from taggers import TAGS, TYPES, conll, entities, sentences

from distiltune.export.benchmark.accuracy.predictions import unpack_answers
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.training.tasks import TOKEN_CLASSIFICATION

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TEXTS = ["ann goes to berlin now", "is new york big ?", "nobody is there"]


def distiltune(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(),
        check=False,
        timeout=400,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    for name, count in (("train", 160), ("validation", 60), ("test", 60)):
        (folder / f"{name}.conll").write_text(conll(count))
    (folder / "more.txt").write_text("\n".join(f"{' '.join(tokens)} too" for tokens, _ in sentences(40)))
    scratch = {**JOB["teacher"]["scratch"], "num_train_epochs": 12, "learning_rate": 3e-3, "batch_size": 16}
    job = {
        **JOB,
        "data": {"source": "files", **{name: f"{name}.conll" for name in ("train", "validation", "test")},
                 "unlabelled": {"path": "more.txt"}},
        "teacher": {"scratch": {**scratch, "vocab_size": 120}},
        "training": {"max_length": 24, "learning_rate": 3e-3, "batch_size": 16},
        "search": {"num_trials": 2, "space": {"alpha": 0.5, "num_train_epochs": {"type": "int", "low": 6, "high": 8}}},
        "export": {**JOB["export"], "variants": ["onnx", "onnx-int8", "onnx-fused", "student-pytorch-int8"]},
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    done = distiltune("run", "job.yaml", "--run-id", "one", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def stage(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"distiltune-runs/runs/one/stages/{name}.json").read_text())["result"]


def test_teacher_and_trials_learn_entities(home: Path) -> None:
    teacher, search, logits = (stage(home, name) for name in ("teacher", "search", "logits"))
    metric = "validation_entity_f1"
    assert teacher[metric] == max(each[metric] for each in teacher["epochs"]) > 0.9
    assert search["best"]["value"] == max(trial["metrics"][metric] for trial in search["trials"]) > 0.8
    assert all("validation_token_accuracy" in trial["metrics"] for trial in search["trials"])
    assert logits["texts"]["unlabelled"] > 5, "unlabelled texts are learned from the teacher's logits"


def test_every_model_is_judged_by_the_entities_that_it_finds(home: Path) -> None:
    measured, gate = stage(home, "benchmark"), stage(home, "gate")
    metric = TOKEN_CLASSIFICATION.metric("entity_f1", TAGS)
    assert measured["label_names"] == TAGS
    lengths = set()
    for row, judged in zip(measured["measurements"], gate["variants"], strict=True):
        for split in ("validation", "test"):
            answers = unpack_answers(row["answers"][split]["without_threshold"])
            lengths.add(answers.predictions.shape)
            assert judged["metric"][split] == pytest.approx(
                metric.measure(answers.predictions, answers.labels)
            )
    assert len(lengths) == 1, "the words are the same for all models"
    chosen = next(each for each in gate["variants"] if each["name"] == gate["chosen"])
    assert chosen["against_student"]["method"] == "bootstrap" and chosen["metric"]["test"] > 0.8
    assert {each["label"] for each in gate["breakdown"]["labels"]} == {"city", "name"}
    assert gate["against_teacher"]["metric"] == "entity_f1"


def test_the_measured_answers_are_those_of_the_artifact(home: Path) -> None:
    chosen = stage(home, "gate")["chosen"]
    row = next(each for each in stage(home, "benchmark")["measurements"] if each["name"] == chosen)
    answers = unpack_answers(row["answers"]["test"]["without_threshold"])
    classifier = TextClassifier.load(home / "distiltune-runs/runs/one/artifact")
    texts = [" ".join(tokens) for tokens, _ in sentences(60)]
    found = [classifier(text) for text in texts]
    numbers = {"city": 0, "name": 1}
    own = [[[each["start"], each["end"], numbers[each["label"]]] for each in answer] for answer in found]
    assert (TOKEN_CLASSIFICATION.measured_labels(texts, own) == answers.predictions).all()


def test_what_is_shown_is_about_entities(home: Path) -> None:
    assert "validation entity F1" in distiltune("show", "one", cwd=home).stdout
    report = (home / "distiltune-runs/runs/one/report/report.md").read_text()
    assert "entity F1" in report and "| city |" in report
    card = (home / "distiltune-runs/runs/one/artifact/README.md").read_text()
    assert "pipeline_tag: token-classification" in card and "entity F1" in card
    checked = distiltune("check", "job.yaml", cwd=home)
    assert checked.returncode == 0 and "texts" in checked.stdout, checked.stderr
    verified = distiltune("verify", "distiltune-runs/runs/one/artifact", cwd=home)
    assert verified.returncode == 0, verified.stderr
    predicted = json.loads(distiltune("predict", "one", *TEXTS, "--json", cwd=home).stdout)
    assert [each["text"] for each in predicted] == TEXTS and predicted[2]["spans"] == []
    evaluated = distiltune("evaluate", "one", "test.conll", "--json", cwd=home)
    assert evaluated.returncode == 0, evaluated.stderr
    printed = json.loads(evaluated.stdout)
    assert printed["metrics"]["entity_f1"] > 0.8 and {each["label"] for each in printed["labels"]} == {
        "city",
        "name",
    }


def test_a_changed_gate_reuses_every_measurement(home: Path) -> None:
    given = ("--set", "export.choose.max_drop_from_student=0.5")
    again = distiltune("run", "job.yaml", "--run-id", "two", *given, cwd=home)
    assert again.returncode == 0, again.stderr
    measured = json.loads((home / "distiltune-runs/runs/two/stages/benchmark.json").read_text())["result"]
    assert all(each["reused"] for each in measured["measurements"])


@pytest.mark.parametrize("form", ["tokens", "spans"])
def test_every_form_of_entities_is_the_same_job(form: str, home: Path) -> None:
    for name, count in (("train", 160), ("validation", 60), ("test", 60)):
        rows = [_row(form, tokens, tags) for tokens, tags in sentences(count)]
        (home / f"{name}-{form}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    columns = ("tokens", "tags") if form == "tokens" else ("text", "spans")
    data = {
        **{name: f"{name}-{form}.jsonl" for name in ("train", "validation", "test")},
        **dict(zip(("text_column", "label_column"), columns, strict=True)),
        "source": "files", "unlabelled": {"path": "more.txt"},
    }  # fmt: skip
    done = distiltune(
        "run", "job.yaml", "--run-id", form, "--set", "task=token_classification",
        "--set", f"data={json.dumps(data)}", cwd=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for done_before in ("teacher", "search"):
        text = json.loads((home / f"distiltune-runs/runs/{form}/stages/{done_before}.json").read_text())[
            "text"
        ]
        assert "of run one" in text, "entities and texts are the same, so nothing is trained again"


def _row(form: str, tokens: list[str], tags: list[str]) -> dict[str, Any]:
    if form == "tokens":
        return {"tokens": tokens, "tags": tags}
    spans = [
        {"start": start, "end": end, "label": TYPES[kind]} for start, end, kind in entities(tokens, tags)
    ]
    return {"text": " ".join(tokens), "spans": spans}
