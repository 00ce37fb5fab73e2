"""Addresses that users give: without a listener, with a server that is not Ray, with secrets."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from servers import free_port

from distiltune.cluster.nodes import ports
from distiltune.cluster.nodes.addresses import check_gcs_address, find_cluster, get_json
from distiltune.cluster.nodes.ports import check_answers, head_address
from distiltune.errors import ConfigError, InputError

PARAMETER = "resources.address"


@contextmanager
def listener(answer: bytes | None, *, close: bool = False):
    """Listen on a port, and send ``answer`` to each connection; None sends nothing."""
    server = socket.create_server(("127.0.0.1", 0))
    held = []

    def accept():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            held.append(connection)
            if answer:
                connection.sendall(answer)
            if close:
                connection.close()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
        for each in held:
            each.close()


def test_an_address_without_a_listener_is_one_line_at_once(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    address = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(InputError, match=rf"^{PARAMETER}: .*'{address}' \(Connection refused\)"):
        check_gcs_address(PARAMETER, address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=address):
        check_gcs_address(PARAMETER, "auto")
    with pytest.raises(InputError, match=rf"--address: .*'http://{address}'"):
        get_json(find_cluster(f"http://{address}"), "/api/version")
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b""])
def test_what_answers_and_is_no_head_of_ray_is_one_line(monkeypatch, answer):
    monkeypatch.setattr(ports, "_CONNECT_TIMEOUT_S", 0.5)
    with (
        listener(answer, close=answer == b"") as address,
        pytest.raises(InputError, match=rf"^{PARAMETER}: .*'{address}'.*Ray head; .*distiltune cluster up"),
    ):
        check_gcs_address(PARAMETER, address)


def test_a_server_of_http2_may_be_a_head():
    with listener(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])) as address:
        check_gcs_address(PARAMETER, address)


def test_a_head_of_ray_is_found(ray_session):
    import ray

    check_gcs_address(PARAMETER, ray.get_runtime_context().gcs_address)


@pytest.mark.parametrize(
    "address",
    ["ray://h:10001", "local", "http://h:8265", "h", "h:", ":6379", "h:x", "h:0", "h:70000", "h:" + "9" * 5000, "a b:1",
     "h:1/x", "h\0:1", "", "h\n:1", "x" * 4000],
)  # fmt: skip
def test_an_address_of_another_form_is_refused_before_any_request(monkeypatch, address):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match=rf"^{PARAMETER}: ") as caught:
        check_gcs_address(PARAMETER, address)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_secrets_in_an_address_are_refused_and_not_shown(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://user:HUSH@h:8265")
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    for parameter, look in (
        ("--address", lambda: find_cluster("http://user:HUSH@h:8265")),
        ("--address", lambda: find_cluster("user:HUSH@h:8265")),
        ("--address", lambda: find_cluster("https://user:HU/HUSH@h:8265")),
        ("RAY_ADDRESS", lambda: find_cluster(None)),
        (PARAMETER, lambda: check_gcs_address(PARAMETER, "user:HUSH@h:6379")),
        (PARAMETER, lambda: check_gcs_address(PARAMETER, "ray://user:HUSH@h:6379")),
        ("HEAD:PORT", lambda: head_address("user:HUSH@h:6379")),
    ):
        with pytest.raises(ConfigError, match=rf"^{parameter}: ") as caught:
            look()
        assert "HUSH" not in str(caught.value)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_waiting_for_an_address_at_once(number):
    """Signals are handled as by the command; neither a name lookup nor a host that drops packets delays them."""
    code = (
        "import signal, socket, time\n"
        "from distiltune.cluster.nodes import ports\n"
        "from distiltune.cluster.commands.run import interrupt\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGTERM, interrupt)\n"
        "ports.socket.create_connection = lambda *_, **__: time.sleep(60)\n"
        "print('asks', flush=True)\n"
        "ports.check_answers('--address', 'h:1', 'h', 1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(os.environ)
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(number)
    try:
        assert process.wait(timeout=5) != 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_name_lookup_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(ports, "_CONNECT_TIMEOUT_S", 0.1)
    ended = threading.Event()

    def resolve(*_, **__):
        ended.wait(10)
        raise OSError("unknown name")

    monkeypatch.setattr(ports.socket, "create_connection", resolve)
    with pytest.raises(InputError, match=r"--address: .*'h:1' \(timed out\)"):
        check_answers("--address", "h:1", "h", 1)
    ended.set()
