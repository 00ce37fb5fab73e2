"""A cluster of several hosts, each in a network namespace, and a user on a machine that is not a member."""

import json
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from cluster_job import JOB, write_data
from commands import one_line
from netns import Host, Network, reason_to_skip
from servers import s3_server

from distiltune.cluster.store.runs import STAGES
from distiltune.export.artifact.seal import verify_artifact

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HTTP_PATHS = ("/api/jobs/", "/api/version", "/nodes", "/logs", "/api/v0/nodes", "/api/v0/logs", "/events")
HTTP_PATHS += ("/api/cluster_status", "/api/packages/gcs/a.zip", "/api/job_agent/jobs/", "/timezone")
HTTP_WRITES = ("POST /api/jobs/", "POST /api/jobs/far/stop", "DELETE /api/jobs/far")
HTTP_WRITES += ("PUT /api/packages/gcs/a.zip", "POST /api/job_agent/jobs/")
# Paths that Ray serves without a token: the page itself, how to authenticate, and its health.
OPEN_PATHS = ("/", "/api/authentication_mode", "/api/gcs_healthz")

# Prints the HTTP statuses of many URLs; run on a host: ["url" or "METHOD url", …], token → [status, …]
# (0: no HTTP, or silence).
STATUSES = """
import http.client, json, sys, urllib.error, urllib.request
urls, token = json.loads(sys.argv[1])
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
found = []
for each in urls:
    method, url = each.split() if " " in each else ("GET", each)
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(url, headers=headers, method=method)
        found.append(opener.open(request, timeout=10).status)
    except urllib.error.HTTPError as error:
        found.append(error.code)
    except (OSError, http.client.HTTPException):
        found.append(0)
print(json.dumps(found))
"""
# A driver with a wrong token, which connects directly to GCS.
DRIVER = """
import sys, ray
try:
    ray.init(sys.argv[1], log_to_driver=False)
    print("connected")
except Exception as error:
    print(type(error).__name__, error)
"""
# The tests' own helper, on a host that reaches the store.
MAKE_BUCKET = """
import sys
sys.path.insert(0, sys.argv[1])
from servers import make_bucket, wait_for_http
wait_for_http(f"http://{sys.argv[2]}/moto-api/")
print(make_bucket(sys.argv[2], "runs"))
"""
# Polls TensorBoard until it has a trial's scalars: base URL → {"run", "tag", "points"}.
SCALARS = """
import json, sys, time, urllib.parse, urllib.request
def ask(path, **query):
    url = f"{sys.argv[1]}data/plugin/scalars/{path}?{urllib.parse.urlencode(query)}"
    return json.load(urllib.request.urlopen(url, timeout=10))
deadline = time.monotonic() + 100
while time.monotonic() < deadline:
    for run, tags in ask("tags").items():
        for tag in tags:
            print(json.dumps({"run": run, "tag": tag, "points": len(ask("scalars", run=run, tag=tag))}))
            sys.exit()
    time.sleep(0.5)
sys.exit("no scalars")
"""


@dataclass
class Hosts:
    """A head, two nodes that joined it, an S3 store, and a laptop with a copy of the token that is not a member."""

    head: Host
    nodes: list[Host]
    laptop: Host
    dashboard: str
    gcs: str
    token_file: Path  # on the laptop
    wrong_token_file: Path
    storage: str

    @property
    def token(self) -> str:
        return self.token_file.read_text()

    def of_cluster(self) -> list[str]:
        """Options with which a command on the laptop finds the cluster."""
        return ["--address", self.dashboard, "--token-file", str(self.token_file)]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory) -> Iterator[Hosts]:
    if reason := reason_to_skip():
        pytest.skip(reason)
    with Network(tmp_path_factory.mktemp("hosts")) as network:
        names = ("head", "first", "second", "laptop", "store")
        head, first, second, laptop, store = (network.add(name) for name in names)
        own = ("--host", head.address, "--dashboard-host", head.address)
        done = head.distiltune("cluster", "up", *own, "--cpus", 0, "--json")
        assert done.returncode == 0, done.stderr
        facts = json.loads(done.stdout)
        token = laptop.home / "token"
        shutil.copy(facts["token_file"], token)
        for host in (first, second):
            shutil.copy(facts["token_file"], host.home / "token")
            join(host, facts["gcs_address"])
        wrong = laptop.home / "wrong"
        wrong.write_text("0" * 64)
        wrong.chmod(0o600)
        with s3_server(store.address, 9000, store.prefix) as endpoint:
            storage = python(
                laptop, MAKE_BUCKET, str(Path(__file__).parents[2] / "support"), endpoint
            ).strip()
            yield Hosts(
                head, [first, second], laptop, facts["address"], facts["gcs_address"], token, wrong, storage
            )


