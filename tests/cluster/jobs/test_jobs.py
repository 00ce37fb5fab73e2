"""Runs as jobs of a real cluster: submitted, rejected, stopped and resumed; the cluster runs the shipped code."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from cluster_job import JOB, write_data
from commands import command_line, distiltune, environment, free_ports, one_line
from servers import S3_ENVIRONMENT, make_bucket

from distiltune.cluster.jobs import submission as jobs
from distiltune.cluster.jobs.shipping import job_runtime_env
from distiltune.cluster.nodes.addresses import find_cluster, job_client
from distiltune.cluster.session.shipped_code import FOLDERS, ROOT, staged_code
from distiltune.cluster.specification.config import load_config
from distiltune.cluster.store.runs import Run, Storage
from distiltune.errors import InputError, RunNotFoundError
from distiltune.export.artifact.seal import verify_artifact

pytestmark = pytest.mark.timeout(
    900
)  # the first test of a session also starts the cluster and waits for a run
SEARCH = ["--set", "search.num_trials=4", "--set", "search.space.num_train_epochs.value=8"]
# One trial ends soon, two go on for long, side by side, and one waits for them.
LONG = [
    *("--set", "search.num_trials=4"),
    *("--set", "search.space.num_train_epochs={type: int, low: 1, high: 100}"),
    *("--set", f"search.points={json.dumps([{'num_train_epochs': each} for each in (1, 100, 100, 1)])}"),
]


class Head:
    """A head of this module's own, and the commands that a user runs against it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state = home / "state"
        self.job = str(home / "job.yaml")
        Path(self.job).write_text(yaml.safe_dump(JOB))

    def __call__(self, *arguments, **others):
        return distiltune(self.state, *arguments, timeout=400, **{**S3_ENVIRONMENT, **others})

    def up(self):
        port, dashboard = free_ports(2)
        done = self("cluster", "up", "--cpus", 2, "--port", port, "--dashboard-port", dashboard)
        assert done.returncode == 0, done.stderr
        self.address = f"http://127.0.0.1:{dashboard}"
        self.join_address = f"127.0.0.1:{port}"
        self.token_file = self.state / "token"

    def submit(self, storage, *arguments):
        return self("submit", self.job, "--storage", storage, *arguments)

    @property
    def client(self):
        return job_client(find_cluster(self.address, self.token_file))


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    found = Head(tmp_path_factory.mktemp("jobs"))
    found.up()
    yield found
    done = found("cluster", "down")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def ask(head, distiltune_here):
    """Run the same commands in this process, and return what each prints on stdout."""

    def run_command(*arguments):
        done = distiltune_here(head.state, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_command


@pytest.fixture(scope="module")
def finished(head, s3_endpoint):
    """A storage on S3 with one finished run, ``first``, sent from files of this machine."""
    storage = make_bucket(s3_endpoint, "jobs")
    done = head.submit(storage, "--run-id", "first", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert (found["run_id"], found["submitted"], found["state"]) == ("first", True, "submitted")
    run = Run(Storage(str(storage)).store, "first")
    assert wait_for(run, "finished", "failed") == "finished", json.dumps(run.read("run.json"))
    return storage


def wait_for(run, *states, within_s=240):
    """Wait until the run is in one of these states, or the time is over; return its state."""
    deadline = time.monotonic() + within_s
    while run.state not in states and time.monotonic() < deadline:
        time.sleep(0.5)
    return run.state


def run_of(storage, run_id):
    return Run(Storage(str(storage)).store, run_id)


def files(storage):
    """List the files of a storage, except for uploaded inputs, which other runs may share."""
    paths = (path.relative_to(storage) for path in Path(storage).rglob("*") if path.is_file())
    return sorted(str(path) for path in paths if path.parts[:2] != ("cache", "inputs"))


def test_a_submitted_job_becomes_a_finished_run(head, finished):
    run = run_of(finished, "first")
    submission = run.read("submission.json")
    assert submission.items() >= {"address": head.address, "submission_id": "first", "attempt": 1}.items()
    assert not submission["pending"]
    assert run.stage_record("artifact")["state"] == "finished"
    job = next(job for job in head.client.list_jobs() if job.submission_id == "first")
    assert job.metadata["run_id"] == "first"
    assert job.metadata["storage"] == finished.partition("?")[0]
    log = head.client.get_job_logs("first")
    assert "artifact" in log
    assert "Traceback" not in log
    assert not [job for job in head.client.list_jobs() if "check" in str(job.submission_id)]


def test_its_artifact_is_pulled_from_s3_by_a_machine_that_has_none_of_it(
    ask, finished, tmp_path, monkeypatch
):
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / "cache"))
    there = ("--storage", finished)
    assert json.loads(ask("show", "first", "--json", *there))["artifact"] == (
        f"{finished.partition('?')[0]}/runs/first/artifact"
    )
    ask("pull", "first", "--to", tmp_path / "model", *there)
    assert verify_artifact(tmp_path / "model").made_from["run_id"] == "first"
    assert [(run["run_id"], run["state"]) for run in json.loads(ask("runs", "--json", *there))] == [
        ("first", "finished")
    ]
    assert "| **" in ask("report", "first", *there)


