"""Searches whose state is in a store: their student, separate drivers, and failures around them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from searches import split
from transformers import BertConfig, BertForSequenceClassification

from distiltune.search.config import SearchConfig
from distiltune.search.driver.run_search import TrialInputs, run_search
from distiltune.search.space.students import ONLY_STUDENT, Student
from distiltune.search.trial.checkpoints import find_checkpoint, saved_epochs
from distiltune.storage.logs import read_log
from distiltune.storage.store import Store
from distiltune.training.data.tokenized import LabelledSplit
from distiltune.training.distillation.config import TrainingConfig

KEYS = {"experiment": "runs/a/search", "tensorboard": "runs/a/tensorboard", "logs": "runs/a/logs/trials"}


LOGGED_EPOCH = re.compile(r"^\S+ \S+ epoch (\d+):", re.MULTILINE)


def publish_student(store: Store) -> str:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForSequenceClassification(
        BertConfig(vocab_size=40, max_position_embeddings=16, num_labels=4, **shape)
    )
    model.save_pretrained(store.local("runs/a/student"))
    store.publish("runs/a/student")
    return "runs/a/student"


def search(store: Store, num_trials: int, num_epochs: int, num_rows: int = 96, **options):
    train = split(num_rows, 1)
    logits = (4 * np.eye(4, dtype=np.float32))[train.labels]
    student = "runs/a/student" if store.has_folder("runs/a/student") else publish_student(store)
    inputs = TrialInputs(
        students={ONLY_STUDENT: Student(student)},
        train={"train": LabelledSplit(train, logits)},
        validation=split(32, 2),
        out_of_scope_id=3,
        label_names=["a", "b", "c", "oos"],
    )
    space = {"num_train_epochs": num_epochs, "weight_decay": 0.0}
    config = SearchConfig.model_validate({"num_trials": num_trials, "seed": 4, "space": space})
    return run_search(
        config,
        TrainingConfig(learning_rate=5e-3, batch_size=16),
        inputs,
        store=store,
        **{**KEYS, "cpus_per_trial": 1, "gpus_per_trial": 0, **options},
    )


@contextmanager
def proxy(url: str):
    """A proxy of the S3 server that can be interrupted: its URL, and an event that interrupts it while it is set."""
    found = re.search(r"127\.0\.0\.1:(\d+)", url)
    assert found
    away = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))
    opened: list[socket.socket] = []

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if away.is_set():
                    break
                target.sendall(data)
        except OSError:
            pass
        for each in (source, target):
            each.close()

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            if away.is_set():
                client.close()
                continue
            upstream = socket.create_connection(("127.0.0.1", int(found[1])))
            opened.extend((client, upstream))
            for pair in ((client, upstream), (upstream, client)):
                threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield url.replace(found[0], f"127.0.0.1:{server.getsockname()[1]}"), away
    finally:
        server.close()
        for each in opened:
            each.close()


def driver(url: str, num_trials: int, num_epochs: int, num_rows: int, result: str) -> None:
    """Run a search as the driver of a process of its own, with its own Ray."""
    from distiltune.cluster.session.ray_session import ray_session
    from distiltune.cluster.specification.resources import ResourcesConfig

    with ray_session(ResourcesConfig(num_cpus=2)):
        outcome = search(Store(url, retry_s=10), num_trials, num_epochs, num_rows)
    Path(result).write_text(json.dumps(outcome.to_json()))


def kill(process: subprocess.Popen) -> None:
    """Kill a whole machine at once: the driver, its Ray and its workers."""
    import psutil

    family = [process.pid]
    with suppress(psutil.Error):
        family += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    for pid in family:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def eventually(look, timeout_s: float = 120):
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def saved_by_trial(store: Store) -> dict[str, int]:
    """Last saved epoch of every trial that is in the store."""
    trials = {name.split("/")[0] for name in store.sizes(KEYS["experiment"]) if "/checkpoint_" in name}
    epochs = {
        trial: find_checkpoint(saved_epochs(store, f"{KEYS['experiment']}/{trial}")) for trial in trials
    }
    return {trial: epoch.epoch for trial, epoch in epochs.items() if epoch}


def lose_a_node(url: str) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from distiltune.search.driver.run_search import RAY_WORKER_ENV

    os.environ.update(RAY_WORKER_ENV)
    store = Store(url, retry_s=10)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "dashboard_host": "127.0.0.1"})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(cluster.address, log_to_driver=False)
    lost = []

    def lose() -> None:
        eventually(lambda: len(saved_by_trial(store)) == 2 and min(saved_by_trial(store).values()) >= 2)
        lost.append(saved_by_trial(store))
        cluster.remove_node(nodes[0], allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    outcome = search(store, 2, 8, 480)
    thread.join()
    ray.shutdown()
    cluster.shutdown()
    assert [trial.state for trial in outcome.trials] == ["finished"] * 2
    logs = {trial: read_log(store, f"{KEYS['logs']}/{trial}")[0] for trial in lost[0]}
    assert sum("after epoch" in text for text in logs.values()) == 1
    for trial, text in logs.items():
        again = [epoch for epoch in map(int, LOGGED_EPOCH.findall(text)) if epoch <= lost[0][trial]]
        assert len(again) == len(set(again))
