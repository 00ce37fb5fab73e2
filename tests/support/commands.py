"""The command line as its own process, with a state directory of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PROGRAM = "import sys; from distiltune.cluster.cli import main; sys.exit(main())"
OF_THE_USER = (
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
)


def command_line(*arguments):
    return [sys.executable, "-c", PROGRAM, *map(str, arguments)]


def environment(state: Path, **others):
    kept = {name: value for name, value in os.environ.items() if name not in OF_THE_USER}
    # A home of its own, in which no token of the user is found.
    return {**kept, "HOME": str(state.parent), "DISTILTUNE_STATE_DIR": str(state), "COLUMNS": "160", **others}


def distiltune(state: Path, *arguments, prefix=(), timeout=150, **others):
    """Run the command line; `prefix` is a command that runs it, such as `ip netns exec …`."""
    return subprocess.run(
        [*prefix, *command_line(*arguments)],
        capture_output=True,
        text=True,
        env=environment(state, **others),
        timeout=timeout,
        check=False,
    )


def free_ports(count: int) -> list[int]:
    """Free ports outside the range of Ray's workers (10002 to 19999)."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port not in found and port not in range(10002, 20000):
            found.append(port)
    return found


def lives(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def soon(condition: Callable[[], bool], within_s: float = 8.0) -> bool:
    """Whether a condition becomes true within some seconds."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def one_line(done, *parts, status=2):
    """Check the form of an expected fault: one line on stderr with all `parts`, and nothing on stdout."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for part in parts:
        assert str(part) in lines[0]