def join(host: Host, gcs: str) -> None:
    """Make a host with a copy of the token a node of two CPUs."""
    done = host.distiltune("cluster", "join", gcs, "--token-file", host.home / "token", "--cpus", 2)
    assert done.returncode == 0, done.stderr


def python(host: Host, code: str, *arguments: str):
    done = host.run(sys.executable, "-c", code, *arguments, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def http_statuses(host: Host, urls: list[str], token: str | None) -> list[int]:
    return json.loads(python(host, STATUSES, json.dumps([urls, token])))


def listening(host: Host) -> dict[int, set[str]]:
    """``{port: {address, …}}`` of a host, as `psutil` sees them there."""
    code = (
        "import json, psutil; print(json.dumps([[each.laddr.port, each.laddr.ip] for each in "
        "psutil.net_connections('tcp') if each.status == psutil.CONN_LISTEN]))"
    )
    found: dict[int, set[str]] = {}
    for port, address in json.loads(python(host, code)):
        found.setdefault(port, set()).add(address.removeprefix("::ffff:"))
    return found


def test_a_machine_that_is_not_a_member_sees_every_node(hosts):
    done = hosts.laptop.distiltune("cluster", "status", *hosts.of_cluster(), "--json")
    assert done.returncode == 0, done.stderr
    nodes = json.loads(done.stdout)["nodes"]
    assert [(node["ip"], node["head"], node["cpus"]) for node in nodes] == [
        (hosts.head.address, True, 0),
        *((host.address, False, 2) for host in hosts.nodes),
    ]
    assert {node["state"] for node in nodes} == {"ALIVE"}


def test_status_without_the_token_or_with_a_wrong_one_is_one_line(hosts):
    where = ["cluster", "status", "--address", hosts.dashboard]
    one_line(hosts.laptop.distiltune(*where), "--token-file", hosts.dashboard, "RAY_AUTH_TOKEN_PATH")
    done = hosts.laptop.distiltune(*where, "--token-file", hosts.wrong_token_file)
    one_line(done, f"--token-file: {hosts.dashboard} ", hosts.wrong_token_file)
    one_line(hosts.laptop.distiltune("cluster", "status"), "--address", "RAY_ADDRESS")
    one_line(
        hosts.laptop.distiltune("cluster", "status", "--address", f"http://{hosts.head.address}:1"),
    )


def test_the_dashboard_requires_the_token(hosts):
    urls = [hosts.dashboard + path for path in HTTP_PATHS]
    urls += [f"{method} {hosts.dashboard}{path}" for method, path in map(str.split, HTTP_WRITES)]
    assert set(http_statuses(hosts.laptop, urls, None)) == {401}
    assert set(http_statuses(hosts.laptop, urls, "0" * 64)) == {403}
    assert not {401, 403} & set(http_statuses(hosts.laptop, [hosts.dashboard + "/api/version"], hosts.token))
    assert set(http_statuses(hosts.laptop, [hosts.dashboard + path for path in OPEN_PATHS], None)) == {200}


def test_every_other_http_port_but_the_metrics_requires_the_token(hosts):
    for host in (hosts.head, *hosts.nodes):
        ports = [port for port, addresses in listening(host).items() if addresses != {"127.0.0.1"}]
        for port in ports:
            url = f"http://{host.address}:{port}"
            [page, logs, jobs] = http_statuses(
                hosts.laptop, [url, f"{url}/logs", f"{url}/api/job_agent/jobs/"], None
            )
            if url == hosts.dashboard:
                continue
            if page == 200:
                text = python(
                    hosts.laptop, "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read())", url
                )
                assert "# HELP" in text, f"port {port} shows something else than metrics"
            else:
                assert {page, logs, jobs} in ({0}, {401}), f"port {port}"


def test_gcs_refuses_drivers_and_nodes_without_the_token(hosts):
    for token in (["--token-file", hosts.wrong_token_file], []):
        before = {path.name for path in hosts.laptop.state.iterdir()}
        done = hosts.laptop.distiltune("cluster", "join", hosts.gcs, *token)
        one_line(done, "--token-file", hosts.gcs)
        assert {path.name for path in hosts.laptop.state.iterdir()} == before | {"lock"}
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0" * 64,
        "RAY_gcs_rpc_server_connect_timeout_s": "2",
    }
    variables = [f"{name}={value}" for name, value in environment.items()]
    done = hosts.laptop.run("env", *variables, sys.executable, "-c", DRIVER, hosts.gcs, timeout=120)
    assert "connected" not in done.stdout
    assert "InvalidAuthToken" in done.stderr


