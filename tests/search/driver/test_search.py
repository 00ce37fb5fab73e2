"""The search on a real local Ray: trials, their checkpoints, failures, and their display in TensorBoard."""

from __future__ import annotations

import json
import math
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
import torch
from local_trial import LAST, epochs_of, run_here
from models import tiny_classifier, tiny_data
from safetensors.torch import load_file
from searches import (
    NUM_LABELS,
    TRAINING,
    accuracy_of,
    logits_of,
    search,
    search_config,
)
from simulated_searches import simulated_trials

from distiltune.errors import ConfigError, RunFailedError, StorageError
from distiltune.search.driver.run_search import TrialInputs
from distiltune.search.space.space import THRESHOLD_METRIC
from distiltune.search.space.students import ONLY_STUDENT, Student
from distiltune.storage.logs import read_log
from distiltune.storage.store import Store
from distiltune.training.checkpoints.load import load_classifier, load_tokenizer
from distiltune.training.compression.config import pruning_config
from distiltune.training.data.tokenized import LabelledSplit, tokenize_split
from distiltune.training.models.inference import compute_logits
from distiltune.training.student.build import build_student
from distiltune.training.student.config import student_config


@pytest.fixture(scope="module")
def searched(ray_session, inputs, tmp_path_factory):
    """A search of four trials: the directory, its outcome, and the reported progress."""
    directory = tmp_path_factory.mktemp("searched")
    reported = []
    outcome = search(
        search_config(4), inputs, directory, report=lambda progress: reported.append(progress.values)
    )
    return directory, outcome, reported


def finished(outcome) -> list:
    return [trial for trial in outcome.trials if trial.state == "finished"]


def test_every_trial_is_reported(searched):
    _, outcome, reported = searched
    assert [trial.number for trial in outcome.trials] == [0, 1, 2, 3]
    names = {"alpha", "temperature", "num_train_epochs", "learning_rate", "weight_decay"}
    assert all(set(trial.parameters) == names for trial in outcome.trials)
    for trial in finished(outcome):
        assert 1 <= trial.best_epoch <= trial.parameters["num_train_epochs"]
        assert all(math.isfinite(value) for value in trial.metrics.values() if not isinstance(value, str))
        assert trial.seconds > 0
    best = max(trial.metrics["validation_accuracy"] for trial in finished(outcome))
    assert outcome.best.metrics["validation_accuracy"] == best
    assert best > 0.6
    assert reported[-1]["done"] == reported[-1]["num_trials"] == 4
    assert reported[-1]["running"] == 0
    assert reported[-1]["best_value"] == best
    assert reported[-1]["best_trial_id"] in {trial.trial_id for trial in finished(outcome)}
    assert json.loads(json.dumps(outcome.to_json()))["best"]["trial_id"] == outcome.best.trial_id


def test_a_failed_trial_has_its_reason_and_the_others_finish(searched):
    _, outcome, reported = searched
    ruined = [trial for trial in outcome.trials if trial.parameters["learning_rate"] > 1]
    assert 1 <= len(ruined) <= 3
    assert [trial for trial in outcome.trials if trial.state == "failed"] == ruined
    assert all("learning_rate 1e+30" in trial.reason for trial in ruined)
    assert reported[-1]["failed"] == len(ruined)


def test_a_trial_takes_over_the_worker_of_one_before_it(searched):
    directory, outcome, _ = searched
    store = Store(str(directory))
    logs = [read_log(store, f"logs/{trial.trial_id}")[0] for trial in outcome.trials]
    processes = [re.findall(r", process (\d+)\)", text) for text in logs]
    assert [len(found) for found in processes] == [1] * len(logs), logs
    assert len({found[0] for found in processes}) < len(logs)


def test_the_best_epochs_checkpoint_is_kept_and_holds_the_model_that_was_measured(searched, inputs):
    directory, outcome, _ = searched
    for trial in finished(outcome):
        lines = (directory / "search" / trial.trial_id / "result.json").read_text().splitlines()
        accuracies = {each["epoch"]: each["validation_accuracy"] for each in map(json.loads, lines)}
        assert len(accuracies) == trial.parameters["num_train_epochs"]
        assert accuracies[trial.best_epoch] == max(accuracies.values())
        measured = accuracy_of(directory / trial.checkpoint, inputs.validation)
        assert measured == pytest.approx(trial.metrics["validation_accuracy"], abs=1e-9)


