"""Trials of several processes on a real local Ray: the same training as in one process, and no process outlives it."""

from __future__ import annotations

import json
import os
import signal
import time
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from local_trial import run_here
from safetensors.torch import load_file
from searches import split
from transformers import BertConfig, BertForSequenceClassification

from distiltune.cluster.specification.config import load_config
from distiltune.cluster.specification.resources import ResourcesConfig
from distiltune.errors import ConfigError
from distiltune.search.config import SearchConfig
from distiltune.search.driver import run_search as running
from distiltune.search.driver.run_search import TrialInputs, run_search
from distiltune.search.space.batches import check_batches
from distiltune.search.space.students import ONLY_STUDENT, Student
from distiltune.search.trial.checkpoints import saved_epochs
from distiltune.storage.logs import read_log
from distiltune.storage.store import Store
from distiltune.training.data.tokenized import LabelledSplit
from distiltune.training.distillation.config import TrainingConfig

# Tolerances for sums of float32 in another order: of losses near 1, and of weights after 21 steps of AdamW.
LOSS_TOLERANCE = 1e-6
WEIGHT_TOLERANCE = 1e-6
LOSSES = ("train_loss", "train_cross_entropy", "train_distillation", "validation_loss")
FIRST, FURTHER = "ray::ImplicitFunc", "ray::Rank"  # processes of a trial, as Ray names them


def publish_student(store: Store, dropout: float) -> str:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = BertConfig(vocab_size=40, max_position_embeddings=16, num_labels=4, **shape, **rates)
    BertForSequenceClassification(config).save_pretrained(store.local("student"))
    store.publish("student")
    return "student"


def inputs_of(student: str, num_rows: int) -> TrialInputs:
    train = split(num_rows, 1)
    return TrialInputs(
        students={ONLY_STUDENT: Student(student)},
        train={"train": LabelledSplit(train, (4 * np.eye(4, dtype=np.float32))[train.labels])},
        validation=split(32, 2),
        out_of_scope_id=3,
        label_names=["a", "b", "c", "oos"],
    )


def training(**arguments) -> TrainingConfig:
    # A gradient that is 0 but for rounding must not become a step as large as any, as it would by Adam's 1e-8.
    arguments = {"bf16": False, "adam_epsilon": 1e-4, **arguments}
    return TrainingConfig(learning_rate=5e-3, batch_size=16, arguments=arguments)


def search(
    store: Store, *, processes: int, num_rows: int = 96, num_epochs: int = 3, dropout: float = 0.0, **options
):
    """One trial."""
    space = {"num_train_epochs": num_epochs, "alpha": 0.5, "temperature": 2, **options.pop("space", {})}
    config = SearchConfig.model_validate({"space": space, "metric": "validation_loss", "mode": "min"})
    return run_search(
        config,
        training(**options.pop("arguments", {})),
        inputs_of(publish_student(store, dropout), num_rows),
        store=store,
        experiment="search",
        tensorboard="tensorboard",
        logs="logs",
        cpus_per_trial=1,
        gpus_per_trial=options.pop("gpus", 0),
        processes_per_trial=processes,
        **options,
    )


def reports(store: Store, trial_id: str) -> list[dict]:
    """Everything that the trial reported, one an epoch."""
    content = store.read(f"search/{trial_id}/result.json")
    assert content is not None
    return [json.loads(line) for line in content.decode().splitlines()]


def last_weights(store: Store, trial: str) -> dict[str, torch.Tensor]:
    assert store.directory is not None
    last = max(saved_epochs(store, trial), key=lambda each: each.epoch)
    return load_file(store.directory / last.key / "model.safetensors")


def processes_of_trials(name: str) -> list[psutil.Process]:
    """Return the processes of trials in this process's Ray."""
    found = []
    for each in psutil.Process().children(recursive=True):
        try:
            if any(name in part for part in each.cmdline()):
                found.append(each)
        except psutil.Error:
            continue
    return found


def eventually(look, timeout_s: float = 20) -> bool:
    deadline = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def none_is_left() -> bool:
    return eventually(lambda: not processes_of_trials(FURTHER))


