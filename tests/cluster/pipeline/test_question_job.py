"""A whole job of questions, from the command line: what it learns, judges, seals and shows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from askers import Row, questions, write_squad
from small_job import COMMAND, JOB, environment

from distiltune.export.benchmark.accuracy.predictions import unpack_answers
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.training.tasks import QUESTION_ANSWERING
from distiltune.training.tasks.spans import scoring

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


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


def longer(rows: list[Row], number: int) -> list[Row]:
    """Rows of contexts with further words before them, so that they have several windows."""
    before = f"Nobody knows why number {number} of the trains is late, and nobody asks. " * 2
    return [
        (question, before + context, [[a + len(before), b + len(before)] for a, b in answers])
        for question, context, answers in rows
    ]


TEST = longer(questions(48, unanswerable=True), 3)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    rows = [row for number in range(3) for row in longer(questions(96, unanswerable=True), number)]
    write_squad(folder / "train.json", rows)
    write_squad(folder / "validation.json", longer(questions(48, unanswerable=True), 4))
    write_squad(folder / "test.json", TEST)
    more = ({"question": row[0], "context": row[1]} for row in longer(questions(24), 7))
    (folder / "more.jsonl").write_text("\n".join(map(json.dumps, more)))
    scratch = {**JOB["teacher"]["scratch"], "num_train_epochs": 14, "learning_rate": 3e-3, "batch_size": 16}
    unlabelled = {"path": "more.jsonl", "text_column": "question", "text_pair_column": "context"}
    job = {
        **JOB,
        "data": {**{name: f"{name}.json" for name in ("train", "validation", "test")}, "unlabelled": unlabelled},
        "teacher": {"scratch": {**scratch, "vocab_size": 140}},
        "training": {"max_length": 40, "learning_rate": 3e-3, "batch_size": 16},
        "search": {"num_trials": 2, "space": {"alpha": 0.5, "num_train_epochs": {"type": "int", "low": 6, "high": 8}}},
        "export": {**JOB["export"], "variants": ["onnx", "onnx-int8", "onnx-static-minmax", "student-pytorch-int8"]},
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    done = distiltune("run", "job.yaml", "--run-id", "one", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def stage(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"distiltune-runs/runs/one/stages/{name}.json").read_text())["result"]


def test_teacher_and_trials_learn_answers(home: Path) -> None:
    teacher, search, logits = (stage(home, name) for name in ("teacher", "search", "logits"))
    assert teacher["validation_f1"] == max(each["validation_f1"] for each in teacher["epochs"]) > 0.8
    assert (
        search["best"]["value"] == max(trial["metrics"]["validation_f1"] for trial in search["trials"]) > 0.7
    )
    assert all("validation_exact_match" in trial["metrics"] for trial in search["trials"])
    assert logits["texts"]["unlabelled"] > 24, "windows of unlabelled questions are learned from the teacher"


def test_every_model_is_judged_by_its_answers(home: Path) -> None:
    measured, gate = stage(home, "benchmark"), stage(home, "gate")
    assert measured["label_names"] == ["start", "end"]
    metric = QUESTION_ANSWERING.metric("f1", ["start", "end"])
    for row, judged in zip(measured["measurements"], gate["variants"], strict=True):
        for split in ("validation", "test"):
            answers = unpack_answers(row["answers"][split]["without_threshold"])
            assert answers.labels is not None and len(answers.predictions) == 48
            assert judged["metric"][split] == pytest.approx(
                metric.measure(answers.predictions, answers.labels)
            )
    chosen = next(each for each in gate["variants"] if each["name"] == gate["chosen"])
    assert chosen["against_student"]["method"] == "bootstrap" and chosen["metric"]["test"] > 0.7
    assert gate["against_teacher"]["metric"] == "f1" and gate["breakdown"]["labels"] == []


def test_the_measured_answers_are_those_of_the_artifact(home: Path) -> None:
    chosen = stage(home, "gate")["chosen"]
    row = next(each for each in stage(home, "benchmark")["measurements"] if each["name"] == chosen)
    answers = unpack_answers(row["answers"]["test"]["without_threshold"])
    classifier = TextClassifier.load(home / "distiltune-runs/runs/one/artifact")
    assert classifier.threshold is not None and len(classifier.windows([TEST[0][:2]])) > 1
    found = [classifier((question, context)) for question, context, _ in TEST]
    words = scoring.words_of_answers([each["answer"] for each in found])
    assert scoring.are_equal(words, answers.predictions).all()
    assert any(not each["answer"] for each in found) and any(each["answer"] for each in found)


def test_what_is_shown_is_about_answers(home: Path) -> None:
    assert "validation F1" in distiltune("show", "one", cwd=home).stdout
    report = (home / "distiltune-runs/runs/one/report/report.md").read_text()
    assert "F1" in report and "exact match" in report and "onfusion" not in report
    artifact = home / "distiltune-runs/runs/one/artifact"
    assert "pipeline_tag: question-answering" in (artifact / "README.md").read_text()
    checked = distiltune("check", "job.yaml", cwd=home)
    assert checked.returncode == 0 and "without an answer" in checked.stdout, checked.stderr
    verified = distiltune("verify", "distiltune-runs/runs/one/artifact", cwd=home)
    assert verified.returncode == 0, verified.stderr
    question, context, _ = TEST[0]
    predicted = json.loads(distiltune("predict", "one", question, context, "--json", cwd=home).stdout)
    assert predicted[0]["text_pair"] == context and predicted[0]["answer"] in context
    evaluated = distiltune("evaluate", "one", "test.json", "--json", cwd=home)
    assert evaluated.returncode == 0, evaluated.stderr
    printed = json.loads(evaluated.stdout)
    assert printed["metrics"]["f1"] > 0.7 and printed["num_texts"] == 48
    refused = distiltune("label", "more.jsonl", "--teacher", str(artifact), "--out", "x.jsonl", cwd=home)
    assert refused.returncode == 2 and "tokens" in refused.stderr


def test_a_changed_gate_reuses_every_measurement(home: Path) -> None:
    given = ("--set", "export.choose.max_drop_from_student=0.5")
    again = distiltune("run", "job.yaml", "--run-id", "two", *given, cwd=home)
    assert again.returncode == 0, again.stderr
    measured = json.loads((home / "distiltune-runs/runs/two/stages/benchmark.json").read_text())["result"]
    assert all(each["reused"] for each in measured["measurements"])


def test_a_student_with_pieces_of_its_own_and_narrower_layers_learns_as_well(home: Path) -> None:
    given = (
        "student={layers: [0, 1], vocabulary: {size: 110}, width: {intermediate_size: 32}}",
        "export.variants=[onnx]",
        "search.num_trials=1",
        "search.space={alpha: 0.3, num_train_epochs: 8}",
        "storage.reuse=true",
    )
    options = [part for each in given for part in ("--set", each)]
    done = distiltune("run", "job.yaml", "--run-id", "small", *options, cwd=home)
    assert done.returncode == 0, done.stderr
    search = json.loads((home / "distiltune-runs/runs/small/stages/search.json").read_text())["result"]
    assert search["best"]["value"] > 0.6


@pytest.mark.parametrize("form", ["columns", "two columns"])
def test_every_form_of_answers_is_read_by_a_job(form: str, home: Path) -> None:
    """SQuAD's columns, and an answer with its place: the questions that have one, since the latter needs it."""
    run_id = form.replace(" ", "-")
    for name, rows in (
        ("train", longer(questions(96), 0)),
        ("validation", longer(questions(48), 4)),
        ("test", TEST),
    ):
        found = [_columns(form, *row) for row in rows if row[2]]
        (home / f"{name}-{run_id}.jsonl").write_text("\n".join(map(json.dumps, found)) + "\n")
    labels = {"label_column": "answers"} if form == "columns" else {"label_columns": ["answer", "start"]}
    data = {
        "source": "files",
        **{name: f"{name}-{run_id}.jsonl" for name in ("train", "validation", "test")},
        **labels,
    }
    done = distiltune(
        "run", "job.yaml", "--run-id", run_id, "--set", "task=question_answering",
        "--set", f"data={json.dumps(data)}", "--set", "search.num_trials=1",
        "--set", "export.variants=[onnx]", cwd=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    classifier = TextClassifier.load(home / f"distiltune-runs/runs/{run_id}/artifact")
    pairs = [(question, context) for question, context, answers in TEST if answers]
    right = [
        [found["start"], found["end"]] in answers
        for found, (_, _, answers) in zip(classifier(pairs), (row for row in TEST if row[2]), strict=True)
    ]
    assert sum(right) / len(right) > 0.25, "SQuAD 1.1: every question has an answer"
    assert classifier.threshold is None
    if form == "two columns":
        text = json.loads((home / f"distiltune-runs/runs/{run_id}/stages/teacher.json").read_text())["text"]
        assert "of run columns" in text


def _columns(form: str, question: str, context: str, answers: list[list[int]]) -> dict[str, Any]:
    texts, starts = [context[start:end] for start, end in answers], [start for start, _ in answers]
    row = {"question": question, "context": context}
    if form == "columns":
        return {**row, "answers": {"text": texts, "answer_start": starts}}
    return {**row, "answer": texts[0], "start": starts[0]}