def test_a_finished_trial_keeps_the_weights_of_its_best_epoch_alone(searched):
    directory, outcome, _ = searched
    for trial in finished(outcome):
        kept = sorted((directory / "search" / trial.trial_id).glob("checkpoint_*"))
        epochs = {json.loads((each / "epoch.json").read_text())["epoch"] for each in kept}
        assert trial.parameters["num_train_epochs"] in epochs
        assert trial.best_epoch in epochs
        assert len(kept) <= 2
        files = {path.name for each in kept for path in each.iterdir()}
        assert files == {"model.safetensors", "config.json", "epoch.json"}
        assert sum((each / "model.safetensors").is_file() for each in kept) == 1
        assert (directory / trial.checkpoint / "model.safetensors").is_file()


def test_ctrl_c_after_a_search_is_still_ctrl_c(searched):
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_finished_search_is_only_read(searched, inputs):
    directory, outcome, _ = searched
    again = search(search_config(4), inputs, directory)
    assert again == outcome


@pytest.mark.slow
def test_a_seed_gives_the_same_suggestions(simulated, inputs, tmp_path):
    first, again = (search(search_config(6), inputs, tmp_path / name) for name in ("first", "again"))
    assert len(first.trials) == 6
    assert [trial.parameters for trial in again.trials] == [trial.parameters for trial in first.trials]


def test_a_trial_in_mixed_precision_is_measured_in_the_precision_of_its_checkpoint(inputs, tmp_path):
    arguments = {"alpha": 0.5, "temperature": 2, "num_train_epochs": 2, "learning_rate": 5e-3, "bf16": True}
    reported = run_here(inputs, tmp_path, arguments, TRAINING, metric=LAST)
    logits = logits_of(tmp_path / epochs_of(tmp_path)[-1].key, inputs.validation)
    labels = torch.from_numpy(inputs.validation.labels.copy())
    loss = float(torch.nn.functional.cross_entropy(logits, labels))
    assert reported[-1]["validation_loss"] == pytest.approx(loss, abs=1e-5)


def test_a_trial_keeps_the_epoch_that_is_best_with_its_threshold(inputs, tmp_path):
    """Whatever its accuracy without one: here the first epoch is declared the best."""
    arguments = {"alpha": 0.5, "temperature": 2, "num_train_epochs": 3, "learning_rate": 5e-3}
    given, values = [], iter([0.75, 0.25, 0.5])

    def measure(logits, labels):
        given.append((logits, labels))
        return next(values)

    judged = replace(inputs, accuracy_with_threshold=measure)
    reported = run_here(judged, tmp_path, arguments, TRAINING, metric=(THRESHOLD_METRIC, "max"))
    assert [each[THRESHOLD_METRIC] for each in reported] == [0.75, 0.25, 0.5]
    assert [value for _, value in reported[-1]["curve"]] == [0.75, 0.25, 0.5]
    first, *others = epochs_of(tmp_path)
    assert first.epoch == 1 and len(others) <= 1, "the best epoch, and the last one"
    np.testing.assert_allclose(
        given[0][0], logits_of(tmp_path / first.key, inputs.validation).numpy(), atol=1e-5
    )
    np.testing.assert_array_equal(given[0][1], inputs.validation.labels)
    assert "accuracy with threshold 0.7500" in read_log(Store(str(tmp_path)), "one/logs/0000")[0]
    [failed] = run_here(
        judged, tmp_path / "2", {**arguments, "hidden_loss_weight": 1.0}, TRAINING, metric=LAST
    )
    assert failed["failure"] and failed[THRESHOLD_METRIC] == 0.0


def test_a_search_by_a_threshold_needs_one(inputs, tmp_path):
    by_threshold = search_config(1).model_copy(update={"metric": THRESHOLD_METRIC})
    with pytest.raises(ConfigError, match=rf"search\.metric: '{THRESHOLD_METRIC}' given, but there is no"):
        search(by_threshold, inputs, tmp_path)


