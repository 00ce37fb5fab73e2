"""Whole jobs with several labels and with numbers, from the command line: what they learn, seal and show."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_job import COMMAND, JOB, environment

from distiltune.export.benchmark.accuracy.predictions import unpack_answers
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.training.tasks import TASKS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WORDS = {"sports": "match", "politics": "vote", "weather": "rain"}
FILLERS = ["today", "again", "people say", "in the north", "we heard", "at noon", "for once", "early"]
JOBS: dict[str, dict[str, Any]] = {
    "multi_label": {"data": {"source": "files", "train": "data.csv", "label_columns": [*WORDS]}},
    "regression": {
        "task": "regression",
        "data": {"source": "files", "train": "data.csv", "label_column": "price"},
    },
}


def write_data(path: Path) -> None:
    """Texts with the words of their topics; the price, in thousands, is a sum over the words."""
    random, lines = np.random.default_rng(0), [",".join(["text", *WORDS, "price"])]
    for _ in range(360):
        own = random.random(3) < 0.4
        words = [word for word, is_own in zip(WORDS.values(), own, strict=True) if is_own]
        text = " ".join(random.permutation([*words, *random.choice(FILLERS, 3)]))
        price = 20_000 + 4_000 * own @ [1, 2, 3] + random.normal(0, 300)
        lines.append(",".join([text, *(str(int(each)) for each in own), f"{price:.1f}"]))
    path.write_text("\n".join(lines) + "\n")


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


@pytest.fixture(scope="module", params=list(JOBS))
def home(request, tmp_path_factory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    write_data(folder / "data.csv")
    scratch = {**JOB["teacher"]["scratch"], "num_train_epochs": 16, "learning_rate": 2e-3, "batch_size": 16}
    job = {
        **JOB,
        **JOBS[request.param],
        "teacher": {"scratch": scratch},
        "training": {"max_length": 24, "learning_rate": 2e-3, "batch_size": 16},
        "search": {
            "num_trials": 2,
            "space": {"alpha": 0.5, "num_train_epochs": {"type": "int", "low": 9, "high": 10}},
        },
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    done = distiltune("run", "job.yaml", "--run-id", "one", cwd=folder)
    assert done.returncode == 0, done.stderr
    return request.param, folder


def stage(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"distiltune-runs/runs/one/stages/{name}.json").read_text())["result"]


def test_the_teacher_and_the_trials_learn_by_the_tasks_metric(home) -> None:
    name, folder = home
    metric = f"validation_{TASKS[name].goal[0]}"
    teacher, search = stage(folder, "teacher"), stage(folder, "search")
    assert teacher[metric] == max(each[metric] for each in teacher["epochs"]) > 0.8
    assert "validation_accuracy" not in teacher
    assert search["best"]["value"] == max(trial["metrics"][metric] for trial in search["trials"]) > 0.75
    for trial in search["trials"]:
        assert {f"validation_{each}" for each in TASKS[name].metric_modes} <= set(trial["metrics"])
    if name == "regression":
        assert teacher["validation_rmse"] < 4_500, (
            "in the unit of the data, whose standard deviation is 7,000"
        )


def test_every_model_is_judged_by_the_metric_on_its_answers(home) -> None:
    name, folder = home
    measured, gate = stage(folder, "benchmark"), stage(folder, "gate")
    metric = TASKS[name].metric(TASKS[name].goal[0], measured["label_names"])
    for row, judged in zip(measured["measurements"], gate["variants"], strict=True):
        for split in ("validation", "test"):
            answers = unpack_answers(row["answers"][split]["without_threshold"])
            value = metric.measure(answers.predictions, answers.labels)
            assert judged["metric"][split] == pytest.approx(value)
            assert judged["metrics"][metric.name][split] == pytest.approx(value)
        assert judged["accuracy"] is None
    chosen = next(each for each in gate["variants"] if each["name"] == gate["chosen"])
    assert chosen["against_student"]["method"] == "bootstrap"
    assert gate["against_teacher"]["metric"] == metric.name
    assert (gate["against_teacher"]["changed"] is None) == (name == "regression")
    assert bool(gate["breakdown"]["labels"]) == (name == "multi_label")


def test_the_artifact_answers(home) -> None:
    name, folder = home
    artifact = folder / "distiltune-runs/runs/one/artifact"
    classifier = TextClassifier.load(artifact)
    assert classifier.task == name
    low, high = (classifier(text) for text in ("today again people say", "match vote rain at noon today"))
    if name == "regression":
        assert 14_000 < low["value"] < 30_000 < high["value"] < 50_000
    else:
        assert set(classifier.threshold.labels) == set(WORDS)
        assert [each["label"] for each in classifier("rain today")["labels"]] == ["weather"]
        assert len(high["labels"]) > 1
    card = (artifact / "README.md").read_text()
    assert ("Text regressor" in card) == (name == "regression")
    done = distiltune("verify", str(artifact), cwd=folder)
    assert done.returncode == 0, done.stderr


def test_what_is_shown_has_the_metric_and_no_accuracy(home) -> None:
    name, folder = home
    title = TASKS[name].metric(TASKS[name].goal[0], ()).title
    shown = distiltune("show", "one", cwd=folder)
    assert shown.returncode == 0 and f"validation {title}" in shown.stdout, shown.stderr
    assert title in distiltune("runs", cwd=folder).stdout
    report = (folder / "distiltune-runs/runs/one/report/report.md").read_text()
    header = next(line for line in report.splitlines() if line.startswith("| variant"))
    assert title in header and "accuracy |" not in header.replace("subset accuracy |", "")
    checked = distiltune("check", "job.yaml", cwd=folder)
    assert checked.returncode == 0, checked.stderr
    summary = "training texts each" if name == "multi_label" else "price from"
    assert summary in checked.stdout, checked.stdout
    evaluated = distiltune(
        "evaluate", "one", "data.csv", "--json",
        *(part for each in (WORDS if name == "multi_label" else ["price"]) for part in ("--label-column", each)),
        cwd=folder,
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["metrics"][TASKS[name].goal[0]] > 0.75


def test_thresholds_of_another_goal_are_fitted_without_exporting_again(home) -> None:
    name, folder = home
    if name != "multi_label":
        return
    goal = "export.label_thresholds=null"  # one half
    done = distiltune("run", "job.yaml", "--run-id", "two", "--set", goal, cwd=folder)
    assert done.returncode == 0, done.stderr
    one, two = (
        json.loads((folder / f"distiltune-runs/runs/{run}/artifact/distiltune.json").read_text())
        for run in ("one", "two")
    )
    assert one["threshold"] != two["threshold"]
    text = json.loads((folder / "distiltune-runs/runs/two/stages/export.json").read_text())["text"]
    assert "of run one" in text


@pytest.mark.parametrize("form", ["lists", "separated"])
def test_every_form_of_several_labels_is_the_same_job(form, home) -> None:
    name, folder = home
    if name != "multi_label":
        return
    with (folder / "data.csv").open(newline="") as file:
        rows = [(row["text"], [each for each in WORDS if row[each] == "1"]) for row in csv.DictReader(file)]
    if form == "lists":
        lines = [json.dumps({"text": text, "labels": labels}) for text, labels in rows]
        keys, path = {"label_column": "labels"}, folder / "lists.jsonl"
    else:
        lines = ["text,labels", *(f"{text},{';'.join(labels)}" for text, labels in rows)]
        keys, path = {"label_column": "labels", "label_separator": ";"}, folder / "separated.csv"
    path.write_text("\n".join(lines) + "\n")
    data = json.dumps({"source": "files", "train": path.name, **keys})
    done = distiltune(
        "run", "job.yaml", "--run-id", form, "--set", "task=multi_label", "--set", f"data={data}", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    for done_before in ("teacher", "search"):
        text = json.loads((folder / f"distiltune-runs/runs/{form}/stages/{done_before}.json").read_text())[
            "text"
        ]
        assert "of run one" in text, "labels and texts are the same, so nothing is trained again"


@pytest.mark.parametrize(
    ("kind", "own", "variant"),
    [
        ("convolution", "pooling: max", "onnx-integer-embeddings-4bit"),
        ("static", "pooling: mean", "onnx-int8"),
    ],
)
def test_students_without_attention_learn_every_task(kind, own, variant, home) -> None:
    _, folder = home
    done = distiltune(
        "run", "job.yaml", "--run-id", kind, "--set", f"student={{kind: {kind}, hidden_size: 16, {own}}}",
        "--set", f"export.variants=[onnx, {variant}]", "--set", "search.num_trials=1", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = json.loads((folder / f"distiltune-runs/runs/{kind}/report/report.json").read_text())
    assert variant in json.dumps(measured)
    search = json.loads((folder / f"distiltune-runs/runs/{kind}/stages/search.json").read_text())["result"]
    assert search["best"]["value"] > 0.5


# ---- Numbers of pairs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paired(tmp_path_factory) -> Path:
    """A finished run on pairs of texts, of which the number is the difference of their words' values."""
    folder = tmp_path_factory.mktemp("paired")
    random, lines = np.random.default_rng(1), ["first,second,relatedness"]
    values = dict(zip(WORDS.values(), (1.0, 2.0, 4.0), strict=True))
    for _ in range(400):
        first, second = (random.choice([*values], 1)[0] for _ in range(2))
        one, other = (
            " ".join(random.permutation([each, *random.choice(FILLERS, 2)])) for each in (first, second)
        )
        number = 3 + values[first] - 0.5 * values[second] + random.normal(0, 0.1)
        lines.append(f"{one},{other},{number:.2f}")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    scratch = {**JOB["teacher"]["scratch"], "num_train_epochs": 16, "learning_rate": 2e-3, "batch_size": 16}
    job = {
        **JOB,
        "task": "regression",
        "data": {
            "source": "files", "train": "data.csv", "text_column": "first", "text_pair_column": "second",
            "label_column": "relatedness",
        },
        "teacher": {"scratch": scratch},
        "training": {"max_length": 24, "learning_rate": 2e-3, "batch_size": 16},
        "search": {"num_trials": 1, "space": {"alpha": 0.5, "num_train_epochs": 10}},
        "export": {**JOB["export"], "variants": ["onnx"]},
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    done = distiltune("run", "job.yaml", "--run-id", "one", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_number_of_a_pair_is_learned_sealed_and_answered(paired: Path) -> None:
    assert stage(paired, "teacher")["validation_pearson"] > 0.8
    assert stage(paired, "search")["best"]["value"] > 0.75
    artifact = paired / "distiltune-runs/runs/one/artifact"
    classifier = TextClassifier.load(artifact)
    assert classifier.task == "regression" and classifier.takes_pairs and classifier.reads_token_types
    pairs = [
        (f"today {one} again", f"early {other} at noon") for one in WORDS.values() for other in WORDS.values()
    ]
    found = np.array([each["value"] for each in classifier(pairs)])
    swapped = np.array([classifier((second, first))["value"] for first, second in pairs])
    values = dict(zip(WORDS.values(), (1.0, 2.0, 4.0), strict=True))
    expected = [3 + values[one.split()[1]] - 0.5 * values[other.split()[1]] for one, other in pairs]
    assert np.corrcoef(found, expected)[0, 1] > 0.8
    assert np.abs(found - swapped).max() > 0.5, "the order of the texts matters"
    predicted = distiltune("predict", str(artifact), *pairs[0], "--json", cwd=paired)
    assert predicted.returncode == 0, predicted.stderr
    assert json.loads(predicted.stdout)[0]["value"] == pytest.approx(classifier(pairs[0])["value"], abs=1e-4)
    verified = distiltune("verify", str(artifact), cwd=paired)
    assert verified.returncode == 0, verified.stderr


def small_run(folder: Path, lines: list[str], **sections: Any) -> TextClassifier:
    """Run a job on a file of these lines, and open its artifact."""
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    scratch = {**JOB["teacher"]["scratch"], "num_train_epochs": 16, "learning_rate": 2e-3, "batch_size": 16}
    job = {
        **JOB,
        "teacher": {"scratch": scratch},
        "training": {"max_length": 24, "learning_rate": 2e-3, "batch_size": 16},
        "search": {"num_trials": 1, "space": {"alpha": 0.5, "num_train_epochs": 10}},
        "export": {**JOB["export"], "variants": ["onnx"]},
        **sections,
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    done = distiltune("run", "job.yaml", "--run-id", "one", cwd=folder)
    assert done.returncode == 0, done.stderr
    return TextClassifier.load(folder / "distiltune-runs/runs/one/artifact")


def test_several_numbers_are_learned_sealed_and_answered(tmp_path: Path) -> None:
    random, lines = np.random.default_rng(2), ["text,price,size"]
    for _ in range(360):
        own = random.random(3) < 0.4
        words = [word for word, is_own in zip(WORDS.values(), own, strict=True) if is_own]
        text = " ".join(random.permutation([*words, *random.choice(FILLERS, 3)]))
        lines.append(f"{text},{100 + 10 * own @ [1, 2, 3]:.1f},{0.5 - 0.1 * own @ [3, 0, 1]:.2f}")
    data = {"source": "files", "train": "data.csv", "label_columns": ["price", "size"]}
    classifier = small_run(tmp_path, lines, task="regression", data=data)
    low, high = (classifier(text)["values"] for text in ("today again", "match vote rain today"))
    assert set(low) == set(high) == {"price", "size"}
    assert high["price"] - low["price"] > 30 and high["size"] - low["size"] < -0.2


def test_several_labels_of_a_pair_are_learned_sealed_and_answered(tmp_path: Path) -> None:
    random, rows = np.random.default_rng(3), []
    for _ in range(460):
        own = random.random((2, 3)) < 0.3
        texts = [
            " ".join(random.permutation([*np.array([*WORDS.values()])[each], *random.choice(FILLERS, 2)]))
            for each in own
        ]
        rows.append(((texts[0], texts[1]), own.any(axis=0)))
    lines = [",".join([*pair, *(str(int(each)) for each in labels)]) for pair, labels in rows[:400]]
    data = {
        "source": "files", "train": "data.csv", "text_column": "first", "text_pair_column": "second",
        "label_columns": [*WORDS],
    }  # fmt: skip
    classifier = small_run(tmp_path, [",".join(["first", "second", *WORDS]), *lines], data=data)
    assert classifier.task == "multi_label" and classifier.takes_pairs
    found = [
        {each["label"] for each in answer["labels"]}
        for answer in classifier([pair for pair, _ in rows[400:]])
    ]
    right = [
        (topic in own) == is_set
        for own, (_, labels) in zip(found, rows[400:], strict=True)
        for topic, is_set in zip(WORDS, labels, strict=True)
    ]
    assert np.mean(right) > 0.75
