"""Servers on the loopback interface, each in a process of its own, and a small disk."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Credentials that every client of the S3 server needs; the server accepts any.
S3_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as held:
        held.bind((host, 0))
        return held.getsockname()[1]


@contextmanager
def s3_server(
    host: str = "127.0.0.1", port: int | None = None, prefix: tuple[str, ...] = ()
) -> Iterator[str]:
    """Run moto's S3 server; yields ``host:port``. ``prefix`` runs it elsewhere, such as in a network namespace."""
    port = port or free_port()
    server = subprocess.Popen(
        [*prefix, sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **S3_ENVIRONMENT},
    )
    try:
        if not prefix:
            wait_for_http(f"http://{host}:{port}/moto-api/")
        yield f"{host}:{port}"
    finally:
        server.terminate()
        server.wait(timeout=20)


def make_bucket(endpoint: str, name: str) -> str:
    """Create a bucket; returns its URL for storage."""
    request = urllib.request.Request(f"http://{endpoint}/{name}", method="PUT")
    urllib.request.urlopen(request, timeout=10).close()
    return f"s3://{name}?endpoint_override={endpoint}&scheme=http"


def wait_for_http(url: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, url
            time.sleep(0.1)


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """Mount a file system of a size, such as ``16m``, at a new directory; skip the test if that is not permitted."""
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)