def test_a_trial_measures_the_metric_of_the_job_and_keeps_its_best_epoch(inputs, tmp_path):
    arguments = {"alpha": 0.5, "temperature": 2, "num_train_epochs": 2, "learning_rate": 5e-3}
    reported = run_here(
        replace(inputs, metric="recall.b"),
        tmp_path,
        arguments,
        TRAINING,
        metric=("validation_recall.b", "max"),
    )
    predicted = logits_of(tmp_path / epochs_of(tmp_path)[-1].key, inputs.validation).argmax(-1).numpy()
    of_b = inputs.validation.labels == 1
    assert reported[-1]["validation_recall.b"] == pytest.approx((predicted[of_b] == 1).mean())
    assert reported[-1]["best"] == max(each["validation_recall.b"] for each in reported)
    assert [value for _, value in reported[-1]["curve"]] == [each["validation_recall.b"] for each in reported]
    assert {"validation_macro_f1", "validation_balanced_accuracy", "validation_weighted_f1"} <= reported[
        -1
    ].keys()
    assert "validation_mcc" not in reported[-1]
    assert "recall of b" in read_log(Store(str(tmp_path)), "one/logs/0000")[0]


@pytest.fixture(scope="module")
def with_teacher(tmp_path_factory) -> TrialInputs:
    """A student made of two layers of a teacher with four, and that teacher."""
    root = tmp_path_factory.mktemp("distilled")
    names = [f"label_{n}" for n in range(NUM_LABELS)]
    teacher = tiny_classifier(root / "teacher", num_layers=4, hidden_size=16, label_names=names)
    student = student_config(layers=[0, 3])
    build_student(student, teacher, names, root / "student", max_length=16)
    tokenizer = load_tokenizer(teacher)
    texts, labels = zip(*tiny_data(), strict=True)
    texts = tokenize_split(texts, [names.index(label) for label in labels], tokenizer, 16)
    logits = compute_logits(
        load_classifier(teacher)[0], texts, pad_token_id=tokenizer.pad_token_id, num_threads=1, use_gpu=False
    )
    return TrialInputs(
        students={ONLY_STUDENT: Student(str(root / "student"))},
        train={"train": LabelledSplit(texts, logits)},
        validation=texts,
        out_of_scope_id=None,
        label_names=names,
        teacher=str(teacher),
    )


def test_a_trial_learns_the_teachers_hidden_states(with_teacher, tmp_path):
    fixed = {"alpha": 0.0, "temperature": 2, "num_train_epochs": 20, "learning_rate": 3e-3}

    def distance(directory: str) -> float:
        """Mean square between the student's last hidden states and the teacher's."""
        student, teacher = (load_classifier(each)[0] for each in (directory, with_teacher.teacher))
        ids = torch.tensor(with_teacher.validation.row(0), dtype=torch.int64)[None]
        with torch.no_grad():
            own, other = (model(ids, output_hidden_states=True) for model in (student, teacher))
        return float((own.hidden_states[-1] - other.hidden_states[-1]).square().mean())

    reached = []
    for weight in (0.0, 1.0):
        name = f"weight-{weight:g}"
        run_here(
            with_teacher, tmp_path, {**fixed, "hidden_loss_weight": weight}, TRAINING, name=name, metric=LAST
        )
        last = tmp_path / epochs_of(tmp_path, name)[-1].key
        load_tokenizer(with_teacher.students[ONLY_STUDENT].key).save_pretrained(last)
        reached.append(distance(str(last)))
    assert reached[1] < min(reached[0], distance(with_teacher.students[ONLY_STUDENT].key)) / 2


