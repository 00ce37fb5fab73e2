"""A job over several machines: Ray nodes of their own processes, storage on S3, one node lost in the middle."""

import json
import os
import secrets
import subprocess
import time

import pytest
import yaml
from ray.cluster_utils import Cluster
from servers import make_bucket
from test_pipeline import COMMAND, JOB, environment

from distiltune.cluster.runs import Storage
from distiltune.storage.logs import read_log

JOB_OF_MANY = {
    **JOB,
    "search": {"num_trials": 6, "space": {"num_train_epochs": 6}},
    "resources": {"trial": {"cpu": 1, "gpu": 0}, "teacher": {"cpu": 1, "gpu": 1}},
}


@pytest.fixture
def cluster(monkeypatch):
    """A head without CPUs and three nodes, one of them with GPUs that are only counted."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield made
    finally:
        made.shutdown()


def nodes_of_trials(run):
    """Trial id → the nodes that its log names, in order."""
    found = {}
    for trial_id in run.store.names(run.trial_logs):
        text, _ = read_log(run.store, f"{run.trial_logs}/{trial_id}")
        found[trial_id] = [line.split()[-1] for line in text.splitlines() if " on node " in line]
    return found


@pytest.mark.slow
def test_a_job_over_three_nodes_survives_the_loss_of_one(cluster, s3_endpoint, tmp_path):
    nodes = [cluster.add_node(num_cpus=1, num_gpus=gpus) for gpus in (2, 0, 0)]
    cluster.wait_for_nodes()
    url = make_bucket(s3_endpoint, "machines")
    run = Storage(url).create("spread")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB_OF_MANY))
    address = f"resources.address={cluster.address}"
    process = subprocess.Popen(
        [*COMMAND, "run", "job.yaml", "--run-id", "spread", "--storage", url, "--set", address, "--json"],
        cwd=tmp_path,
        env={**environment(), "DISTILTUNE_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while len(run.store.names(run.search)) == 0 or not any(
        "checkpoint" in name for name in run.store.sizes(run.search)
    ):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.5)
    cluster.remove_node(nodes[1], allow_graceful=False)
    out, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    found = json.loads(out)
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * 6
    used = nodes_of_trials(run)
    assert set(used) == {trial["trial_id"] for trial in found["trials"]}
    assert len({node for each in used.values() for node in each}) >= 2
    assert os.environ["RAY_AUTH_MODE"] == "token"
