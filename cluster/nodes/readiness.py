"""Wait for a Ray daemon to start, and find the reason if it does not."""

from __future__ import annotations

import re
import time
from pathlib import Path

from ...errors import InputError, RunFailedError
from .addresses import ClusterAddress, get_json
from .daemon import Daemon, main_process, stop

_START_TIMEOUT_S = 90.0
_ERROR_LINE = re.compile(r"^[\w.]*(?:Error|Exception|Timeout): .+")


def wait_until_up(daemon: Daemon) -> None:
    """Wait until a head responds or a node has joined; a daemon that does not start is stopped and removed.

    Raises:
        InputError: The node's head address or token is wrong.
        RunFailedError: The daemon ended, or does not respond in time; the message has the reason from its log.
    """
    ready = _head_answers if daemon.kind == "head" else _node_started
    deadline = time.monotonic() + _START_TIMEOUT_S
    try:
        while not ready(daemon):
            alive = main_process(daemon) is not None
            text = daemon.log.read_text(encoding="utf-8", errors="replace")
            if known := _known_fault(text, daemon):
                raise InputError(known)
            if not alive or time.monotonic() > deadline:
                state = "does not respond" if alive else "ended"
                raise RunFailedError(f"Ray's {daemon.kind} {state}: {_reason(text)}")
            time.sleep(0.2)
    except BaseException:
        # A node that cannot reach its head ignores SIGTERM.
        stop(daemon, grace_s=2 if daemon.kind == "node" else 20)
        raise


def _known_fault(text: str, daemon: Daemon) -> str | None:
    """Return the message for a fault that Ray would retry for a long time, or None."""
    if daemon.kind == "head":
        return None
    if "Unauthenticated" in text or "InvalidAuthToken" in text:
        which = "is not the one of" if daemon.token_file else "is missing: none was given for"
        return (
            f"--token-file: the token {which} the head at {daemon.address}; copy the file that `distiltune cluster "
            f"up` prints there"
        )
    if "Failed to connect to GCS" in text or "Failed to get cluster ID" in text:
        return (
            f"HEAD:PORT: the server at {daemon.address} is not a Ray head; give the address that "
            "`distiltune cluster up` prints, not the dashboard's"
        )
    return None


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR_LINE.match(line)]
    return (errors or lines or ["its log is empty"])[-1][:300]


def _head_answers(daemon: Daemon) -> bool:
    """Return whether the dashboard accepts the token and the head's node is alive."""
    token_file = Path(daemon.token_file) if daemon.token_file else None
    try:
        found = get_json(ClusterAddress(str(daemon.dashboard), token_file), "/api/v0/nodes", timeout_s=5)
        nodes = found["data"]["result"]["result"]
    except (InputError, KeyError, TypeError):
        return False
    return any(node["state"] == "ALIVE" for node in nodes)


def _node_started(daemon: Daemon) -> bool:
    """Return whether Ray has logged that the node is registered with the head."""
    text = daemon.log.read_text(encoding="utf-8", errors="replace")
    return "Ray runtime started." in text and main_process(daemon) is not None