def test_hidden_states_of_other_tokens_are_refused(with_teacher, tmp_path):
    arguments = {"alpha": 0.0, "temperature": 2, "num_train_epochs": 1, "hidden_loss_weight": 0.5}
    other = tiny_classifier(tmp_path / "other", hidden_size=16, texts=["a student of its own"])
    strange = replace(with_teacher, students={ONLY_STUDENT: Student(str(other))})
    [reported] = run_here(strange, tmp_path / "1", arguments, TRAINING)
    assert re.search(r"hidden_loss_weight.*tokenizer .*teacher.*student\.kind: layers", reported["failure"])
    [reported] = run_here(replace(with_teacher, teacher=None), tmp_path / "2", arguments, TRAINING)
    assert re.search("hidden_loss_weight.*no teacher", reported["failure"])


def test_when_every_value_is_fixed_one_trial_trains_and_if_it_fails_the_search_does(
    simulated, inputs, tmp_path
):
    fixed = {"alpha": 1.0, "temperature": 2, "num_train_epochs": 1, "learning_rate": 1e30}
    with pytest.raises(RunFailedError, match=r"the only trial failed.*learning_rate 1e\+30"):
        search(search_config(5, **fixed), inputs, tmp_path)


def test_faults_of_every_trial_are_reported_at_once(ray_session, inputs, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'temperature'"):
        search(search_config(2, temperatur=3), inputs, tmp_path)
    with pytest.raises(ConfigError, match=r"resources\.trial: 64 CPUs and 0 GPUs given"):
        search(search_config(2), inputs, tmp_path, cpus=64)


@pytest.fixture(scope="module")
def tensorboard(searched):
    """A real TensorBoard server over the search's event files, as a function that queries it."""
    directory, _, _ = searched
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(directory / "tensorboard")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--load_fast", "false"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:

        def ask(path: str, body: dict | None = None):
            data = None if body is None else json.dumps(body).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"http://127.0.0.1:{port}/data/plugin/{path}", data, headers)
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)

        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    if len(ask("scalars/tags")) >= 4:
                        break
                except (urllib.error.URLError, ConnectionError):
                    assert server.poll() is None
                assert time.monotonic() < deadline, "TensorBoard did not load the trials"
                time.sleep(0.2)
            yield ask
        finally:
            server.terminate()


def test_tensorboard_shows_every_trials_scalars(searched, tensorboard):
    _, outcome, _ = searched
    tags = tensorboard("scalars/tags")
    assert set(tags) >= {trial.trial_id for trial in outcome.trials}
    for trial in finished(outcome):
        assert set(tags[trial.trial_id]) >= {
            "loss/total",
            "loss/cross_entropy",
            "loss/distillation",
            "learning_rate",
            "validation/accuracy",
            "validation/in_scope_accuracy",
            "validation/oos_recall",
            "validation/macro_f1",
            "validation/loss",
            "examples_per_second",
        }
        points = tensorboard(f"scalars/scalars?run={trial.trial_id}&tag=validation/accuracy")
        assert len(points) == trial.parameters["num_train_epochs"]
        assert max(value for _, _, value in points) == pytest.approx(trial.metrics["validation_accuracy"])


def test_tensorboard_shows_every_trials_hyperparameters(searched, tensorboard):
    _, outcome, _ = searched
    experiment = tensorboard("hparams/experiment", {"experimentName": ""})
    infos = {each["name"]: each for each in experiment["hparamInfos"]}
    assert set(infos) == set(outcome.best.parameters)
    assert infos["learning_rate"]["domainDiscrete"] == [5e-3, 1e30]
    assert infos["temperature"]["domainInterval"] == {"minValue": 2.0, "maxValue": 20.0}
    assert "best/accuracy" in {each["name"]["tag"] for each in experiment["metricInfos"]}
    columns = [
        {"hparam": "alpha"},
        {"metric": {"tag": "best/accuracy", "group": ""}, "includeInResult": True},
    ]
    query = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_FAILURE"],
        "colParams": columns,
        "startIndex": 0,
        "sliceSize": 100,
    }
    groups = {each["name"]: each for each in tensorboard("hparams/session_groups", query)["sessionGroups"]}
    assert set(groups) == {trial.trial_id for trial in outcome.trials}
    for trial in outcome.trials:
        group = groups[trial.trial_id]
        assert group["hparams"]["alpha"] == pytest.approx(trial.parameters["alpha"])
        status = "STATUS_SUCCESS" if trial in finished(outcome) else "STATUS_FAILURE"
        assert [each["status"] for each in group["sessions"]] == [status]
        if trial in finished(outcome):
            values = {each["name"]["tag"]: each["value"] for each in group["metricValues"]}
            assert values["best/accuracy"] == pytest.approx(trial.metrics["validation_accuracy"])