@pytest.mark.parametrize(
    ("num_rows", "arguments"),
    [
        # The last batch of an epoch has 5 texts: 5 for the first process, none for the second.
        (101, {}),
        # It has 11: 8 and 3; of two micro-batches a step.
        pytest.param(107, {"gradient_accumulation_steps": 2}, marks=pytest.mark.slow),
        pytest.param(96, {"train_sampling_strategy": "random"}, marks=pytest.mark.slow),
        # The divisor of a step is the sum of the weights in both processes; both draw the same texts.
        pytest.param(101, {"balance": "class_weights"}, marks=pytest.mark.slow),
        pytest.param(107, {"balance": "sampler"}, marks=pytest.mark.slow),
        # Each process splits its part of a batch into passes of its own number.
        pytest.param(101, {"max_batch_tokens": 20}, marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one_does(num_rows, arguments, ray_session, tmp_path):
    """The single process is this one."""
    store = Store(str(tmp_path / "two"))
    trial = search(store, processes=2, num_rows=num_rows, arguments=arguments).best
    two = reports(store, trial.trial_id)
    assert none_is_left()
    one = run_here(
        inputs_of(str(tmp_path / "two" / "student"), num_rows),
        tmp_path / "one",
        {"num_train_epochs": 3, "alpha": 0.5, "temperature": 2},
        training(**arguments),
        metric=("validation_loss", "min"),
    )
    curves = [[each[name] for each in reported for name in LOSSES] for reported in (one, two)]
    assert [each["epoch"] for each in two] == [1, 2, 3]
    assert two[-1]["curve"] == [[(n + 1) / 3, each["validation_loss"]] for n, each in enumerate(two)]
    assert curves[0][0] > curves[0][-4] + 0.1, "it learns"
    assert curves[1] == pytest.approx(curves[0], abs=LOSS_TOLERANCE)
    expected = last_weights(Store(str(tmp_path / "one")), "one/search/0000")
    for name, value in last_weights(store, f"search/{trial.trial_id}").items():
        assert (value - expected[name]).abs().max() < WEIGHT_TOLERANCE, name


def search_and_kill(store: Store, name: str):
    """A trial of four epochs; a process of it is killed after the second."""
    killed = []

    def kill_one(progress):
        if progress.values["best_trial_id"] is None or killed:
            return
        if max(each.epoch for each in saved_epochs(store, f"search/{progress.values['best_trial_id']}")) >= 2:
            (process,) = processes_of_trials(name)
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process)

    trial = search(store, processes=2, num_epochs=4, dropout=0.1, report=kill_one).best
    assert len(killed) == 1
    assert trial.state == "finished"
    log, _ = read_log(store, f"logs/{trial.trial_id}")
    assert "after epoch 2" in log
    assert none_is_left()
    return trial, log


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees fewer than two GPUs on this machine")
def test_two_processes_on_a_gpu_each_train_as_one_on_the_cpu(ray_session, tmp_path):
    """With NCCL; the products of a GPU are rounded otherwise."""
    store = Store(str(tmp_path / "two"))
    trial = search(store, processes=2, gpus=1).best
    two = reports(store, trial.trial_id)
    assert none_is_left()
    one = run_here(
        inputs_of(str(tmp_path / "two" / "student"), 96),
        tmp_path / "one",
        {"num_train_epochs": 3, "alpha": 0.5, "temperature": 2},
        training(),
        metric=("validation_loss", "min"),
    )
    curves = [[each[name] for each in reported for name in LOSSES] for reported in (one, two)]
    assert curves[1] == pytest.approx(curves[0], abs=1e-2)


@pytest.fixture(scope="module")
def killed(ray_session, tmp_path_factory):
    """Returns the store, the trial and the log of a search in which a process of this name was killed."""

    @cache
    def of(name: str):
        store = Store(str(tmp_path_factory.mktemp("killed")))
        return store, *search_and_kill(store, name)

    return of


@pytest.fixture(scope="module")
def whole(ray_session, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The last weights of the same trial, none of whose processes was killed."""
    store = Store(str(tmp_path_factory.mktemp("whole")))
    trial = search(store, processes=2, num_epochs=4, dropout=0.1).best
    return last_weights(store, f"search/{trial.trial_id}")


@pytest.mark.slow
def test_a_trial_whose_process_is_killed_is_resumed_from_its_last_epoch(killed):
    store, trial, log = killed(FURTHER)
    reported = reports(store, trial.trial_id)
    assert [each["epoch"] for each in reported] == [1, 2, 3, 4]
    assert reported[-1]["curve"] == [
        [(n + 1) / 4, each["validation_loss"]] for n, each in enumerate(reported)
    ]
    assert "process 1 of 2 failed" in log
    assert "RankLostError: process 1 of the trial's 2 was lost" in log


@pytest.mark.slow
@pytest.mark.parametrize("name", [FIRST, FURTHER])
def test_a_killed_trial_ends_with_the_weights_of_one_that_was_not(name, killed, whole):
    store, trial, _ = killed(name)
    weights = last_weights(store, f"search/{trial.trial_id}")
    # Dropout included: every process continues with its own random numbers.
    assert all(torch.equal(weights[key], whole[key]) for key in whole)


def tune_with_two_processes(directory: Path, trial, **options):
    """Run a trial of the test's own with Tune, and return its results."""
    from ray import tune

    from distiltune.search.driver.experiment import signal_handlers_restored

    resources = tune.PlacementGroupFactory([{"CPU": 1}] * 2)
    tuner = tune.Tuner(
        tune.with_resources(trial, resources),
        run_config=tune.RunConfig(storage_path=str(directory), name="search", verbose=0, **options),
    )
    with signal_handlers_restored():
        (result,) = tuner.fit()
    return result


@pytest.mark.slow
def test_a_trial_that_is_stopped_takes_its_processes_along(ray_session, tmp_path):
    began = tmp_path / "began"

    def trial(config):
        from ray import tune

        from distiltune.search.trial.ranks import data_parallel

        def waits_for_ever(work):
            import torch.distributed as dist

            began.touch()
            dist.barrier()

        with data_parallel(2, waits_for_ever, (), use_gpu=False, num_threads=1, log=lambda line: None):
            while not began.exists():
                time.sleep(0.05)
            tune.report({"epoch": 1})
            raise AssertionError("it was stopped")

    result = tune_with_two_processes(tmp_path, trial, stop={"epoch": 1})
    assert result.error is None
    assert began.exists()
    assert none_is_left()


@pytest.mark.slow
def test_what_an_additional_process_raises_is_raised_by_the_trial(ray_session, tmp_path):
    folder = tmp_path / "folder"

    def trial(config):
        from distiltune.search.trial.ranks import data_parallel

        def refuses(work):
            from distiltune.errors import InputError

            folder.write_text(str(work))
            raise InputError("the data does not fit")

        with data_parallel(2, refuses, (), use_gpu=False, num_threads=1, log=lambda line: None):
            import torch.distributed as dist

            dist.barrier()

    result = tune_with_two_processes(tmp_path, trial)
    assert "InputError" in str(result.error)
    assert "the data does not fit" in str(result.error)
    assert none_is_left()
    assert not Path(folder.read_text()).exists()


@pytest.mark.slow
def test_a_first_process_that_does_not_return_is_ended(ray_session, tmp_path):
    def trial(config):
        from distiltune.search.trial import ranks

        ranks._STUCK_AFTER_S = 1.0

        def dies(work):
            os.kill(os.getpid(), signal.SIGKILL)

        with ranks.data_parallel(2, dies, (), use_gpu=False, num_threads=1, log=lambda line: None):
            time.sleep(3600)

    result = tune_with_two_processes(tmp_path, trial)
    assert "died" in str(result.error)
    assert none_is_left()


def config(**space) -> SearchConfig:
    return SearchConfig.model_validate({"space": space})


@pytest.mark.parametrize(
    ("space", "training", "message"),
    [
        ({}, {"batch_size": 6}, "training.batch_size: 6 given, .*resources.trial.processes is 4"),
        ({}, {"arguments": {"batch_size": 10}}, "training.arguments.batch_size: 10 given"),
        ({"batch_size": {"type": "choice", "values": [8, 18]}}, {}, "search.space.batch_size: 18 given"),
        (
            {"per_device_train_batch_size": {"type": "int", "low": 8, "high": 16}},
            {},
            r"per_device_train_batch_size: any number from 8 to 16 given.*a choice of multiples of 4",
        ),
        ({}, {"arguments": {"auto_find_batch_size": True}}, r"training\.arguments\.auto_find_batch_size"),
    ],
)
def test_a_batch_that_cannot_be_split_is_refused(space, training, message):
    check_batches(config(**space), TrainingConfig(**training), 1)
    with pytest.raises(ConfigError, match=message):
        check_batches(config(**space), TrainingConfig(**training), 4)


def test_a_batch_that_every_trial_overrides_is_not_checked():
    check_batches(config(batch_size=8), TrainingConfig(batch_size=7), 4)


def test_processes_that_the_nodes_do_not_hold_are_refused(ray_session):
    from distiltune.cluster.pipeline.checks.cluster import check_resources

    def resources(**trial) -> ResourcesConfig:
        return ResourcesConfig.model_validate({"trial": trial})

    check_resources(resources(processes=2))
    check_resources(resources(processes=4, cpu=0.5))
    with pytest.raises(ConfigError, match=r"resources\.trial: 3 processes of 1 CPUs and 0 GPUs each.* 2 of"):
        check_resources(resources(processes=3))
    with pytest.raises(ConfigError, match=r"resources\.trial"):
        check_resources(resources(cpu=3))
    grows = {"trial": {"processes": 8, "cpu": 2}, "autoscaling": [{"cpu": 4}]}
    check_resources(ResourcesConfig.model_validate(grows))
    # A cluster that adds GPUs trains on them by default, so a trial must fit beside one.
    on_gpu = {"trial": {"cpu": 2}, "autoscaling": [{"cpu": 1, "gpu": 1}]}
    with pytest.raises(ConfigError, match=r"resources\.trial: 2 CPUs and 1 GPUs given"):
        check_resources(ResourcesConfig.model_validate(on_gpu))
    check_resources(ResourcesConfig.model_validate({**on_gpu, "trial": {"cpu": 1}}))
    check_resources(ResourcesConfig.model_validate({**on_gpu, "trial": {"cpu": 2, "gpu": 0}}))


class SettledError(Exception):
    """Raised in place of trials."""


@pytest.mark.parametrize("processes", [1, 2])
def test_no_process_of_several_uses_the_multi_process_service(processes, tmp_path, monkeypatch):
    settled, service = [], {"ab" * 28: "/run/mps"}

    def trainable(inputs, settings, resources):
        settled.append(settings)
        raise SettledError

    monkeypatch.setattr(running, "_trainable", trainable)
    with pytest.raises(SettledError):
        search(Store(str(tmp_path)), processes=processes, mps=service, check_resources=False)
    assert settled[0].mps == (service if processes == 1 else {})


@pytest.mark.parametrize(
    ("gpu", "processes", "named"),
    [
        (0.5, 2, "set gpu to 0 or 1, or processes to 1"),
        (2, 2, "set gpu to 0 or 1, or processes to 1"),
        (2, 1, "set processes to 2 and gpu to 1"),
        (3.5, 1, "set processes to 4 and gpu to 1"),
    ],
)
def test_a_process_computes_on_one_gpu_of_its_own(gpu, processes, named):
    with pytest.raises(
        ConfigError, match=rf"resources\.trial.*gpu {gpu:g} given with processes {processes}.*{named}"
    ):
        load_config("quickstart", [f"resources.trial.gpu={gpu}", f"resources.trial.processes={processes}"])


@pytest.mark.parametrize("gpu", [0, 0.5, 1, "auto"])
def test_what_one_process_can_use_is_accepted(gpu):
    assert load_config("quickstart", [f"resources.trial.gpu={gpu}"]).resources.trial.gpu == gpu


@pytest.mark.parametrize("task", ["teacher", "export", "benchmark"])
def test_every_other_task_computes_on_one_gpu(task):
    assert getattr(load_config("quickstart", [f"resources.{task}.gpu=1"]).resources, task).gpu == 1
    with pytest.raises(ConfigError, match=rf"resources\.{task}.*gpu 2 given.*1 or less"):
        load_config("quickstart", [f"resources.{task}.gpu=2"])


@pytest.mark.parametrize("value", ["null", "-1", "true", "many", "[1]", "1e10"])
def test_an_invalid_share_of_a_gpu_is_refused(value):
    with pytest.raises(ConfigError, match=r"resources\.trial\.gpu.*accepted: auto, or a number from 0"):
        load_config("quickstart", [f"resources.trial.gpu={value}"])


def test_both_backends_use_the_interface_that_ray_has_for_the_node(monkeypatch):
    from distiltune.search.trial import process_group

    monkeypatch.setattr(process_group, "get_node_ip_address", lambda: "10.1.2.3")
    monkeypatch.setattr(process_group, "_interface", {"10.1.2.3": "eth7"}.get)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    member = process_group.GroupMember(1, 2, "10.1.2.3", 1234, use_gpu=True, num_threads=1)
    found = process_group._environment(member)
    assert (found["GLOO_SOCKET_IFNAME"], found["NCCL_SOCKET_IFNAME"]) == ("eth7", "=eth7")
    assert (found["RANK"], found["LOCAL_RANK"]) == ("1", "0"), "each sees its own GPU alone"
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    assert process_group._environment(member)["NCCL_SOCKET_IFNAME"] == "ib0"


def test_a_rank_trains_on_its_own_device(monkeypatch):
    from contextlib import contextmanager

    from distiltune.search.trial import ranks

    order = []

    @contextmanager
    def entered(name):
        order.append(name)
        yield

    monkeypatch.setattr(ranks, "own_device", lambda *, use_gpu: entered(f"device, GPU {use_gpu}"))
    monkeypatch.setattr(ranks, "arrive", lambda member: "store")
    monkeypatch.setattr(ranks, "joined", lambda member, store: entered("group"))
    member = ranks.GroupMember(1, 2, "host", 1, use_gpu=True, num_threads=1)
    rank = ranks.Rank()
    rank.train(member, lambda *_: order.append("training"), ())
    rank.clear()
    assert order == ["device, GPU True", "group", "training"]
