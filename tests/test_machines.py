"""A job over several machines: Ray nodes of their own processes, storage on S3, one node lost in the middle."""

import json
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from servers import S3_ENVIRONMENT, make_bucket
from test_pipeline import COMMAND, JOB, environment

from distiltune.cluster.runs import Storage
from distiltune.storage.logs import read_log

JOB_OF_MANY = {
    **JOB,
    "search": {"num_trials": 6, "space": {"num_train_epochs": 6}},
    "resources": {"trial": {"cpu": 1, "gpu": 0}, "teacher": {"cpu": 1, "gpu": 1}},
}


@pytest.fixture
def cluster():
    """A head without CPUs and three nodes, one of them with GPUs that are only counted; and how to reach it."""
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        **S3_ENVIRONMENT,
    }
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("simulated_cluster.py"))],
        env={**environment(), **own},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        yield process, process.stdout.readline().strip(), own
        process.stdin.close()
        process.wait(timeout=60)


def nodes_of_trials(run):
    """Trial id → the nodes that its log names, in order."""
    found = {}
    for trial_id in run.store.names(run.trial_logs):
        text, _ = read_log(run.store, f"{run.trial_logs}/{trial_id}")
        found[trial_id] = [line.split()[-1] for line in text.splitlines() if " on node " in line]
    return found


@pytest.mark.slow
def test_a_job_over_three_nodes_survives_the_loss_of_one(cluster, s3_endpoint, tmp_path):
    simulated, address, own = cluster
    url = make_bucket(s3_endpoint, "machines")
    run = Storage(url).create("spread")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB_OF_MANY))
    process = subprocess.Popen(
        [
            *COMMAND,
            "run",
            "job.yaml",
            "--run-id",
            "spread",
            "--storage",
            url,
            "--set",
            f"resources.address={address}",
            "--json",
        ],
        cwd=tmp_path,
        env={**environment(), **own, "DISTILTUNE_CACHE": str(tmp_path / "cache")},
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
    simulated.stdin.write("remove 1\n")
    simulated.stdin.flush()
    out, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    found = json.loads(out)
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * 6
    used = nodes_of_trials(run)
    assert set(used) == {trial["trial_id"] for trial in found["trials"]}
    assert len({node for each in used.values() for node in each}) >= 2