@pytest.mark.slow
def test_ctrl_c_in_the_last_trials_leaves_them_unfinished(ray_session, inputs, tmp_path):
    """Tune calls them terminated."""
    wanted = search_config(2, num_train_epochs=10, learning_rate=5e-3)

    def interrupt(progress):
        if progress.values["best_value"] is not None and progress.values["running"] == 2:
            signal.raise_signal(signal.SIGINT)

    with simulated_trials(epoch_seconds=0.3):
        with pytest.raises(KeyboardInterrupt, match="interrupted"):
            search(wanted, inputs, tmp_path / "s", report=interrupt)
        outcome = search(wanted, inputs, tmp_path / "s")
    assert [trial.state for trial in outcome.trials] == ["finished"] * 2
    assert [trial.curve[-1][0] for trial in outcome.trials] == [1.0, 1.0]
    assert all(len(trial.curve) == 10 for trial in outcome.trials)


PRUNED = TRAINING.model_copy(
    update={"pruning": pruning_config(method="movement", sparsity=0.6, update_every=3, begin=0.0, end=0.6)}
)


def pruned_search(inputs, directory, **options):
    """One trial of 48 steps, whose pruning is complete after its fifth epoch."""
    wanted = search_config(1, num_train_epochs=8, learning_rate=5e-3)
    return search(wanted, inputs, directory, training=PRUNED, **options)


@pytest.mark.slow
def test_a_pruned_trial_has_an_epoch_after_its_pruning_chosen(ray_session, inputs, tmp_path):
    outcome = pruned_search(inputs, tmp_path / "s")
    trial = outcome.best
    assert trial.best_epoch >= 5
    assert trial.metrics["sparsity"] == pytest.approx(0.6, abs=1e-3)
    reported = [
        json.loads(line) for line in (tmp_path / "s/search/0000/result.json").read_text().splitlines()
    ]
    assert [each["sparsity"] for each in reported] == sorted(each["sparsity"] for each in reported)
    assert {each["counts_from"] for each in reported} == {27 / 48}
    checkpoint = tmp_path / "s" / trial.checkpoint
    weights = load_file(checkpoint / "model.safetensors")
    pruned = [each for name, each in weights.items() if "encoder" in name and each.dim() == 2]
    assert [int((each == 0).sum()) for each in pruned] == [round(0.6 * each.numel()) for each in pruned]
    assert ", sparsity 0.6" in read_log(Store(str(tmp_path / "s")), "logs/0000")[0]


def test_a_pruned_trial_that_was_interrupted_is_resumed_to_the_same_bits(inputs, tmp_path):
    """Its third report ends the first attempt."""
    arguments = {"num_train_epochs": 8, "training.pruning.sparsity": 0.8}
    sparsities = []

    def cut_off(metrics):
        sparsities.append(metrics["sparsity"])
        if len(sparsities) == 3:
            raise StorageError("cut off")

    with pytest.raises(StorageError, match="cut off"):
        run_here(inputs, tmp_path, arguments, PRUNED, name="cut", metric=LAST, report=cut_off)
    again = run_here(inputs, tmp_path, arguments, PRUNED, name="cut", metric=LAST)
    reported = run_here(inputs, tmp_path, arguments, PRUNED, name="whole", metric=LAST)
    assert again[-1]["validation_loss"] == reported[-1]["validation_loss"]
    assert "after epoch 3" in read_log(Store(str(tmp_path)), "cut/logs/0000")[0]
    assert reported[-1]["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert 0 < sparsities[2] < 0.8
    cut, whole = (
        load_file(tmp_path / epochs_of(tmp_path, name)[-1].key / "model.safetensors")
        for name in ("cut", "whole")
    )
    assert all(torch.equal(value, whole[name]) for name, value in cut.items())