def test_what_listens_where(hosts):
    """As `start_head` documents: GCS and raylets listen on all interfaces, the dashboard on the given address."""
    head = listening(hosts.head)
    assert head[8265] == {hosts.head.address}
    assert head[6379] == {"::"}


def test_a_node_that_leaves_is_dead_and_can_come_back(hosts):
    host = hosts.nodes[1]
    assert "a node of" in host.distiltune("cluster", "down").stdout
    nodes = json.loads(hosts.laptop.distiltune("cluster", "status", *hosts.of_cluster(), "--json").stdout)[
        "nodes"
    ]
    assert sorted(node["state"] for node in nodes) == ["ALIVE", "ALIVE", "DEAD"]
    join(host, hosts.gcs)
    nodes = json.loads(hosts.laptop.distiltune("cluster", "status", *hosts.of_cluster(), "--json").stdout)[
        "nodes"
    ]
    assert sum(node["state"] == "ALIVE" for node in nodes) == 3


def job_file(host: Host, **sections) -> Path:
    """A specification in the host's home, of trials that take a whole node each."""
    path = host.home / "job.yaml"
    path.write_text(yaml.safe_dump({**JOB, "resources": {"trial": {"cpu": 2}}, **sections}))
    return path


def printed_json(done):
    """Return the JSON value of a successful command, which printed nothing else."""
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def output_within(path: Path, pattern: str, within_s: float = 60) -> str:
    """Wait for output of a running command that matches ``pattern``, and return it."""
    deadline = time.monotonic() + within_s
    while not (found := re.search(pattern, path.read_text())):
        assert time.monotonic() < deadline, path.with_suffix(".err").read_text()
        time.sleep(0.2)
    return found[0]


def files_of(host: Host) -> set[str]:
    return {str(path.relative_to(host.home)) for path in host.home.rglob("*") if path.is_file()}


def addresses_of_trials(hosts: Hosts, run_id: str) -> set[str]:
    """Addresses of the nodes that the trials' logs name."""
    found = set()
    run = printed_json(hosts.laptop.distiltune("show", run_id, "--storage", hosts.storage, "--json"))
    for trial in run["trials"]:
        log = hosts.laptop.distiltune(
            "logs", run_id, "--trial", trial["trial_id"], "--storage", hosts.storage, "--json"
        )
        found |= set(re.findall(r" on \S+ \(([\d.]+), node ", "\n".join(printed_json(log)["lines"])))
    return found


