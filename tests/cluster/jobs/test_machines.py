"""A job over several machines: Ray nodes of their own processes, storage on S3, one node lost in the middle."""

import json
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from servers import S3_ENVIRONMENT, make_bucket
from small_job import COMMAND, JOB, environment

from distiltune.cluster.store.runs import Storage
from distiltune.storage.logs import read_log

SUPPORT = Path(__file__).parents[2] / "support"
JOB_OF_MANY = {
    **JOB,
    "search": {"num_trials": 6, "space": {"num_train_epochs": 6}},
    "resources": {"trial": {"cpu": 1, "gpu": 0}, "teacher": {"cpu": 1, "gpu": 0}},
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
        [sys.executable, str(SUPPORT / "simulated_cluster.py")],
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
    """Return the nodes that each trial's log names, in order, by trial id."""
    found = {}
    for trial_id in run.store.names(run.trial_logs):
        text, _ = read_log(run.store, f"{run.trial_logs}/{trial_id}")
        found[trial_id] = re.findall(r", node (\w+),", text)
    return found


def trials_with_checkpoints(run):
    return [path.split("/")[0] for path in run.store.sizes(run.search) if path.endswith("epoch.json")]


@pytest.mark.slow
def test_a_job_over_three_nodes_survives_the_loss_of_one(cluster, s3_endpoint, tmp_path):
    simulated, address, own = cluster
    url = make_bucket(s3_endpoint, "machines")
    run = Storage(url).create("spread")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB_OF_MANY))
    options = ["--run-id", "spread", "--storage", url, "--set", f"resources.address={address}", "--json"]
    process = subprocess.Popen(
        [*COMMAND, "run", "job.yaml", *options],
        cwd=tmp_path,
        env={**environment(), **own, "DISTILTUNE_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    # A trial's log is in the store some seconds after the line was written, its checkpoint at once.
    while not (saved := [trial for trial in trials_with_checkpoints(run) if nodes_of_trials(run).get(trial)]):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.5)
    hit = saved[0]
    simulated.stdin.write(nodes_of_trials(run)[hit][0] + "\n")
    simulated.stdin.flush()
    out, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    found = json.loads(out)
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * 6
    used = nodes_of_trials(run)
    assert set(used) == {trial["trial_id"] for trial in found["trials"]}
    assert len({node for each in used.values() for node in each}) >= 2
    assert len(set(used[hit])) == 2
    assert "after epoch" in read_log(run.store, f"{run.trial_logs}/{hit}")[0]
