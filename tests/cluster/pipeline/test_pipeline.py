"""The main job from the command line: a real local Ray, real training, ONNX Runtime, TensorBoard; small but whole."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections import Counter

import numpy as np
import psutil
import pytest
import yaml
from datafiles import write
from small_job import COMMAND, JOB, SMALLEST_JOB, environment, eventually

from distiltune.cluster.store.runs import LOGITS, STAGES, TEACHERS, Run, Storage
from distiltune.export.artifact.seal import verify_artifact
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.training.data.config import data_config
from distiltune.training.data.text_data import load_data

SEARCH_WITH_A_FAULT = {
    "num_trials": 3,
    "max_concurrent_trials": 1,  # one worker to start
    "space": {
        **JOB["search"]["space"],
        "data.augmentation.spliced.count": {"type": "int", "low": 0, "high": 40},
        "learning_rate": {"type": "choice", "values": [6e-4, 1e30]},
    },
    "points": [
        {"num_train_epochs": 2, "learning_rate": 6e-4, "data.augmentation.spliced.count": 40},
        {"num_train_epochs": 1, "learning_rate": 1e30, "data.augmentation.spliced.count": 0},
        {"num_train_epochs": 1, "learning_rate": 6e-4},
    ],
}


def distiltune(*arguments, cwd):
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(),
        check=False,
        timeout=280,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A working directory with a job file and one finished run of it, one of whose trials failed."""
    directory = tmp_path_factory.mktemp("home")
    (directory / "more.txt").write_text("a text that nobody labelled\nand another one\n")
    more = {
        "unlabelled": {"path": "more.txt"},
        "augmentation": {"spliced": {"count": 40}, "masked": {"count": 20}},
    }
    student = {**JOB["student"], "vocabulary": {"min_count": 2}}
    job = {**JOB, "data": {**JOB["data"], **more}, "student": student, "search": SEARCH_WITH_A_FAULT}
    job["teacher"] = {**JOB["teacher"], "ensemble": 1}
    job["resources"] = {"teacher": {"cpu": 1}}  # another file's tests run beside
    job["benchmark"] = {**JOB["benchmark"], "tune_session": True, "baselines": ["tfidf-svm"]}
    job["training"] = {**JOB["training"], "max_length": "auto"}
    (directory / "job.yaml").write_text(yaml.safe_dump(job))
    done = distiltune("run", "job.yaml", "--run-id", "first", "--json", cwd=directory)
    assert done.returncode == 0, done.stderr
    (directory / "stdout.json").write_text(done.stdout)
    (directory / "stderr.txt").write_text(done.stderr)
    return directory


