"""The whole job with its storage on a real S3 protocol server, resume from there included."""

import json
import signal
import subprocess

import pytest
import yaml
from servers import S3_ENVIRONMENT
from small_job import COMMAND, SMALLEST_JOB, environment, eventually

from distiltune.cluster.store.runs import Storage


@pytest.fixture
def home(tmp_path):
    job = {**SMALLEST_JOB, "search": {"num_trials": 4, "space": {"num_train_epochs": 4}}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    return tmp_path


def on_s3(url, home, *arguments):
    """Run a command as on a machine with an empty cache of its own."""
    return subprocess.run(
        [*COMMAND, *arguments, "--storage", url],
        capture_output=True,
        text=True,
        cwd=home,
        env={**environment(), **S3_ENVIRONMENT, "DISTILTUNE_CACHE": str(home / "cache")},
        check=False,
        timeout=280,
    )


@pytest.mark.slow
def test_a_killed_run_on_s3_is_resumed_by_a_machine_without_its_files(home, s3_url):
    process = subprocess.Popen(
        [*COMMAND, "run", "job.yaml", "--run-id", "killed", "--storage", s3_url],
        cwd=home,
        env={**environment(), **S3_ENVIRONMENT, "DISTILTUNE_CACHE": str(home / "first")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    run = Storage(s3_url).create("killed")
    eventually(
        lambda: [n for n in run.store.sizes(run.search) if "epoch.json" in n], lambda n: len(n) > 1, 240
    )
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run.state == "interrupted"
    done = on_s3(s3_url, home, "run", "job.yaml", "--run-id", "killed", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * 4
    assert sorted(trial["number"] for trial in found["trials"]) == [0, 1, 2, 3]
