"""The command line as users see it: real processes, exit statuses, one clear line for each mistake."""

import json
import os
import re
import resource
import subprocess
import sys

import numpy as np
import pytest
from artifacts import LABELS, TEXTS, tiny_artifact

from distiltune.export.runtime.classifier import TextClassifier


def distiltune(*arguments, cwd=None, stdin=None, **environment):
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from distiltune.cluster.cli import main; sys.exit(main())",
            *arguments,
        ],
        capture_output=True,
        text=True,
        input=stdin,
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        check=False,
    )


def test_help_answers_at_once():
    """Measured in CPU seconds, which other processes do not increase."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = distiltune("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5
    assert done.returncode == 0
    for command in (
        "run",
        "train",
        "runs",
        "show",
        "pull",
        "predict",
        "benchmark",
        "report",
        "tensorboard",
        "config",
    ):
        assert command in done.stdout


def test_no_command_shows_the_help_and_version_its_number():
    assert "Usage" in distiltune().stdout
    assert distiltune("--version").stdout.startswith("distiltune 0.")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nonsense"], ["nonsense"]),
        (["show"], ["RUN"]),
        (["show", "missing"], ["missing", "distiltune runs"]),
        (["pull", "missing", "--to", "x"], ["missing"]),
        (["run", "quikstart"], ["quikstart", "quickstart"]),
        (["run", "--set", "search.num_trial=3"], ["search.num_trial", "num_trials"]),
        (["run", "--set", "search.num_trials=0"], ["search.num_trials", "given 0"]),
        (["run", "--set", "search.space.learning_rat=0.1"], ["learning_rat", "learning_rate"]),
        (["run", "--set", "data.source=clinc_json", "--set", "data.path=missing.json"], ["missing.json"]),
        # pyarrow tries for seconds
        pytest.param(["run", "--storage", "s3://bucket/x"], ["s3://bucket/x"], marks=pytest.mark.slow),
        (["run", "--run-id", "a/b"], ["--run-id"]),
        (["run", "--set", "student.layers=[0, 9]"], ["student.layers", "0 to 5"]),
        (["run", "--set", "student.checkpoint=./nowhere"], ["./nowhere", "no such"]),
        (["run", "--set", "teacher.checkpoint=nobody/nothing"], ["nobody/nothing"]),
        (["run", "--set", "resources.trial.cpu=0"], ["resources.trial.cpu", "given 0"]),
        (["run", "--set", "export.variants=[student-pytorch-int8]"], ["export.variants", "onnx"]),
        (["run", "--set", "search.space.alpha={low: 0, high: 1}"], ["search.space.alpha", "type"]),
        (["run", "--set", "storage=here", "--storage", "there"], ["storage", "'here'"]),
        (["predict", "missing", "text"], ["missing"]),
        (["tensorboard", "missing"], ["missing"]),
        (["report", "missing"], ["missing"]),
        (["train", "--set", "search.space.adam_beta2={type: float, low: 0.8, high: 0.9}"], ["adam_beta2"]),
    ],
)
def test_a_mistake_is_one_to_three_lines_and_status_2(tmp_path, here, capfd, arguments, parts):
    status = here(*arguments)
    out, errors = capfd.readouterr()
    assert status == 2, errors
    assert out == ""
    assert 1 <= len(errors.strip().splitlines()) <= 3
    assert "Traceback" not in errors
    for part in parts:
        assert part in errors
    assert not list(tmp_path.rglob("*.json"))


def test_a_mistake_sets_the_exit_status(tmp_path):
    done = distiltune("run", "quikstart", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "quikstart" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--verbose", "show", "missing"], ["show", "missing", "--verbose"]])
def test_verbose_shows_the_traceback(here, capsys, arguments):
    assert here(*arguments) == 2
    assert "Traceback" in capsys.readouterr().err


def test_runs_of_an_empty_storage(here, capsys):
    assert here("runs") == 0
    assert "distiltune run" in capsys.readouterr().out
    assert here("runs", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_the_storage_is_taken_from_the_environment(here, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DISTILTUNE_STORAGE", str(tmp_path / "elsewhere"))
    assert here("show", "missing") == 2
    assert "elsewhere" in capsys.readouterr().err


def test_config_prints_yaml_that_reads_back_and_a_schema(here, capsys, tmp_path):
    assert here("config", "clinc150", "--set", "search.num_trials=3") == 0
    printed = capsys.readouterr().out
    file = tmp_path / "job.yaml"
    file.write_text(printed)
    assert here("config", str(file)) == 0
    assert capsys.readouterr().out == printed
    assert "num_trials: 3" in printed
    assert here("config", "--schema") == 0
    assert json.loads(capsys.readouterr().out)["properties"]["data"]


def test_a_reader_that_goes_away_is_not_an_error():
    code = "import sys; from distiltune.cluster.cli import main; sys.exit(main())"
    command = f"{sys.executable} -c '{code}' config --schema"
    done = subprocess.run(f"{command} | head -1", shell=True, capture_output=True, text=True, check=False)
    assert done.stdout == "{\n"
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_ctrl_c_before_the_run_starts_is_reported(monkeypatch, here, capfd, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("distiltune.cluster.pipeline.run_job.run_job", interrupted)
    assert here("run", "--storage", str(tmp_path / "runs")) == 130
    assert re.fullmatch(r"error: interrupted; .+\n", capfd.readouterr().err)
    assert not (tmp_path / "runs").exists()


def test_predict_gives_the_out_of_scope_label_below_the_threshold(here, capsys, tmp_path):
    logits = TextClassifier.load(tiny_artifact(tmp_path / "plain")).logits(TEXTS)
    scores = logits.max(axis=-1)
    threshold = {"score": "max_logit", "value": float(np.sort(scores)[:2].mean()), "label": "none_of_these"}
    tiny_artifact(tmp_path / "model", threshold=threshold, out_of_scope_label="none_of_these")
    assert here("predict", "model", *TEXTS, "--json") == 0
    answers = json.loads(capsys.readouterr().out)
    expected = [LABELS[number] for number in logits.argmax(axis=-1)]
    expected[int(scores.argmin())] = "none_of_these"
    assert [answer["label"] for answer in answers] == expected
    assert here("predict", "model", TEXTS[int(scores.argmin())]) == 0
    assert capsys.readouterr().out.startswith("none_of_these\t")
    assert here("predict", "plain", TEXTS[int(scores.argmin())]) == 0
    assert capsys.readouterr().out.split("\t")[0] in LABELS