@pytest.fixture
def ask(home, here, monkeypatch, capsys):
    """Run commands in that directory, in this process; return what each prints on stdout."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "120")

    def run_command(*arguments):
        capsys.readouterr()
        status = here(*arguments)
        out, errors = capsys.readouterr()
        assert status == 0, errors
        return out

    return run_command


@pytest.fixture
def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@pytest.fixture(scope="module")
def found(home):
    return json.loads((home / "stdout.json").read_text())


def test_run_prints_one_object_with_every_promised_field(found):
    assert (found["run_id"], found["state"]) == ("first", "finished")
    best = found["best"]
    assert 0 <= best["alpha"] <= 1
    assert best["temperature"] in range(2, 21)
    assert best["num_train_epochs"] in (1, 2)
    assert best["trial_id"] in {trial["trial_id"] for trial in found["trials"]}
    assert [row["name"] for row in found["variants"]] == [
        "teacher-pytorch",
        "student-pytorch",
        "onnx",
        "onnx-int8",
        "tfidf-svm",
    ]
    for row in found["variants"]:
        assert 0 <= row["accuracy"] <= 1
        assert 0 <= row["in_scope_accuracy"] <= 1
        assert 0 <= row["oos_recall"] <= 1
        assert row["size_mb"] > 0
        assert set(row["latency_ms"]) == {"mean", "std", "p50", "p90", "p99"}
        assert row["num_threads"] == 1
    assert found["variants"][2]["max_abs_diff"] < 1e-3


def test_trials_learn_from_as_many_unlabelled_texts_as_given(home, found):
    stages = home / "distiltune-runs" / "runs" / "first" / "stages"
    assert json.loads((stages / "logits.json").read_text())["result"]["texts"] == {
        "train": 300,
        "unlabelled": 2,
        "spliced": 40,
        "masked": 20,
    }
    counts = [trial["parameters"]["data.augmentation.spliced.count"] for trial in found["trials"]]
    assert counts[:2] == [40, 0]
    assert all(0 <= count <= 40 for count in counts)


def test_the_number_of_tokens_is_chosen_from_the_texts_and_stated(home, found):
    run = home / "distiltune-runs" / "runs" / "first"
    lengths = json.loads((run / "stages" / "data.json").read_text())["result"]["lengths"]
    chosen = lengths["max_length"]
    assert lengths["automatic"] and chosen in (16, 24, 32) and lengths["p995"] <= chosen
    assert json.loads((run / "job.json").read_text())["training"]["max_length"] == "auto"
    assert TextClassifier.load(found["artifact"]).max_length == chosen
    made_from = json.loads((run / "artifact" / "manifest.json").read_text())["made_from"]
    assert made_from["hyperparameters"]["max_length"] == chosen
    stated = f"{chosen} tokens, chosen automatically"
    assert made_from["max_length"] == stated
    assert stated in (run / "artifact" / "README.md").read_text()
    assert (
        f"truncated to {chosen} (`training.max_length: auto`)" in (run / "report" / "report.md").read_text()
    )


def test_the_student_has_only_word_pieces_that_the_texts_use(home, found):
    run = home / "distiltune-runs" / "runs" / "first"
    record = json.loads((run / "stages" / "student.json").read_text())
    size, covered = record["result"]["num_embeddings"], record["result"]["vocabulary"]["covered_share"]
    assert 0 < covered < 1
    [parity] = record["result"]["parity"]
    assert parity["step"] == "vocabulary" and parity["logits_rmse"] > 0  # min_count is 2
    assert re.search(rf"{size} word pieces, .*{covered:.0%}", record["text"])
    assert f", vocabulary changes {parity['predictions_changed']:.1%} of the predictions" in record["text"]
    assert 100 < size < JOB["teacher"]["scratch"]["vocab_size"]
    shipped = json.loads((run / "artifact" / "tokenizer.json").read_text())["model"]["vocab"]
    assert sorted(shipped.values()) == list(range(size))


def test_what_the_artifact_gains_over_a_baseline_is_stated(home, ask, found):
    run = home / "distiltune-runs" / "runs" / "first"
    rows = {row["name"]: row for row in found["variants"]}
    baseline, chosen = rows["tfidf-svm"], rows[found["chosen"]]
    [compared] = found["against_baselines"]
    gained = chosen["with_threshold"]["accuracy"] - baseline["with_threshold"]["accuracy"]
    assert compared["difference"] == pytest.approx(gained)
    assert compared["low"] < gained < compared["high"]
    assert compared["faster"] == pytest.approx(baseline["latency_ms"]["p50"] / chosen["latency_ms"]["p50"])
    assert (baseline["gate"], baseline["verdict"]) == (None, None)
    assert baseline["training"]["num_texts"] == 300
    sentence = compared["text"] + (f"; {compared['verdict']}" if compared["verdict"] else "")
    assert sentence in " ".join(ask("show", "first").split())
    assert sentence[1:] in ask("report", "first")
    assert sentence in (run / "artifact" / "README.md").read_text()
    assert json.loads((run / "report" / "report.json").read_text())["against_baselines"] == [compared]
    assert json.loads((run / "stages" / "export.json").read_text())["text"] == "onnx, onnx-int8"


def test_the_words_of_a_baseline_stay_in_the_process_that_measured_it(home):
    """Its vocabulary, of pairs of words, is in no file of the run."""
    run = home / "distiltune-runs" / "runs" / "first"
    assert sorted(path.name for path in (run / "measurements").iterdir() if "tfidf" in path.name) == [
        "tfidf-svm.json",
        "tfidf-svm.npz",
    ]
    with np.load(run / "measurements" / "tfidf-svm.npz") as stored:
        assert {stored[name].dtype.kind for name in stored if name != "labels"} == {"f"}
    measured = json.loads((run / "measurements" / "tfidf-svm.json").read_text())["result"]
    texts = load_data(data_config()).splits["train"]["text"][:]
    stored = json.dumps({**measured, "query": ""})
    assert not [text for text in texts if " " in text and text in stored]


def test_the_best_trial_is_the_best_epoch_of_the_best_trial(found):
    finished = [trial for trial in found["trials"] if trial["state"] == "finished"]
    assert len(finished) == 2
    top = max(trial["metrics"]["validation_accuracy"] for trial in finished)
    assert found["best"]["validation_accuracy"] == top


def test_a_trial_that_diverged_is_shown_with_its_reason(ask, found):
    assert [trial["state"] for trial in found["trials"]] == ["finished", "failed", "finished"]
    reason = found["trials"][1]["reason"]
    assert "learning_rate 1e+30" in reason
    for command in ("show", "report"):
        assert reason in " ".join(ask(command, "first").split()), command


def test_the_exported_model_has_the_validation_accuracy_of_its_trial(found):
    student = next(row for row in found["variants"] if row["name"] == "student-pytorch")
    graph = next(row for row in found["variants"] if row["name"] == "onnx")
    # Trials evaluate in bf16 where the hardware has it, the rows in 32 bits: some ties may fall differently.
    assert student["validation_accuracy"] == pytest.approx(found["best"]["validation_accuracy"], abs=0.01)
    assert graph["validation_accuracy"] == student["validation_accuracy"]


def test_progress_goes_to_stderr_one_line_a_stage(home):
    lines = (home / "stderr.txt").read_text().splitlines()
    for stage in STAGES:
        assert sum(line.startswith(f"✓ {stage}") for line in lines) == 1, lines
    assert not [line for line in lines if "Warning" in line or "Traceback" in line]


def test_the_chosen_variant_is_sealed_and_pulled_whole(home, ask, found):
    chosen = {row["name"]: row for row in found["variants"]}[found["chosen"]]
    assert chosen["kind"] == "onnx"
    assert chosen["gate"] in ("passed", "inconclusive")
    ask("pull", "first", "--to", "model")
    pulled = home / "model"
    manifest = json.loads((pulled / "manifest.json").read_text())
    assert {path.name for path in pulled.iterdir()} == {*manifest["files"], "manifest.json"}
    for name, entry in manifest["files"].items():
        assert hashlib.sha256((pulled / name).read_bytes()).hexdigest() == entry["sha256"]
    assert manifest["measurements"]["name"] == found["chosen"]
    assert "answers" not in manifest["measurements"]
    assert manifest["made_from"]["hyperparameters"]["alpha"] == found["best"]["alpha"]


def test_each_variant_has_the_reason_why_it_was_chosen_or_not(ask, found):
    rows = {row["name"]: row for row in found["variants"]}
    shown = ask("show", "first")
    for name in ("onnx", "onnx-int8"):
        verdict, against = rows[name]["verdict"], rows[name]["against_student"]
        assert verdict.startswith("selected: ") == (name == found["chosen"])
        difference = rows[name]["validation_accuracy"] - rows["student-pytorch"]["validation_accuracy"]
        assert against["difference"] == pytest.approx(difference)
        assert against["low"] < difference < against["high"]
        assert verdict in shown
    # The student's own tokenizer and the runtime's give the same pieces, so the plain graph gives the same labels.
    assert rows["onnx"]["predictions_changed"] == 0
    assert rows["student-pytorch"]["predictions_changed"] is None


def test_pull_refuses_a_directory_that_exists(home, here, monkeypatch, capsys):
    (home / "taken").mkdir()
    (home / "taken" / "file").touch()
    monkeypatch.chdir(home)
    assert here("pull", "first", "--to", "taken") == 2
    assert "taken" in capsys.readouterr().err


def test_predict_answers_as_the_runtime_does(ask, found):
    texts = ["when does the library open", "my power is out"]
    answers = json.loads(ask("predict", found["artifact"], *texts, "--json"))
    expected = TextClassifier.load(found["artifact"])(texts)
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]


def test_benchmark_measures_an_artifact(ask, found):
    measured = json.loads(ask("benchmark", found["artifact"], "--runs", "5", "--json"))
    assert measured["latency_ms"]["p50"] > 0
    assert measured["machine"]["cpu"]


def test_the_artifact_ships_with_the_session_options_it_was_timed_with(home, found):
    rows = {row["name"]: row["session"] for row in found["variants"]}
    assert rows["student-pytorch"] is None
    artifact = home / found["artifact"]
    assert rows[found["chosen"]] == json.loads((artifact / "distiltune.json").read_text()).get("session", {})


def test_show_report_and_runs_describe_the_run(home, ask, found):
    assert json.loads(ask("show", "latest", "--json")) == found
    assert found["chosen"] in ask("show", "first")
    report = ask("report", "first")
    assert "| **" in report and "## Results by label" in report
    assert (
        home / "distiltune-runs" / "runs" / "first" / "report" / "accuracy-latency.png"
    ).stat().st_size > 10_000
    rows = json.loads(ask("runs", "--json"))
    assert rows[-1]["run_id"] == "first"


def test_no_pulled_file_is_a_pickle(home):
    run = home / "distiltune-runs" / "runs" / "first"
    for folder in ("artifact", "variants", "best", "report"):
        for path in (run / folder).rglob("*"):
            assert path.suffix not in {".bin", ".pt", ".pth", ".pkl"}, path
            if path.is_file():
                assert path.read_bytes()[:2] not in {b"\x80\x02", b"\x80\x04", b"\x80\x05"}, path


def test_running_a_finished_run_again_repeats_nothing(home, here, monkeypatch, capsys):
    # Like the record of an older run, which lacks a newer key.
    file = home / "distiltune-runs" / "runs" / "first" / "job.json"
    held = json.loads(file.read_text())
    del held["benchmark"]["max_threads"]
    file.write_text(json.dumps(held))
    monkeypatch.chdir(home)
    began = time.monotonic()
    assert here("run", "job.yaml", "--run-id", "first", "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((home / "stdout.json").read_text())
    assert time.monotonic() - began < 60


def test_another_specification_under_the_same_id_is_refused(home, here, monkeypatch, capsys):
    monkeypatch.chdir(home)
    assert here("run", "job.yaml", "--run-id", "first", "--set", "training.seed=1") == 2
    assert "training" in capsys.readouterr().err


@pytest.mark.slow
def test_a_task_that_no_node_can_hold_is_refused_before_it_waits(home):
    options = ["--set", "resources.export.cpu=999", "--set", "storage.reuse=false"]
    done = distiltune("run", "job.yaml", "--run-id", "large", *options, cwd=home)
    assert done.returncode == 2
    assert "resources.export: 999 CPUs" in done.stderr


def test_other_data_under_the_same_id_is_refused(home, here, monkeypatch, capsys):
    stage = home / "distiltune-runs" / "runs" / "first" / "stages" / "data.json"
    before = stage.read_text()
    monkeypatch.chdir(home)
    try:
        stage.write_text(before.replace(json.loads(before)["result"]["fingerprint"], "0" * 64))
        assert here("run", "job.yaml", "--run-id", "first") == 2
    finally:
        stage.write_text(before)
    assert "other data" in capsys.readouterr().err


@pytest.mark.slow
def test_train_on_s3_is_one_trial_and_labels_no_text_again(home, s3_url, tmp_path, monkeypatch):
    """A storage that has the teachers and their logits already; the machine has neither, and no other file."""
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / "sender"))
    store = Storage(s3_url).store
    for kind in (TEACHERS, LOGITS):
        for folder in (home / "distiltune-runs" / kind).iterdir():
            key = f"{kind}/{folder.name}"
            shutil.copytree(folder, store.local(key))
            store.publish(key)
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / "cache"))
    for name in ("job.yaml", "more.txt"):
        shutil.copy(home / name, tmp_path / name)

    def on_s3(*arguments):
        done = distiltune(*arguments, "--storage", s3_url, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    values = ["--set", "training.num_train_epochs=1", "--set", "export.variants=[onnx]"]
    found = json.loads(on_s3("train", "job.yaml", "--run-id", "far", "--json", *values))
    assert [trial["state"] for trial in found["trials"]] == ["finished"]
    assert (found["best"]["alpha"], found["best"]["num_train_epochs"]) == (0.5, 1)
    labelled = Run(store, "far").stage_record("logits")
    assert labelled is not None and labelled["result"]["texts_computed"] == 0
    assert found["artifact"] == f"{s3_url.partition('?')[0]}/runs/far/artifact"
    shutil.rmtree(tmp_path / "cache")
    on_s3("pull", "far", "--to", "model")
    assert verify_artifact(tmp_path / "model").made_from["run_id"] == "far"
    assert json.loads(on_s3("runs", "--json"))[0]["state"] == "finished"
    assert "| **" in on_s3("report", "far")
    assert not (tmp_path / "distiltune-runs").exists()


def test_tensorboard_serves_scalars_and_hparams(home, found, free_port):
    process = subprocess.Popen(
        [*COMMAND, "tensorboard", "first", "--port", str(free_port)],
        cwd=home,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        base = f"http://127.0.0.1:{free_port}/data/plugin"
        tags = eventually(lambda: get_json(f"{base}/scalars/tags"), lambda value: len(value) >= 2)
        finished = {trial["trial_id"] for trial in found["trials"] if trial["state"] == "finished"}
        assert finished <= set(tags)
        best = found["best"]
        scalars = get_json(f"{base}/scalars/scalars?run={best['trial_id']}&tag=validation/accuracy")
        assert max(value for _, _, value in scalars) == pytest.approx(best["validation_accuracy"], abs=1e-6)
        experiment = get_json(f"{base}/hparams/experiment", {"experimentName": ""})
        assert {info["name"] for info in experiment["hparamInfos"]} >= {
            "alpha",
            "temperature",
            "num_train_epochs",
        }
    finally:
        process.terminate()
        process.wait(timeout=20)


def get_json(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def _processes_that_name(text):
    """Ids of other processes whose command line or working directory names ``text``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and text in " ".join([process.cwd(), *process.cmdline()]):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_a_killed_run_is_resumed_where_it_was(tmp_path):
    search = {"num_trials": 4, "space": {"num_train_epochs": 3}}
    job = {**SMALLEST_JOB, "teacher": JOB["teacher"], "search": search}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    command = [*COMMAND, "run", "job.yaml", "--run-id", "killed", "--json"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    run = tmp_path / "distiltune-runs" / "runs" / "killed"
    eventually(lambda: list(run.glob("search/*/checkpoint_*")), lambda paths: len(paths) > 1, 200)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert json.loads(distiltune("show", "killed", "--json", cwd=tmp_path).stdout)["state"] == "interrupted"
    done = distiltune("run", "job.yaml", "--run-id", "killed", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * 4
    teacher = json.loads((run / "stages" / "teacher.json").read_text())
    assert teacher["text"].startswith("2 teachers, each trained from scratch")


@pytest.mark.slow
def test_ctrl_c_ends_it_in_one_line_and_leaves_no_process(tmp_path):
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(SMALLEST_JOB))
    command = [*COMMAND, "run", "job.yaml", "--run-id", "stopped"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    stages = tmp_path / "distiltune-runs" / "runs" / "stopped" / "stages"
    eventually(lambda: (stages / "teacher.json").exists(), bool, 100)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: interrupted")
    assert "distiltune resume stopped" in last
    assert not _processes_that_name(str(tmp_path))
    assert json.loads(distiltune("show", "stopped", "--json", cwd=tmp_path).stdout)["state"] == "interrupted"


@pytest.mark.slow
def test_sigterm_to_the_whole_group_ends_it_as_ctrl_c_does(tmp_path):
    """As `timeout` and service managers send it; Ray's processes are still needed during shutdown."""
    (tmp_path / "job.yaml").write_text(
        yaml.safe_dump({**SMALLEST_JOB, "search": {"num_trials": 1, "space": {"num_train_epochs": 30}}})
    )
    process = subprocess.Popen(
        [*COMMAND, "run", "job.yaml", "--run-id", "ended", "--storage", "my runs"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    run = tmp_path / "my runs" / "runs" / "ended"
    eventually(lambda: list(run.glob("search/*/checkpoint_*")), bool, 200)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=40)
    assert process.returncode == 130
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: interrupted")
    assert last.endswith(": distiltune resume ended --storage 'my runs'")
    assert not _processes_that_name(str(tmp_path))
    done = distiltune("resume", "ended", "--storage", "my runs", "--json", cwd=tmp_path)
    assert [trial["state"] for trial in json.loads(done.stdout)["trials"]] == ["finished"]


@pytest.mark.slow
def test_an_out_of_scope_label_that_no_training_text_has_is_given_by_the_threshold(home, tmp_path):
    """Trained with balanced labels; the column of slices is in the report, and not in the artifact.

    Its labels are diagnosed by teachers that have not seen them.
    """
    rows = {"train": [], "validation": [], "test": []}
    embedded = load_data(data_config())
    for split, texts in embedded.splits.items():
        for text, number in zip(texts["text"], texts["label"], strict=True):
            label = embedded.label_names[number]
            if split != "train" or label != "oos":
                rows[split].append((text, label, ("mail", "chat", "")[len(text) % 3]))
    for split, given in rows.items():
        write(tmp_path / f"{split}.csv", given, ("text", "label", "origin_channel"))
    data = {"source": "files", "out_of_scope_label": "oos"} | {name: f"{name}.csv" for name in rows}
    data |= {"slice_columns": ["origin_channel"], "diagnostics": {"cross_fit": 2, "cross_fit_epochs": 1}}
    training = {**JOB["training"], "balance": "class_weights"}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**JOB, "data": data, "training": training}))
    done = distiltune("run", "job.yaml", "--run-id", "untaught", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    row = next(row for row in json.loads(done.stdout)["variants"] if row["name"] == "onnx-int8")
    assert row["oos_recall"] == 0.0
    assert row["with_threshold"]["oos_recall"] > 0.3
    artifact = TextClassifier.load(tmp_path / "distiltune-runs" / "runs" / "untaught" / "artifact")
    assert "oos" not in artifact.labels
    assert artifact.threshold.label == artifact.out_of_scope_label == "oos"
    run = tmp_path / "distiltune-runs" / "runs" / "untaught"
    breakdown = json.loads((run / "report" / "report.json").read_text())["breakdown"]
    assert breakdown["accuracy_kind"] == "with_threshold"
    assert sum(each["num_texts"] for each in breakdown["labels"]) == len(rows["test"])
    channels = Counter(channel or "(none)" for _, _, channel in rows["test"])
    assert {each["value"]: each["num_texts"] for each in breakdown["slices"]} == channels
    assert "| origin_channel | mail |" in (run / "report" / "report.md").read_text()
    files = [path for path in (run / "artifact").rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"origin_channel" in path.read_bytes()]
    record = json.loads((run / "stages" / "logits.json").read_text())["result"]
    fitted = record["diagnostics"]["cross_fit"]
    assert (fitted["num_folds"], fitted["num_epochs"], len(fitted["keys"])) == (2, 1, 2)
    store = tmp_path / "distiltune-runs"
    folds = [np.load(store / LOGITS / key / "logits.npy") for key in fitted["keys"]]
    assert sum(map(len, folds)) == len(rows["train"])
    assert not {key for keys in record["keys"].values() for key in keys} & set(fitted["keys"])
    assert not list((run / "unfinished").rglob("*.safetensors"))
    log = distiltune("logs", "untaught", "--stage", "logits/fold-2", cwd=tmp_path).stdout
    assert "label_fold on" in log
    assert (
        "label_with_teachers on" in distiltune("logs", "untaught", "--stage", "logits", cwd=tmp_path).stdout
    )


def test_choosing_again_under_other_limits_and_another_goal_repeats_nothing(home, found):
    more = ["--set", "export.choose.minimise=size_mb", "--set", "export.choose.max_drop_from_student=1.0"]
    more += ["--set", "export.out_of_scope.max_in_scope_refused=0.5"]
    done = distiltune("run", "job.yaml", "--run-id", "again", "--json", *more, cwd=home)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    sizes = {row["name"]: row["size_mb"] for row in again["variants"] if row["name"].startswith("onnx")}
    assert again["chosen"] == min(sizes, key=sizes.__getitem__)
    timed = {row["name"]: row["latency_ms"] for row in found["variants"]}
    assert {row["name"]: row["latency_ms"] for row in again["variants"]} == timed
    assert all(row["reused"]["run_id"] == "first" for row in again["variants"])
    for row, before in zip(again["variants"], found["variants"], strict=True):
        assert row["accuracy"] == before["accuracy"]
        assert row["with_threshold"]["value"] != before["with_threshold"]["value"]
    seconds = {stage["name"]: stage["seconds"] for stage in again["stages"]}
    reused = ("teacher", "logits", "student", "search", "export", "benchmark")
    assert [seconds[stage] for stage in reused] == [0.0] * len(reused)
    for stage in reused:
        assert re.search(rf"{stage} .*\(of run first\)", done.stderr)
    assert "raylet" not in done.stderr
    artifact = home / "distiltune-runs" / "runs" / "again" / "artifact"
    verify_artifact(artifact)
    chosen = next(row for row in again["variants"] if row["name"] == again["chosen"])
    assert TextClassifier.load(artifact).threshold.value == chosen["with_threshold"]["value"]
    report = (home / "distiltune-runs" / "runs" / "again" / "report" / "report.md").read_text()
    assert "measured in run first, on" in report