def test_the_same_job_again_is_no_error_and_another_under_its_id_is_refused(head, ask, finished):
    again = ask("submit", head.job, "--storage", finished, "--run-id", "first")
    assert re.search("run first .*finished", again)
    assert f"distiltune pull first --to DIR --storage '{finished}'" in again
    config = load_config(head.job, ["search.num_trials=3"], finished)
    with pytest.raises(InputError, match=r"--run-id: run first .*search"):
        jobs.submit(config, "job", run_id="first", address=head.address, token_file=head.token_file)
    run = run_of(finished, "first")
    assert jobs.stop(run) == "finished"
    assert not jobs.resume(run, token_file=head.token_file).sent


def running_jobs(head):
    return {job.submission_id for job in head.client.list_jobs() if not job.status.is_terminal()}


def refused(head, tmp_path, *overrides, **arguments):
    """Submit a job that must be refused, check that it left nothing behind, and return the message."""
    storage = str(tmp_path / "store")
    config = load_config(head.job, list(overrides), storage)
    given = {"address": head.address, "token_file": head.token_file, **arguments}
    before = running_jobs(head)
    with pytest.raises(InputError) as raised:
        jobs.submit(config, "job", **given)
    assert files(storage) == []
    assert Storage(storage).list() == []
    assert running_jobs(head) <= before
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_cluster_that_does_not_respond_or_has_another_token_is_one_line(head, tmp_path):
    done = head.submit(tmp_path / "store", "--address", "http://127.0.0.1:1")
    one_line(done, "--address: ", "http://127.0.0.1:1")
    wrong = tmp_path / "token"
    wrong.write_text("wrong")
    wrong.chmod(0o600)
    assert "--token-file" in refused(head, tmp_path, token_file=wrong)


def without_train(overrides):
    return [each for each in overrides if not each.startswith("data.train=")]


@pytest.mark.slow
def test_what_only_the_cluster_can_see_is_refused_before_the_job_is_sent(head, finished, tmp_path):
    data = write_data(tmp_path)
    url = f"s3://nothing-here/train.csv?endpoint_override={head.address.removeprefix('http://')}&scheme=http"
    message = refused(head, tmp_path, *without_train(data), f"data.train={url}")
    assert message.startswith("data.train: s3://nothing-here/train.csv cannot be read")


@pytest.mark.slow
def test_what_no_node_can_hold_is_refused_before_the_job_is_sent(head, finished, tmp_path):
    data = write_data(tmp_path)
    message = refused(head, tmp_path, *data, "resources.trial.cpu=64", "resources.export.cpu=65")
    assert message.startswith("resources.trial: 64 CPUs and 0 GPUs given, ")


def test_what_can_be_seen_here_is_refused_without_the_cluster(head, tmp_path):
    data = write_data(tmp_path)
    (tmp_path / "train.csv").write_text('{"text": 1}')
    assert re.search("not CSV.*JSON.*jsonl", refused(head, tmp_path, *data))
    assert "does not exist" in refused(
        head, tmp_path, *without_train(data), f"data.train={tmp_path}/none.csv"
    )
    config = load_config(head.job, [], "/proc/nothing")
    with pytest.raises(InputError, match=r"storage\.path: /proc/nothing cannot be written"):
        jobs.submit(config, "job", address=head.address, token_file=head.token_file)


def test_an_unknown_run_can_be_neither_stopped_nor_resumed(tmp_path):
    with pytest.raises(RunNotFoundError):
        Storage(str(tmp_path)).open("none")


def copy_of_the_code(directory):
    with staged_code() as code:
        return Path(shutil.copytree(code, directory / "distiltune"))


def append(path, text):
    path.write_text(path.read_text() + text)


def test_the_code_is_named_by_its_content(tmp_path):
    from ray._private.runtime_env.packaging import get_uri_for_directory

    def name(root):
        with staged_code(root) as code:
            assert code.name == "distiltune"
            return get_uri_for_directory(str(code), include_gitignore=True)

    same = name(ROOT)
    copy = copy_of_the_code(tmp_path)
    assert name(copy) == same
    assert sum(path.stat().st_size for path in copy.rglob("*")) < 5e6
    append(copy / "training" / "distillation" / "trainer.py", "#")
    assert name(copy) != same


