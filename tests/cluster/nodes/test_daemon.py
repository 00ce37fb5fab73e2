"""`distiltune cluster` on one machine: real daemons, from where they can be reached, and that they leave nothing."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

import psutil
import pytest
from commands import command_line, distiltune, environment, free_ports, one_line

from distiltune.cluster.nodes import daemon

HTTP_PATHS = ("/api/jobs/", "/api/version", "/nodes", "/nodes?view=summary", "/logs", "/api/v0/nodes")
HTTP_PATHS += ("/api/v0/logs", "/api/cluster_status", "/api/packages/gcs/a.zip", "/events", "/metrics")
AGENT_PATHS = ("/api/job_agent/jobs/", "/logs", "/metrics")


class Cluster:
    """A head started by the command line, in a state directory of its own."""

    def __init__(self, state: Path, *options):
        self.state = state
        self.port, self.dashboard_port = free_ports(2)
        self.options = ["--port", self.port, "--dashboard-port", self.dashboard_port, *options]
        self.facts = {}

    def command(self, *arguments, **others):
        return distiltune(self.state, "cluster", *arguments, **others)

    def up(self):
        done = self.command("up", *self.options, "--json")
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        self.facts = json.loads(done.stdout)
        return self.facts

    def token(self):
        return Path(self.facts["token_file"]).read_text()

    def records(self):
        return [json.loads(path.read_text()) for path in self.state.glob("*.json")]

    def processes(self):
        """Every process that a record of this cluster names, with its descendants."""
        found = []
        for record in self.records():
            with contextlib.suppress(psutil.NoSuchProcess):
                first = psutil.Process(record["pid"])
                found += [first, *first.children(recursive=True)]
        return found


@contextlib.contextmanager
def started(state, *options):
    cluster = Cluster(state, *options)
    cluster.up()
    try:
        yield cluster
    finally:
        done = cluster.command("down")
        assert done.returncode == 0, done.stderr


def http_status(url, token=None):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def listening(processes):
    """``{port: {address, …}}`` of everything that the processes listen on."""
    found = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN:
                    found.setdefault(each.laddr.port, set()).add(each.laddr.ip)
    return found


def gone(processes):
    def lives(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return False

    return not any(lives(process) for process in processes)


@pytest.mark.slow
def test_a_cluster_on_one_machine_from_up_to_down(tmp_path):
    cluster = Cluster(tmp_path / "state", "--cpus", 1)
    facts = cluster.up()
    try:
        assert facts["started"]
        assert facts["address"] == f"http://127.0.0.1:{cluster.dashboard_port}"
        assert facts["join"].endswith(f"join 127.0.0.1:{cluster.port} --token-file {facts['token_file']}")
        [record] = cluster.records()
        directory = Path(record["directory"])
        assert cluster.state.stat().st_mode & 0o777 == 0o700
        assert directory.stat().st_mode & 0o777 == 0o700
        for file in (facts["token_file"], facts["log"], *cluster.state.glob("*.json")):
            assert Path(file).stat().st_mode & 0o777 == 0o600
        assert len(cluster.token()) == 64
        assert cluster.token() not in str([each.cmdline() for each in cluster.processes()])

        ports = listening(cluster.processes())
        assert {cluster.port, cluster.dashboard_port} <= set(ports)
        assert {address.removeprefix("::ffff:") for found in ports.values() for address in found} == {
            "127.0.0.1"
        }
        for path in HTTP_PATHS:
            url = facts["address"] + path
            assert (http_status(url), http_status(url, "wrong")) == (401, 403), path
        assert http_status(f"{facts['address']}/api/version", cluster.token()) == 200

        again = json.loads(cluster.command("up", *cluster.options, "--json").stdout)
        assert not again["started"]
        assert again["pid"] == facts["pid"]
        one_line(cluster.command("up", "--cpus", 2), "--cpus", cluster.port, "distiltune cluster down")

        found = json.loads(cluster.command("status", "--json").stdout)
        assert [(node["ip"], node["state"], node["cpus"], node["head"]) for node in found["nodes"]] == [
            ("127.0.0.1", "ALIVE", 1, True)
        ]
        assert found["jobs"] == []
        processes = cluster.processes()
        assert len(processes) > 5
    finally:
        done = cluster.command("down")
    assert done.returncode == 0, done.stderr
    assert "stopped the head" in done.stdout
    assert gone(processes)
    assert not directory.exists()
    assert [path.name for path in cluster.state.iterdir()] == ["lock"]
    again = cluster.command("down")
    assert (again.returncode, again.stderr) == (0, "")
    assert "running here" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["up", "--port", "12000"], ["--port", "12000", "10002 to 19999"]),
        (["up", "--port", "80"], ["--port", "80", "1024"]),
        (["up", "--port", "8265"], ["--dashboard-port", "8265", "--port"]),
        (["up", "--host", "192.0.2.77"], ["--host", "192.0.2.77", "127.0.0.1"]),
        (["up", "--host", "0.0.0.0"], ["--host", "0.0.0.0", "127.0.0.1"]),
        (["up", "--host", "127.0.0.2"], ["--host", "127.0.0.2", "127.0.0.1"]),
        (["up", "--host", "head"], ["--host", "head", "IPv4"]),
        (["up", "--host", "192.0.2.77", "--no-token"], ["--host", "192.0.2.77", "--no-token"]),
        (["up", "--dashboard-host", "0.0.0.0", "--no-token"], ["--dashboard-host", "--no-token"]),
        (["up", "--cpus", "-1"], ["--cpus", "0"]),
        (["join", "head"], ["HEAD:PORT", "head", "HOST:PORT"]),
        (["join", "http://head:6379"], ["HEAD:PORT", "HOST:PORT"]),
        (["join", "127.0.0.1:1"], ["HEAD:PORT", "127.0.0.1:1", "--host"]),
        (["status"], ["--address", "RAY_ADDRESS", "distiltune cluster up"]),
        (["status", "--address", "127.0.0.1:6379"], ["--address", "6379", "GCS", "8265"]),
        (["status", "--address", "ray://127.0.0.1:10001"], ["--address", "ray://", "8265"]),
        (
            ["status", "--address", "http://127.0.0.1:1"],
            ["--address", "http://127.0.0.1:1", "refused"],
        ),
        (
            ["status", "--address", "http://h:1", "--token-file", "none"],
            ["--token-file", "none", "No such file"],
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, distiltune_here, arguments, parts):
    one_line(distiltune_here(tmp_path / "state", "cluster", *arguments), *parts)
    assert {path.name for path in (tmp_path / "state").glob("*")} <= {"lock"}


@pytest.mark.parametrize("option", ["--port", "--dashboard-port"])
def test_a_port_in_use_names_the_option_and_the_process(tmp_path, option):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = ({"--port", "--dashboard-port"} - {option}).pop()
        done = distiltune(tmp_path / "state", "cluster", "up", option, port, other, *free_ports(1))
    one_line(done, option, port, os.getpid())
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["lock"]


def test_a_token_file_that_others_read_is_made_private(tmp_path):
    token = tmp_path / "token"
    token.write_text("secret\n")
    token.chmod(0o644)
    done = distiltune(
        tmp_path / "state", "cluster", "status", "--address", "http://127.0.0.1:1", "--token-file", token
    )
    assert "600" in done.stderr.splitlines()[0]
    assert token.stat().st_mode & 0o777 == 0o600


def test_ray_has_what_a_node_on_loopback_needs():
    """The one private function that `cluster/nodes/loopback.py` replaces, and the variable that it sets."""
    from ray._private import ray_constants, services

    from distiltune.cluster.nodes import loopback

    assert callable(services.get_node_ip_address)
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR == loopback.MULTI_NODE_ENV


@pytest.mark.slow
def test_two_more_nodes_on_the_machine_of_the_head(tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    wrong.chmod(0o600)
    with started(tmp_path / "state", "--cpus", 0) as cluster:
        head = f"127.0.0.1:{cluster.port}"
        before = {path.name for path in cluster.state.iterdir()}
        for arguments, parts in (
            ([head, "--token-file", wrong], ["--token-file", "is not the one of"]),
            ([head], ["--token-file", "missing"]),
            ([f"127.0.0.1:{cluster.dashboard_port}", "--token-file", wrong], ["HEAD:PORT", "Ray head"]),
        ):
            began = time.monotonic()
            one_line(cluster.command("join", *arguments), *parts)
            assert time.monotonic() - began < 20
            assert {path.name for path in cluster.state.iterdir()} == before
        for _ in range(2):
            done = cluster.command("join", head, "--token-file", cluster.facts["token_file"], "--cpus", 2)
            assert done.returncode == 0, done.stderr
        found = json.loads(cluster.command("status", "--json").stdout)
        assert [node["cpus"] for node in found["nodes"] if node["state"] == "ALIVE"] == [0, 2, 2]
        processes = cluster.processes()
        ports = listening(processes)
        addresses = {address.removeprefix("::ffff:") for found in ports.values() for address in found}
        assert addresses == {"127.0.0.1"}
        # The dashboard, an agent of jobs and logs each node, an agent of environments each node.
        deadline = time.monotonic() + 30
        while sum(map(_asks_for_a_token, listening(cluster.processes()))) < 1 + 3 + 3:
            assert time.monotonic() < deadline
            time.sleep(1)
        directories = [Path(record["directory"]) for record in cluster.records()]
        assert len(directories) == 3
    assert gone(processes)
    assert not any(directory.exists() for directory in directories)
    assert [path.name for path in cluster.state.iterdir()] == ["lock"]


def _asks_for_a_token(port):
    """Return whether an HTTP server on the port rejects requests without the token on every path."""
    with contextlib.suppress(OSError, ValueError, HTTPException):
        return {http_status(f"http://127.0.0.1:{port}{path}") for path in AGENT_PATHS} == {401}
    return False


@pytest.mark.slow
def test_jobs_are_those_of_the_token_whatever_ray_has_cached(tmp_path, monkeypatch):
    from distiltune.cluster.nodes.addresses import (
        ClusterAddress,
        driver_environment,
        find_cluster,
        job_client,
    )
    from distiltune.errors import InputError

    for name, value in environment(tmp_path / "state").items():
        monkeypatch.setenv(name, value)
    with (
        started(tmp_path / "state", "--cpus", 1) as first,
        started(tmp_path / "other", "--cpus", 0) as second,
    ):
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("RAY_ADDRESS", second.facts["address"])
        token_file = Path(second.facts["token_file"])
        clients = [
            job_client(find_cluster(first.facts["address"])),
            job_client(find_cluster(None, token_file)),
        ]
        code = "import sys, os; print(sys.executable, os.environ['GIVEN'], os.environ['RAY_AUTH_MODE'])"
        job = clients[0].submit_job(
            entrypoint=f'python -c "{code}"', runtime_env={"env_vars": {"GIVEN": "through"}}
        )
        while not clients[0].get_job_status(job).is_terminal():
            time.sleep(0.3)
        assert "through token" in clients[0].get_job_logs(job)
        assert command_line()[0] in clients[0].get_job_logs(job)
        assert [each.submission_id for each in clients[0].list_jobs()] == [job]
        assert clients[1].list_jobs() == []
        assert job in first.command("status").stdout
        with pytest.raises(InputError, match=r"--token-file: .* token of .*distiltune cluster up"):
            job_client(ClusterAddress(first.facts["address"], token_file))
        with pytest.raises(InputError, match=r"--token-file: .* token.*RAY_AUTH_TOKEN_PATH"):
            job_client(ClusterAddress(first.facts["address"], None))
        # The address that nodes join stands for our own head's dashboard.
        monkeypatch.setenv("RAY_ADDRESS", first.facts["gcs_address"])
        assert find_cluster().dashboard == first.facts["address"]
        assert driver_environment(second.facts["gcs_address"]) == {}
        code = f"import ray; ray.init({first.facts['gcs_address']!r}); print(ray.cluster_resources()['CPU'])"
        driver = {**environment(first.state), **driver_environment(first.facts["gcs_address"])}
        done = subprocess.run(
            [sys.executable, "-c", code], env=driver, capture_output=True, text=True, check=False
        )
        assert done.stdout == "1.0\n", done.stderr


@pytest.mark.slow
def test_what_a_killed_daemon_leaves_is_removed_and_a_job_ends_with_its_cluster(tmp_path):
    cluster = Cluster(tmp_path / "state", "--cpus", 1)
    cluster.up()
    [record] = cluster.records()
    processes = cluster.processes()
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        psutil.Process(record["pid"]).send_signal(signal.SIGKILL)
        assert cluster.up()["started"]
        assert gone(processes)
        assert not Path(record["directory"]).exists()
        from distiltune.cluster.nodes.addresses import ClusterAddress, job_client

        client = job_client(ClusterAddress(cluster.facts["address"], Path(cluster.facts["token_file"])))
        flag = tmp_path / "runs"
        job = client.submit_job(entrypoint=f"sh -c 'touch {flag}; sleep 300; true'")
        while not flag.exists():
            time.sleep(0.2)
        sleeping = [each for each in cluster.processes() if "300" in each.cmdline()]
        assert job
        assert sleeping
    finally:
        assert cluster.command("down").returncode == 0
        stranger.terminate()
    assert stranger.wait() == -signal.SIGTERM
    assert gone(sleeping)


@pytest.mark.slow
def test_two_at_once_start_one_head_and_ctrl_c_leaves_nothing(tmp_path):
    cluster = Cluster(tmp_path / "state", "--cpus", 0, "--no-token")
    done = []
    threads = [
        threading.Thread(target=lambda: done.append(cluster.command("up", *cluster.options, "--json")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    facts = [json.loads(each.stdout) for each in done]
    assert sorted(each["started"] for each in facts) == [False, True]
    assert facts[0]["pid"] == facts[1]["pid"]
    assert facts[0]["token_file"] is None
    assert http_status(f"{facts[0]['address']}/api/version") == 200
    assert cluster.command("status").returncode == 0
    assert cluster.command("down").returncode == 0

    starting = subprocess.Popen(
        command_line("cluster", "up", *cluster.options),
        env=environment(cluster.state),
        stderr=subprocess.DEVNULL,
    )
    while not cluster.processes():
        time.sleep(0.05)
    processes = cluster.processes()
    starting.send_signal(signal.SIGINT)
    assert starting.wait(timeout=60) != 0
    assert gone(processes)
    assert [path.name for path in cluster.state.iterdir()] == ["lock"]


def test_a_directory_that_no_daemon_uses_or_records_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(daemon, "short_temporary_directory", lambda: tmp_path)
    monkeypatch.setenv("DISTILTUNE_STATE_DIR", str(tmp_path / "state"))
    names = ("dtc-orphan", "dtc-used", "dtc-new", "dtc-file", "mine")
    for name in names:
        (tmp_path / name).touch() if name.endswith("file") else (tmp_path / name / "r").mkdir(parents=True)
        if name != "dtc-new":
            os.utime(tmp_path / name, (0, 0))
    (tmp_path / "dtc-link").symlink_to(tmp_path / "mine")
    user = subprocess.Popen(["sleep", "60"], env={daemon.MARK: str(tmp_path / "dtc-used")})
    try:
        assert daemon.daemons() == []
    finally:
        user.kill()
        user.wait()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"dtc-used", "dtc-new", "dtc-file", "dtc-link", "mine", "state"}
    assert (tmp_path / "mine" / "r").is_dir()
