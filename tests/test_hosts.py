"""A cluster of several hosts, each in a network namespace, and a person at a machine that is no member."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import one_line
from netns import Host, Network, reason_to_skip

pytestmark = pytest.mark.slow

HTTP_PATHS = ("/api/jobs/", "/api/version", "/nodes", "/logs", "/api/v0/nodes", "/api/v0/logs", "/events")
HTTP_PATHS += ("/api/cluster_status", "/api/packages/gcs/a.zip", "/api/job_agent/jobs/", "/timezone")
# Ray leaves open: the page itself, how to authenticate, and whether it lives.
OPEN_PATHS = ("/", "/api/authentication_mode", "/api/gcs_healthz")

# What `curl -w` would say, of many URLs; run on a host: [url, …], token → [status, …] (0: no HTTP, or silence).
STATUSES = """
import http.client, json, sys, urllib.error, urllib.request
urls, token = json.loads(sys.argv[1])
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
found = []
for url in urls:
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        found.append(opener.open(urllib.request.Request(url, headers=headers), timeout=10).status)
    except urllib.error.HTTPError as error:
        found.append(error.code)
    except (OSError, http.client.HTTPException):
        found.append(0)
print(json.dumps(found))
"""
# A driver with a wrong token, straight to GCS.
DRIVER = """
import sys, ray
try:
    ray.init(sys.argv[1], log_to_driver=False)
    print("connected")
except Exception as error:
    print(type(error).__name__, error)
"""


@dataclass
class Hosts:
    """A head, two nodes that joined it, and a laptop with a copy of the token that is no member."""

    head: Host
    nodes: list[Host]
    laptop: Host
    dashboard: str
    gcs: str
    token_file: Path  # on the laptop
    wrong_token_file: Path

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
        head, first, second, laptop = (network.add(name) for name in ("head", "first", "second", "laptop"))
        done = head.distiltune(
            *(
                "cluster",
                "up",
                "--host",
                head.address,
                "--dashboard-host",
                head.address,
                "--cpus",
                0,
                "--json",
            )
        )
        assert done.returncode == 0, done.stderr
        facts = json.loads(done.stdout)
        copies = [host.state.parent / "token" for host in (first, second, laptop)]
        for copy in copies:
            shutil.copy(facts["token_file"], copy)
        for host, copy in ((first, copies[0]), (second, copies[1])):
            done = host.distiltune("cluster", "join", facts["gcs_address"], "--token-file", copy, "--cpus", 2)
            assert done.returncode == 0, done.stderr
        wrong = laptop.state.parent / "wrong"
        wrong.write_text("0" * 64)
        wrong.chmod(0o600)
        yield Hosts(head, [first, second], laptop, facts["address"], facts["gcs_address"], copies[2], wrong)


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


def test_a_machine_that_is_no_member_sees_every_node(hosts):
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
    one_line(hosts.laptop.distiltune(*where), "--token-file", hosts.dashboard, "asks for a token")
    done = hosts.laptop.distiltune(*where, "--token-file", hosts.wrong_token_file)
    one_line(done, "--token-file", hosts.wrong_token_file, "refuses")
    one_line(hosts.laptop.distiltune("cluster", "status"), "--address", "RAY_ADDRESS")
    one_line(
        hosts.laptop.distiltune("cluster", "status", "--address", f"http://{hosts.head.address}:1"),
        "nothing answers",
    )


def test_the_dashboard_refuses_whoever_has_no_token(hosts):
    urls = [hosts.dashboard + path for path in HTTP_PATHS]
    assert set(http_statuses(hosts.laptop, urls, None)) == {401}
    assert set(http_statuses(hosts.laptop, urls, "0" * 64)) == {403}
    assert not {401, 403} & set(http_statuses(hosts.laptop, [hosts.dashboard + "/api/version"], hosts.token))
    assert set(http_statuses(hosts.laptop, [hosts.dashboard + path for path in OPEN_PATHS], None)) == {200}


def test_every_other_port_with_http_refuses_too_but_for_the_metrics(hosts):
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
    """What the docstring of `start_head` says: GCS and raylets on all interfaces, the dashboard where told."""
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
    done = host.distiltune(
        "cluster", "join", hosts.gcs, "--token-file", host.state.parent / "token", "--cpus", 2
    )
    assert done.returncode == 0, done.stderr
    nodes = json.loads(hosts.laptop.distiltune("cluster", "status", *hosts.of_cluster(), "--json").stdout)[
        "nodes"
    ]
    assert sum(node["state"] == "ALIVE" for node in nodes) == 3
