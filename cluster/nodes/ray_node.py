"""Ray nodes as daemons: a head on this machine, or this machine joined to a head."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from ...errors import InputError, RunFailedError
from ...storage.folders import write_file
from .addresses import read_token
from .daemon import Daemon, daemons, locked, private_directory, save, spawn, state_directory
from .loopback import MULTI_NODE_ENV
from .ports import (
    LOOPBACK,
    check_own,
    check_port,
    free_port,
    head_address,
    ipv4_address,
    own_address,
    own_addresses,
)
from .readiness import wait_until_up

_AGENT_PORT = 52365
_QUIET_OUTPUT = ["--log-style", "record", "--log-color", "false"]


@dataclass(frozen=True)
class HeadOptions:
    """Options of `cluster up`; None stands for an option that was not given."""

    cpus: int | None = None
    gpus: int | None = None
    port: int | None = None
    host: str | None = None
    dashboard_host: str | None = None
    dashboard_port: int | None = None
    token: bool | None = None


def start_head(options: HeadOptions) -> tuple[Daemon, bool]:
    """Start a head, or find the running one; the second value is whether it was started now.

    With ``host`` 127.0.0.1 all of Ray listens on 127.0.0.1 only. With another address the dashboard listens on
    ``dashboard_host``, but GCS, raylet, workers and their agents listen on *all* interfaces (their gRPC and HTTP
    require the token), and so do the ports of the Prometheus metrics, which require none.

    Raises:
        InputError: A value cannot be used, a port is in use, or a head with other values is running.
        RunFailedError: Ray does not start; the message has the reason from its log.
    """
    with locked():
        running = daemons()
        head = next((each for each in running if each.kind == "head"), None)
        if head:
            _check_same(head, options)
            return head, False
        values = _resolved(options)
        token_file = state_directory() / "token" if values["token"] else None
        host, port = str(values["host"]), values["port"]
        url_host = host if values["dashboard_host"] == "0.0.0.0" else values["dashboard_host"]
        with _new_directory() as directory:
            if token_file:
                write_file(token_file, secrets.token_hex(32), private=True)
            arguments = ["ray.scripts.scripts", "start", "--head", "--block", *_QUIET_OUTPUT]
            arguments += ["--port", str(port), "--ray-client-server-port", str(free_port())]
            arguments += ["--dashboard-host", str(values["dashboard_host"])]
            arguments += ["--dashboard-port", str(values["dashboard_port"])]
            daemon = _spawned(
                "head",
                arguments,
                directory,
                address=f"{host}:{port}",
                dashboard=f"http://{url_host}:{values['dashboard_port']}",
                token_file=token_file,
                options=values,
            )
            wait_until_up(daemon)
        return daemon, True


def join_head(
    head: str,
    token_file: Path | None,
    cpus: int | None = None,
    gpus: int | None = None,
    host: str | None = None,
) -> Daemon:
    """Add this machine to the cluster of the head at ``head`` (``host:port``), with a copy of the token.

    Raises:
        InputError: The address, the token or ``host`` cannot be used, or nothing responds.
        RunFailedError: Ray does not start; the message has the reason from its log.
    """
    head_host, port = head_address(head)
    own = own_address(head_host, port, head)
    if host is not None and (ipv4_address("--host", host) == LOOPBACK) != (head_host == LOOPBACK):
        raise InputError(
            f"--host: {host} and the head's address {head_host} cannot reach each other; omit it, or use {own}"
        )
    check_own(host or own)
    token = read_token(token_file) if token_file else None
    with locked():
        daemons()
        with _new_directory() as directory:
            copy = directory / "token" if token else None
            if copy and token:
                write_file(copy, token, private=True)
            module = "distiltune.cluster.nodes.loopback" if head_host == LOOPBACK else "ray.scripts.scripts"
            daemon = _spawned(
                "node",
                [module, "start", "--block", "--address", f"{head_host}:{port}", *_QUIET_OUTPUT],
                directory,
                address=f"{head_host}:{port}",
                dashboard=None,
                token_file=copy,
                options={"host": host or own, "cpus": cpus, "gpus": gpus},
            )
            wait_until_up(daemon)
        return daemon


@contextmanager
def _new_directory() -> Iterator[Path]:
    """Create a private directory for a daemon, and delete it if the daemon does not start."""
    directory = private_directory()
    try:
        yield directory
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _resolved(options: HeadOptions) -> dict[str, str | int | bool | None]:
    """Fill in defaults, then check the values; ports must be free."""
    host = ipv4_address("--host", LOOPBACK if options.host is None else options.host)
    dashboard_host = ipv4_address(
        "--dashboard-host", LOOPBACK if options.dashboard_host is None else options.dashboard_host
    )
    token = options.token is not False
    for name, value in (("--host", host), ("--dashboard-host", dashboard_host)):
        if not token and value != LOOPBACK:
            raise InputError(
                f"{name}: {value} with --no-token lets anyone who can reach it run code as you; omit --no-token, "
                f"or use {LOOPBACK}"
            )
    if host == "0.0.0.0":
        raise InputError(
            f"--host: {host} is not an address that nodes can join; use one of this machine's: {own_addresses()}"
        )
    check_own(host)
    if dashboard_host != "0.0.0.0":
        check_own(dashboard_host, "--dashboard-host")
    port = 6379 if options.port is None else options.port
    dashboard_port = 8265 if options.dashboard_port is None else options.dashboard_port
    if port == dashboard_port:
        raise InputError(f"--dashboard-port: {dashboard_port} is also --port; give another")
    # GCS binds every interface unless its host is 127.0.0.1.
    check_port("--port", LOOPBACK if host == LOOPBACK else "0.0.0.0", port)
    check_port("--dashboard-port", dashboard_host, dashboard_port)
    return {
        "cpus": options.cpus,
        "gpus": options.gpus,
        "port": port,
        "host": host,
        "dashboard_host": dashboard_host,
        "dashboard_port": dashboard_port,
        "token": token,
    }


def _check_same(head: Daemon, options: HeadOptions) -> None:
    for name, given in vars(options).items():
        if given is not None and given != head.options[name]:
            option = "--no-token" if name == "token" else f"--{name.replace('_', '-')}"
            has = "a token" if name == "token" else head.options[name]
            raise InputError(
                f"{option}: a head is already running here, at {head.address}, with {has}; run `distiltune cluster "
                f"down` first"
            )


def _node_arguments(options: dict[str, str | int | bool | None], directory: Path) -> list[str]:
    # Ray makes its directory accessible to all users; the parent directory stays private.
    arguments = ["--node-ip-address", str(options["host"]), "--temp-dir", str(directory / "r")]
    arguments += ["--dashboard-agent-listen-port", str(free_port(_AGENT_PORT))]
    for name in ("cpus", "gpus"):
        arguments += [] if options[name] is None else [f"--num-{name}", str(options[name])]
    return arguments


def _environment(host: str, token_file: Path | None, directory: Path) -> dict[str, str]:
    """Return the user's environment with the variables that make Ray quiet and require the token."""
    from .ray_environment import PROCESS_ENV

    others = {"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
    environment = {name: value for name, value in os.environ.items() if name not in others}
    environment |= PROCESS_ENV
    environment["RAY_AUTH_MODE"] = "token" if token_file else "disabled"
    environment["RAY_TMPDIR"] = str(directory)  # by default all users' locks share one directory
    environment[MULTI_NODE_ENV] = "0" if host == LOOPBACK else "1"
    # Makes a job's `python` this one, whether its virtual environment is active or not.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return environment | ({"RAY_AUTH_TOKEN_PATH": str(token_file)} if token_file else {})


def _spawned(
    kind: str,
    arguments: list[str],
    directory: Path,
    *,
    address: str,
    dashboard: str | None,
    token_file: Path | None,
    options: dict[str, str | int | bool | None],
) -> Daemon:
    try:
        arguments = arguments + _node_arguments(options, directory)
        pid = spawn(arguments, directory, _environment(str(options["host"]), token_file, directory))
        created = psutil.Process(pid).create_time()
    except (OSError, psutil.Error) as error:
        raise RunFailedError(f"Ray cannot be started: {error}") from error
    token = str(token_file) if token_file else None
    daemon = Daemon(kind, str(directory), pid, created, address, dashboard, token, options)
    save(daemon)
    return daemon