def submitted(hosts: Hosts, *storage) -> dict[str, list[str]]:
    """Submit a run, `far`, whose files only the laptop has; return the commands that were printed for it."""
    (hosts.laptop.home / "data").mkdir()
    data = [part for each in write_data(hosts.laptop.home / "data") for part in ("--set", each)]
    job = job_file(
        hosts.laptop,
        search={"num_trials": 6, "space": {"num_train_epochs": {"type": "fixed", "value": 15}}},
    )
    done = hosts.laptop.distiltune(
        "submit", job, *data, *storage, *hosts.of_cluster(), "--run-id", "far", "--json"
    )
    sent = printed_json(done)
    assert (sent["run_id"], sent["submitted"]) == ("far", True)
    return {name: shlex.split(line)[1:] for name, line in sent["commands"].items()}


def test_a_run_is_sent_watched_stopped_and_fetched_by_a_machine_that_is_not_a_member(hosts):
    laptop, at = hosts.laptop, ["--storage", hosts.storage]
    token = ["--token-file", hosts.token_file]
    before = files_of(laptop)
    commands = submitted(hosts, *at)
    with laptop.running("tensorboard", "far", *at, "--port", 0) as (board, address):
        url = output_within(address, r"http://127\.0\.0\.1:\d+/")
        scalars = json.loads(python(laptop, SCALARS, url))
        now = printed_json(laptop.distiltune("status", "far", *at, "--json"))
        assert (now["state"], now["stage"], now["trials"]["num_trials"]) == ("running", "search", 6)
        assert scalars["points"] >= 1
        assert http_statuses(hosts.head, [url], None) == [0]
        stopped = printed_json(laptop.distiltune("stop", "far", *at, *token, "--json"))
        assert stopped == {"run_id": "far", "state": "stopped", "stopped": True}
        board.send_signal(signal.SIGINT)
        assert board.wait(timeout=30) == 0
    done = laptop.distiltune("resume", "far", *at, *token)
    assert done.returncode == 0, done.stderr
    with (
        laptop.running(*commands["logs"]) as (following, log),
        laptop.running(*commands["status"]) as (watching, lines),
    ):
        assert following.wait(timeout=400) == 0
        assert watching.wait(timeout=30) == 0
    for stage in STAGES:
        assert f" {stage} finished" in log.read_text()
    assert lines.read_text().splitlines()[-1].startswith("finished")
    trials = printed_json(laptop.distiltune("show", "far", *at, "--json"))["trials"]
    assert [trial["state"] for trial in trials] == ["finished"] * 6
    assert addresses_of_trials(hosts, "far") == {host.address for host in hosts.nodes}
    done = laptop.distiltune(*["model" if part == "DIR" else part for part in commands["pull"]])
    assert done.returncode == 0, done.stderr
    assert verify_artifact(laptop.home / "model").made_from["run_id"] == "far"
    [answer] = printed_json(laptop.distiltune("predict", "model", "test 1 yes", "--json"))
    assert answer["label"] in ("yes", "no")
    # Besides: the copies that it sent and fetched, and what ONNX Runtime notes of itself.
    others = (
        r"job\.yaml|(data|model)/.*|cache/\w+/(cache/inputs|runs/far/\.?artifact).*|.*onnxruntime.*|tmp/\.ses"
    )
    assert {name for name in files_of(laptop) - before if not re.fullmatch(others, name)} == set()


def test_a_directory_of_the_laptop_is_refused_as_storage(hosts):
    laptop = hosts.laptop
    storage = laptop.home / "runs"
    done = laptop.distiltune("submit", job_file(laptop), "--storage", storage, *hosts.of_cluster(), "--json")
    one_line(done, f"storage.path: {storage} ", "s3://")
    assert not storage.exists() or not [path for path in storage.rglob("*") if path.is_file()]