def test_all_of_the_package_is_sent_and_nothing_else(tmp_path):
    copy = copy_of_the_code(tmp_path)
    named = re.findall(r'^ {4}"distiltune\.(\w+)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert sorted(FOLDERS) == sorted(named)
    assert {path.name for path in copy.iterdir()} == {
        *FOLDERS,
        "__init__.py",
        "drawing.py",
        "errors.py",
        "progress.py",
        "texts.py",
    }
    assert (copy / "cluster" / "specification" / "presets" / "quickstart.yaml").is_file()
    assert (copy / "training" / "data" / "sources" / "corpus" / "embedded.json").is_file()
    assert not list(copy.rglob("__pycache__"))


WHERE = """
import json, os, distiltune, ray
ray.init(os.environ["RAY_ADDRESS"], log_to_driver=False)
@ray.remote
def there():
    import distiltune
    return distiltune.__file__, getattr(distiltune, "MARK", None), distiltune.__version__
print("FOUND", json.dumps([[distiltune.__file__, getattr(distiltune, "MARK", None), distiltune.__version__],
    ray.get(there.remote()), len(json.load(open("job.json"))["long"])]))
"""


@pytest.mark.slow
def test_changed_code_of_the_same_version_runs_and_wins_over_the_installed_one(head, tmp_path):
    copy = copy_of_the_code(tmp_path)
    found = []
    for mark in ("one", "two"):
        append(copy / "__init__.py", f'\nMARK = "{mark}"\n')
        with job_runtime_env({"long": "x" * 200_000}, copy) as runtime_env:
            job = head.client.submit_job(
                entrypoint=f"python -P -c '{WHERE}'",
                runtime_env=runtime_env,
            )
        while not head.client.get_job_status(job).is_terminal():
            time.sleep(0.3)
        log = head.client.get_job_logs(job)
        assert "FOUND" in log, log
        found.append(json.loads(log.partition("FOUND ")[2].splitlines()[0]))
    for mark, (driver, worker, length) in zip(("one", "two"), found, strict=True):
        assert length == 200_000
        assert driver == worker
        assert driver[1] == mark
        assert "py_modules_files" in driver[0]
    assert found[0][0][2] == found[1][0][2]


def wait_for_trial(run):
    """Wait until a trial is done."""
    deadline = time.monotonic() + 200
    while (run.read(run.progress("search")) or {}).get("done", 0) < 1:
        assert run.state in ("submitted", "running"), run.read("run.json")
        assert time.monotonic() < deadline
        time.sleep(0.2)


def every_trial_ran_once(run):
    trials = run.stage_record("search")["result"]["trials"]
    assert len({trial["trial_id"] for trial in trials}) == len(trials) == 4
    assert {trial["state"] for trial in trials} == {"finished"}


@pytest.mark.slow
def test_a_run_is_stopped_in_its_search_and_resumed(head, finished):
    run = run_of(finished, "long")
    assert head.submit(finished, "--run-id", "long", *LONG).returncode == 0
    wait_for_trial(run)
    with pytest.raises(InputError, match="run long is running; watch it with `distiltune status long`"):
        jobs.resume(run)
    stopped = head("stop", "long", "--storage", finished)
    assert stopped.returncode == 0, stopped.stderr
    assert re.search(
        rf"run long is stopped.*: distiltune resume long --storage '{re.escape(finished)}'", stopped.stdout
    )
    assert run.state == "stopped"
    resumed = head("resume", "long", "--storage", finished)
    assert resumed.returncode == 0, resumed.stderr
    assert wait_for(run, "finished", "failed") == "finished"
    assert run.read("submission.json")["submission_id"] == "long-2"
    every_trial_ran_once(run)


def spans(run, *names):
    """First and last moment of each log."""
    found = []
    for name in names:
        text = "".join(run.store.read(f"{name}/{part}").decode() for part in run.store.names(name))
        times = re.findall(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", text, re.MULTILINE)
        found.append((datetime.fromisoformat(times[0]), datetime.fromisoformat(times[-1])))
    return found


@pytest.mark.slow
def test_two_runs_at_once_share_the_cluster_and_none_trains_while_the_other_is_measured(head, finished):
    ids = ("left", "right")
    with ThreadPoolExecutor(2) as pool:
        sent = list(pool.map(lambda name: head.submit(finished, "--run-id", name, *SEARCH), ids))
    assert [done.returncode for done in sent] == [0, 0], [done.stderr for done in sent]
    left, right = (run_of(finished, name) for name in ids)
    assert [wait_for(run, "finished", "failed") for run in (left, right)] == ["finished"] * 2
    for run, other in ((left, right), (right, left)):
        every_trial_ran_once(run)
        [(began, ended)] = spans(run, run.stage_log("benchmark"))
        logs = [f"{other.trial_logs}/{name}" for name in other.store.names(other.trial_logs)]
        assert len(logs) == 4
        logs += [other.stage_log(stage) for stage in ("teacher", "benchmark")]
        logs += [other.stage_log("export", part) for part in other.store.names(other.stage_log("export"))]
        for first, last in spans(other, *logs):
            assert last <= began or first >= ended


@pytest.mark.slow
def test_ctrl_c_while_submitting_leaves_nothing(head, tmp_path):
    storage = tmp_path / "store"
    data = write_data(tmp_path)
    options = [part for each in data for part in ("--set", each)]
    process = subprocess.Popen(
        command_line("submit", head.job, "--storage", storage, "--run-id", "gone", *options),
        env=environment(head.state),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    line = ""
    while "checking the job" not in line:
        line = process.stderr.readline()
        assert line or process.poll() is None
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert message.strip() == "error: interrupted; nothing was submitted"
    assert files(storage) == []
    assert [job for job in head.client.list_jobs() if "gone" in str(job.submission_id)] == []


@pytest.mark.slow
def test_the_reason_why_a_job_cannot_start_is_in_its_run(head, tmp_path):
    """The driver rejects changes between the check and its start; here the uploaded files are gone."""
    storage = tmp_path / "store"
    config = load_config(head.job, write_data(tmp_path), str(storage))
    jobs.submit(config, "job", address=head.address, token_file=head.token_file, run_id="gone")
    shutil.rmtree(storage / "cache" / "inputs")
    run = run_of(storage, "gone")
    assert wait_for(run, "finished", "failed") == "failed"
    assert "train.csv" in run.read("run.json")["error"]


@pytest.mark.slow
def test_a_run_of_this_machine_is_stopped_and_resumed_here_and_then_on_the_cluster(head, tmp_path):
    storage = tmp_path / "store"
    options = [part for each in write_data(tmp_path) for part in ("--set", each)]
    process = subprocess.Popen(
        command_line("run", head.job, "--storage", storage, "--run-id", "own", *LONG, *options),
        env=environment(head.state),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    run = run_of(storage, "own")
    deadline = time.monotonic() + 100
    while run.state != "running" and time.monotonic() < deadline:
        time.sleep(0.2)
    wait_for_trial(run)
    assert head("stop", "own", "--storage", storage).returncode == 0
    assert process.wait(timeout=60) == 130
    assert run.state == "stopped"
    resumed = head(
        "resume", "own", "--storage", storage, "--address", head.address, "--token-file", head.token_file
    )
    assert resumed.returncode == 0, resumed.stderr
    assert wait_for(run, "finished", "failed") == "finished"
    every_trial_ran_once(run)


@pytest.mark.slow
def test_a_directory_that_a_node_does_not_share_is_refused(head, tmp_path):
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs root and unshare for a node that sees other directories")
    storage = tmp_path / "store"
    storage.mkdir()
    alone = ("unshare", "-m", "sh", "-c", f'mount -t tmpfs none {storage} && exec "$@"', "sh")
    joined = distiltune(
        head.state,
        "cluster",
        "join",
        head.join_address,
        "--token-file",
        head.token_file,
        "--cpus",
        1,
        prefix=alone,
    )
    assert joined.returncode == 0, joined.stderr
    message = refused(head, tmp_path)
    assert message.startswith(f"storage.path: {storage} is a directory of one machine, ")
    assert message.endswith("s3://…, or a directory that all nodes mount")


@pytest.mark.slow
def test_a_run_in_s3_is_resumed_on_another_cluster(tmp_path, tmp_path_factory, s3_url):
    data = write_data(tmp_path)
    options = [part for each in data for part in ("--set", each)]
    first, second = (Head(tmp_path_factory.mktemp(name)) for name in ("one", "two"))
    run = run_of(s3_url, "moved")
    first.up()
    try:
        sent = first.submit(s3_url, "--run-id", "moved", *LONG, *options)
        assert sent.returncode == 0, sent.stderr
        wait_for_trial(run)
    finally:
        assert first("cluster", "down").returncode == 0
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.csv").unlink()
    assert wait_for(run, "interrupted", "failed", within_s=60) == "interrupted"
    second.up()
    try:
        gone = second("resume", "moved", "--storage", s3_url)
        one_line(gone, "--address", first.address)
        own = ("--address", second.address, "--token-file", second.token_file)
        resumed = second("resume", "moved", "--storage", s3_url, *own)
        assert resumed.returncode == 0, resumed.stderr
        assert wait_for(run, "finished", "failed") == "finished"
    finally:
        assert second("cluster", "down").returncode == 0
    every_trial_ran_once(run)
    assert run.store.has_folder(run.artifact)
