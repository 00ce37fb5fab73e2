"""Forecasts are measured in a separate process, which leaves nothing behind, and measure what the job will run."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from models import tiny_classifier, tiny_data
from small_job import COMMAND, JOB, environment

from distiltune.cluster.cli import main
from distiltune.cluster.pipeline.checks.preflight import check_job
from distiltune.cluster.pipeline.forecast import forecast as module
from distiltune.cluster.pipeline.forecast.forecast import forecast_job
from distiltune.cluster.pipeline.forecast.request import Request, places_of, points_of
from distiltune.cluster.specification.config import load_config
from distiltune.cluster.store.runs import Storage
from distiltune.errors import RunFailedError

STAGES = ["data", "start", "teacher", "logits", "student", "search", "export", "benchmark", "report"]
EVERYTHING = [
    "teacher.ensemble=1",
    "student.pretraining={num_train_epochs: 1, batch_size: 16, max_texts: 64}",
    "student.vocabulary={size: 400, others: spelled}",
    "data.augmentation={spliced: {count: 40}}",
    "data.unlabelled={path: more.txt}",
    "training.pruning={method: magnitude, sparsity: 0.3}",
    "training.quantization_aware={num_epochs: 1}",
    "training.losses={cosine: {weight: 0.0}}",
    "search.space={num_train_epochs: {type: int, low: 1, high: 2}, batch_size: {type: int, low: 16, high: 32}, "
    "student.intermediate_size: {type: choice, values: [16, 48]}}",
]


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A small job that has passed its checks, and temporary files in a directory of the test."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(tmp_path)  # paths of overrides are relative to it

    def make(*overrides):
        (tmp_path / "job.yaml").write_text(json.dumps(JOB))
        (tmp_path / "more.txt").write_text("a text that nobody labelled\nand another one\n")
        config = load_config(str(tmp_path / "job.yaml"), list(overrides), str(tmp_path / "runs"))
        return check_job(config, Storage(config.storage.path))

    return make


@pytest.fixture
def started(monkeypatch):
    """The measuring processes that a forecast starts."""
    found = []

    class Started(subprocess.Popen):
        def __init__(self, *arguments, **options) -> None:
            super().__init__(*arguments, **options)
            if "forecast.measure" in str(self.args):  # not what Ray starts when it is imported
                found.append(self)

    monkeypatch.setattr(module.subprocess, "Popen", Started)
    return found


def nothing_left(tmp_path) -> bool:
    # PyTorch's compiler may create a cache of its own there.
    return not list((tmp_path / "tmp").glob("distiltune*")) and not (tmp_path / "runs").exists()


def test_ctrl_c_ends_the_measuring_process_and_leaves_nothing(job, started, tmp_path) -> None:
    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forecast_job(job(), interrupt)
    [process] = started
    assert process.poll() == -signal.SIGKILL
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import sys; sys.exit('no such thing')", "status 1: no such thing"),
        ('print(\'{"error": "OutOfMemoryError: 3 GB"}\')', "OutOfMemoryError: 3 GB"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "status -9"),
    ],
)
def test_a_failed_measurement_has_its_reason(program, message, job, tmp_path, monkeypatch) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!{sys.executable}\n{program}\n")
    interpreter.chmod(0o700)
    checked = job()
    monkeypatch.setattr(module.sys, "executable", str(interpreter))
    with pytest.raises(RunFailedError, match=message):
        forecast_job(checked)
    assert nothing_left(tmp_path)


def test_a_measurement_that_takes_too_long_is_ended(job, tmp_path, monkeypatch, started) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!{sys.executable}\nimport time; time.sleep(60)\n")
    interpreter.chmod(0o700)
    checked = job()
    monkeypatch.setattr(module.sys, "executable", str(interpreter))
    monkeypatch.setattr(module, "_LIMIT_S", 0.3)
    with pytest.raises(RunFailedError, match=r"more than 0\.3 s"):
        forecast_job(checked)
    assert started[0].poll() is not None


def test_a_failed_forecast_is_no_fault_of_the_job(tmp_path, monkeypatch, capsys) -> None:
    def fail(*_):
        raise RunFailedError("the forecast cannot be measured: out of memory")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "forecast_job", fail)
    assert main(["check", "quickstart-scratch", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["forecast"] is None
    assert shown.err.strip() == "no forecast: the forecast cannot be measured: out of memory"


def test_an_interrupted_check_ends_with_its_own_status(tmp_path, monkeypatch, capsys) -> None:
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "forecast_job", interrupt)
    assert main(["check", "quickstart-scratch"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_the_parts_measure_what_the_job_does(job, tmp_path) -> None:
    from distiltune.cluster.pipeline.forecast import parts

    checked = job()
    config = checked.local_config
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"ensemble": 1})})
    places, points = places_of(config, 2), points_of(config.search.space)
    request = Request(config, checked.data, places, tmp_path / "work", frozenset({"teacher"}), seconds=0.02)
    request.work.mkdir()
    teacher = parts.measure_teacher_part(request, lambda: None)
    student = parts.measure_student_part(request, points)
    [trial] = parts.measure_trial_part(request, points, 0, lambda: None)
    assert teacher["training"]["epochs"] == 2
    assert min(teacher["training"]["epoch_s"], teacher["labelling_s"]["train"], trial["evaluation_s"]) > 0
    assert teacher["num_texts"] == {name: len(checked.data.splits[name]) for name in ("train", "validation")}
    assert student["lengths"].keys() == {"train"} and len(student["lengths"]["train"]) == 300
    assert student["num_parameters"] < teacher["num_parameters"]
    assert len(trial["tokens"]) == len(trial["seconds"]) >= 3
    assert trial["model_bytes"] == pytest.approx(4 * student["num_parameters"], rel=0.05)
    assert 2 * trial["model_bytes"] < trial["checkpoint_bytes"] < 4 * trial["model_bytes"]


def test_epochs_on_pairs_are_measured_before_those_on_labels(job, tmp_path) -> None:
    from distiltune.cluster.pipeline.forecast import parts

    texts = [text for text, _ in tiny_data()]
    encoder = tiny_classifier(tmp_path / "encoder", label_names=["other", "one"], texts=texts)
    rows = "".join(f"{text},{label}\n" for text, label in tiny_data(per_label=20))
    (tmp_path / "data.csv").write_text("text,label\n" + rows)
    tuned = f"{{checkpoint: {encoder}, num_train_epochs: 2, contrastive: {{num_train_epochs: 3}}}}"
    checked = job(
        f"data={{train: {tmp_path / 'data.csv'}}}",
        f"teacher={{fine_tune: {tuned}}}",
        "search.space={num_train_epochs: 1}",
    )
    config = checked.settled_local_config
    places = places_of(config, 2)
    request = Request(config, checked.data, places, tmp_path / "work", frozenset({"teacher"}), seconds=0.02)
    request.work.mkdir()
    found = parts.measure_teacher_part(request, lambda: None)["training"]
    assert found["epochs"] == 2 and min(found["epoch_s"], found["encoder_s"]) > 0
    assert not list(request.work.glob("steps*/checkpoint-*"))


def test_a_baseline_is_measured_on_a_sample_of_the_texts(job, tmp_path, monkeypatch) -> None:
    from distiltune.cluster.pipeline.forecast import baseline_part

    checked = job()
    request = Request(
        checked.local_config, checked.data, places_of(checked.config, 2), tmp_path, frozenset(), seconds=0.02
    )
    seen = []
    fit = baseline_part.fit_baseline
    monkeypatch.setattr(baseline_part, "_MOST_TEXTS", 100)
    monkeypatch.setattr(
        baseline_part,
        "fit_baseline",
        lambda name, given, folder: (seen.append(given), fit(name, given, folder)),
    )
    found = baseline_part.measure_baseline_part(request, "tfidf-svm")
    assert found.keys() == {"fit_s", "load_s", "call_s", "batched_s", "logits_s"} and min(found.values()) > 0
    first, sample = seen
    assert len(first.train_texts) == 50
    assert len(sample.train_texts) == len(sample.validation_labels) == 100
    train = checked.data.splits["train"]
    known = dict(zip(train["text"][:], train["label"][:], strict=True))
    assert [known[text] for text in sample.train_texts] == sample.train_labels


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [["benchmark.baselines=[tfidf-svm]"], EVERYTHING])
def test_a_small_job_is_forecast_and_leaves_nothing(overrides, job, tmp_path) -> None:
    messages = []
    found = forecast_job(job(*overrides), lambda progress: messages.append(progress.message), seconds=0.3)
    assert [each.stage for each in found.stages] == STAGES
    assert all(each.seconds.low <= each.seconds.middle <= each.seconds.high for each in found.stages)
    assert all(each.seconds.middle > 0 for each in found.stages[1:])
    assert "steps of 2 trials side by side" in messages
    assert found.peak_disk_bytes >= found.disk_bytes > 0
    assert found.memory_mib > 700
    assert nothing_left(tmp_path)


@pytest.mark.slow
def test_the_bound_of_a_pass_is_in_the_forecast(job) -> None:
    sections = ["training.max_batch_tokens=64", "training.batch_size=32", "benchmark.baselines=[]"]
    found = {each.stage: each.how for each in forecast_job(job(*sections), seconds=0.1).stages}
    assert all(", passes of up to 64 tokens, " in found[stage] for stage in ("teacher", "search"))


@pytest.mark.slow
def test_ctrl_c_ends_the_command_and_what_it_started(tmp_path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    (tmp_path / "job.yaml").write_text(json.dumps(JOB))
    given = {**environment(), "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [*COMMAND, "check", "job.yaml"], cwd=tmp_path, env=given, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any("steps of the teacher" in line for line in lines)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(20) == 130
    assert "interrupted" in rest and "Traceback" not in rest
    assert time.monotonic() - began < 10
    assert list(temporary.iterdir()) == []
    assert not any(str(temporary) in command for command in commands())


def commands():
    """The command lines of the running processes of this user."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.stat().st_uid == os.getuid():
                yield path.read_bytes().decode(errors="replace")
        except OSError:
            continue
