"""Whole jobs on pairs of texts, from the command line: a family with token types, one without, and logits of a file."""

import csv
import json
import subprocess

import numpy as np
import pytest
import yaml
from pairs import LABELS, MAX_LENGTH, logits_of, pair_classifier, write_pairs
from small_job import COMMAND, JOB, environment

from distiltune.export.runtime.classifier import TextClassifier
from distiltune.training.checkpoints.load import load_classifier
from distiltune.training.tasks import SINGLE_LABEL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SEARCH = {
    "num_trials": 1,
    "space": {
        "alpha": {"type": "fixed", "value": 0.0},
        "num_train_epochs": {"type": "fixed", "value": 3},
    },
}


def distiltune(*arguments, cwd):
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(),
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(home, name, **sections):
    data = {
        "source": "files",
        "train": "data.csv",
        "text_column": "sentence1",
        "text_pair_column": "sentence2",
    }
    values = {
        **JOB,
        "data": data,
        "training": {"max_length": MAX_LENGTH, "learning_rate": 1e-4, "batch_size": 16},
        "search": SEARCH,
        **sections,
    }
    values["data"] = {**data, **sections.get("data", {})}
    (home / f"{name}.yaml").write_text(yaml.safe_dump(values))
    distiltune("run", f"{name}.yaml", "--run-id", name, "--set", "storage.reuse=false", cwd=home)
    return home / "distiltune-runs/runs" / name


def stage(folder, name):
    return json.loads((folder / f"stages/{name}.json").read_text())["result"]


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return [((row["sentence1"], row["sentence2"]), row["label"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    pair_classifier(folder / "teacher")
    write_pairs(folder / "data.csv", folder / "teacher", 240)
    return folder


@pytest.fixture(scope="module")
def bert(home):
    more = {"augmentation": {"masked": {"count": 20}, "spliced": {"count": 20}, "dropped": {"count": 20}}}
    variants = ["onnx", "onnx-int8", "onnx-static-minmax"]
    return run(
        home,
        "bert",
        data=more,
        teacher={"checkpoint": "./teacher"},
        student={"layers": [0, 1]},
        export={"variants": variants, "choose": {"max_drop_from_student": 1.0}},
    )


def test_types_are_read_from_the_teacher_to_the_artifact(home, bert):
    model, tokenizer = load_classifier(home / "teacher", SINGLE_LABEL)
    pairs, labels = zip(*read(home / "data.csv"), strict=True)
    numbers = np.array([LABELS.index(label) for label in labels])
    without = logits_of(model, tokenizer, list(pairs), with_types=False).argmax(axis=1)
    assert (without == numbers).mean() < 0.75  # so wrong would the job be without them
    assert stage(bert, "teacher")["validation_accuracy"] == 1.0
    assert stage(bert, "search")["best"]["validation_accuracy"] > 0.9
    measured = {row["name"]: row for row in stage(bert, "benchmark")["measurements"]}
    assert measured["teacher-pytorch"]["accuracy"] == 1.0
    # Of 24 texts; in bfloat16, on processors that multiply it, the student learns other weights.
    assert all(measured[name]["accuracy"] > 0.85 for name in ("student-pytorch", "onnx"))
    assert all(measured[name]["accuracy"] > 0.8 for name in ("onnx-int8", "onnx-static-minmax"))
    assert isinstance(measured["onnx"]["query"], list)
    artifact = TextClassifier.load(bert / "artifact")
    assert artifact.takes_pairs and artifact.reads_token_types
    assert (np.array([each["label"] for each in artifact(list(pairs))]) == np.array(labels)).mean() > 0.85


def test_the_run_is_shown_and_its_artifact_used(home, bert):
    assert "bert" in distiltune("show", "bert", cwd=home)
    assert (bert / "report/report.md").read_text().count("|") > 10
    assert "its second text" in (bert / "artifact/README.md").read_text()
    (pair, label), *_ = read(home / "data.csv")
    shown = distiltune("predict", bert / "artifact", *pair, cwd=home)
    assert shown.split("\t")[0] in LABELS and label in LABELS
    columns = ["--text-column", "sentence1", "--text-pair-column", "sentence2"]
    found = json.loads(distiltune("evaluate", bert / "artifact", "data.csv", *columns, "--json", cwd=home))
    assert found["accuracy"] > 0.85
    verified = json.loads(distiltune("verify", bert / "artifact", "--json", cwd=home))
    assert verified["num_changed"] == 0


def test_a_family_without_types_and_one_that_is_trained_here(home):
    pair_classifier(home / "distilbert", "distilbert")
    folder = run(
        home,
        "distilbert",
        teacher={"fine_tune": {"checkpoint": "./distilbert", "num_train_epochs": 2, "learning_rate": 1e-3}},
        student={"layers": [0]},
    )
    assert not TextClassifier.load(folder / "artifact").reads_token_types
    assert TextClassifier.load(folder / "artifact").takes_pairs


def test_a_convolution_over_pairs_learns_from_a_file_of_logits(home):
    columns = ["--text-column", "sentence1", "--text-pair-column", "sentence2", "--max-length", MAX_LENGTH]
    distiltune("label", "data.csv", "--teacher", "./teacher", "--out", "teacher.parquet", *columns, cwd=home)
    folder = run(
        home,
        "file",
        teacher={"logits": "teacher.parquet"},
        student={"kind": "convolution", "num_filters": 16, "hidden_size": 16, "classifier_size": 16},
    )
    teacher = stage(folder, "teacher")
    assert (teacher["kind"], teacher["validation_accuracy"]) == ("logits", 1.0)
    rows = {row["name"]: row for row in stage(folder, "benchmark")["measurements"]}
    assert rows["teacher-pytorch"]["accuracy"] == 1.0
    assert rows["teacher-pytorch"]["latency_ms"] is None
    assert TextClassifier.load(folder / "artifact").takes_pairs
    report = (folder / "report/report.md").read_text()
    assert "Teacher: a file of logits" in report and "192 of 192 train" in report
    assert "file" in distiltune("show", "file", cwd=home)


def test_a_checkpoint_learns_what_a_file_has_and_the_rest_from_labels(home):
    rows = read(home / "data.csv")
    with (home / "llm.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "text_pair", "label", "confidence"])
        writer.writerows([*pair, label, 0.9] for pair, label in rows[: len(rows) // 2 * 2 : 2])
    folder = run(
        home,
        "llm",
        teacher={"logits": {"path": "llm.csv", "max_missing": 0.6}},
        student={"checkpoint": "./teacher"},
        search={**SEARCH, "space": {**SEARCH["space"], "alpha": {"type": "fixed", "value": 0.5}}},
    )
    teacher = stage(folder, "teacher")
    assert 0 < teacher["missing"]["train"] < teacher["num_texts"]["train"]
    rows = [row["name"] for row in stage(folder, "benchmark")["measurements"]]
    assert "teacher-pytorch" not in rows  # the file lacks texts of validation and test
    assert "without a row" in json.loads((folder / "stages/teacher.json").read_text())["text"]
    assert stage(folder, "search")["best"]["validation_accuracy"] > 0.9
