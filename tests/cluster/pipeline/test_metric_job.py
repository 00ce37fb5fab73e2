"""A whole job in another metric than accuracy, from the command line: what it selects by, and what it shows."""

import json
import re
import subprocess

import pytest
import yaml
from small_job import COMMAND, JOB, environment

from distiltune.export.benchmark.accuracy.predictions import unpack_answers
from distiltune.training.tasks import SINGLE_LABEL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def distiltune(*arguments, cwd):
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
def home(tmp_path_factory):
    directory = tmp_path_factory.mktemp("home")
    job = {**JOB, "metric": "macro_f1", "teacher": {**JOB["teacher"], "ensemble": 1}}
    (directory / "job.yaml").write_text(yaml.safe_dump(job))
    done = distiltune("run", "job.yaml", "--run-id", "fair", cwd=directory)
    assert done.returncode == 0, done.stderr
    return directory


def stage(home, name):
    return json.loads((home / f"distiltune-runs/runs/fair/stages/{name}.json").read_text())


def test_epochs_trials_and_variants_are_selected_by_the_metric(home):
    teacher, search = stage(home, "teacher")["result"], stage(home, "search")["result"]
    assert teacher["validation_macro_f1"] == max(each["validation_macro_f1"] for each in teacher["epochs"])
    values = [trial["metrics"]["validation_macro_f1"] for trial in search["trials"]]
    assert (search["best"]["metric"], search["best"]["value"]) == ("macro_f1", max(values))
    measured, gate = stage(home, "benchmark")["result"], stage(home, "gate")["result"]
    metric = SINGLE_LABEL.metric("macro_f1", measured["label_names"])
    for row, judged in zip(measured["measurements"], gate["variants"], strict=True):
        kind = judged["metric"]["kind"]
        for split in ("validation", "test"):
            answers = unpack_answers(row["answers"][split][kind])
            assert judged["metric"][split] == pytest.approx(
                metric.measure(answers.predictions, answers.labels)
            )
    of_variant = next(each for each in gate["variants"] if each["name"] == gate["chosen"])
    assert (of_variant["against_student"]["method"], of_variant["against_student"]["metric"]) == (
        "bootstrap",
        "macro_f1",
    )
    assert gate["against_teacher"]["value"] == pytest.approx(of_variant["metric"]["test"])


def test_what_is_shown_begins_with_the_metric(home):
    shown = distiltune("show", "fair", cwd=home).stdout
    assert re.search(r"test texts: macro F1 [+-]\d", shown)
    assert "-> validation macro F1 0." in shown
    report = (home / "distiltune-runs/runs/fair/report/report.md").read_text()
    assert re.search(r"against its teacher on the [\d,]+ test texts: macro F1 0\.", report)
    card = (home / "distiltune-runs/runs/fair/artifact/README.md").read_text()
    assert re.search(r"On the test split: macro F1 0\.\d{4}\.", card)
    assert re.search(r"0\.\d{4} macro F1", distiltune("runs", cwd=home).stdout)
    assert "validation macro F1" in stage(home, "teacher")["text"]
