"""Checks of addresses and ports: usable on this machine, in use, or reachable from it."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading

import psutil

from ...errors import InputError, RunFailedError, first_line, shown
from ...storage.filesystems import refuse_userinfo

LOOPBACK = "127.0.0.1"
_WORKER_PORTS = range(10002, 20000)  # Ray's default for its workers; services must not use them
_CONNECT_TIMEOUT_S = 8.0


def ipv4_address(option: str, value: str) -> str:
    """Check an IPv4 address and return it; 127.0.0.1 is the only loopback address that Ray recognises as one.

    Raises:
        InputError: The value is not such an address.
    """
    value = LOOPBACK if value == "localhost" else value
    try:
        address = ipaddress.IPv4Address(value)
    except ValueError:
        raise InputError(
            f"{option}: {shown(value)} is not an IPv4 address; this machine has {own_addresses()}"
        ) from None
    if address.is_loopback and value != LOOPBACK:
        raise InputError(f"{option}: {shown(value)}: of the loopback addresses only {LOOPBACK} can be used")
    return value


def own_addresses() -> str:
    """List the IPv4 addresses of this machine, for a message."""
    every = (each for addresses in psutil.net_if_addrs().values() for each in addresses)
    return ", ".join(dict.fromkeys(each.address for each in every if each.family == socket.AF_INET))


def check_own(host: str, option: str = "--host") -> None:
    """Check that an address belongs to this machine.

    Raises:
        InputError: It does not; the message lists those that do.
    """
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            raise InputError(
                f"{option}: {host} is not an address of this machine; it has {own_addresses()}"
            ) from None


def check_port(option: str, host: str, port: int) -> None:
    """Check that a service can listen on a port.

    Raises:
        InputError: The port is out of range or reserved for workers, or another process listens there.
    """
    if not 1024 <= port <= 65535 or port in _WORKER_PORTS:
        raise InputError(
            f"{option}: {port} cannot be used; give one of 1024 to 65535 outside of {_WORKER_PORTS[0]} to "
            f"{_WORKER_PORTS[-1]}, which Ray's workers use"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            raise InputError(
                f"{option}: {port} is in use on this machine{_listener(port)}; stop that process, or give another "
                f"port"
            ) from None


def _listener(port: int) -> str:
    """Describe the process that listens on a port, if this user is permitted to see it."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.Error:
        return ""
    for each in connections:
        if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port and each.pid:
            try:
                return f" by {psutil.Process(each.pid).name()} (process {each.pid})"
            except psutil.Error:
                return f" by process {each.pid}"
    return ""


def free_port(preferred: int = 0) -> int:
    """Return a port that is not in use: the preferred one, or any outside the workers' range.

    Raises:
        RunFailedError: There is none.
    """
    for wanted in (preferred, *[0] * 50):
        with socket.socket() as probe:
            try:
                probe.bind(("", wanted))
            except OSError:
                continue
            port = probe.getsockname()[1]
        if port not in _WORKER_PORTS:
            return port
    raise RunFailedError("this machine has no free port for Ray's agents")


def head_address(head: str) -> tuple[str, int]:
    """Resolve ``HOST:PORT`` to an IPv4 address and a port.

    Raises:
        InputError: The value has another form, or the host name is unknown.
    """
    host, port = host_and_port("HEAD:PORT", head)
    try:
        found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"HEAD:PORT: {shown(head)} given, but the name cannot be resolved ({first_line(error)}); give an IP "
            f"address"
        ) from None
    return str(found[0][4][0]), port


def host_and_port(parameter: str, given: str) -> tuple[str, int]:
    """Split ``HOST:PORT`` into host and port, without a network request.

    Raises:
        InputError: The value has another form.
    """
    refuse_userinfo(parameter, given if "://" in given else f"tcp://{given}")
    host, _, port = given.rpartition(":")
    is_port = port.isdecimal() and len(port) <= 5 and 0 < int(port) < 2**16
    if (
        not host
        or not is_port
        or any(each in "/@?#[]" or not each.isprintable() or each == " " for each in host)
    ):
        raise InputError(
            f"{parameter}: {shown(given)} is not of the form HOST:PORT; `distiltune cluster up` prints it"
        )
    return host, int(port)


def check_answers(parameter: str, given: str, host: str, port: int, *, is_ray: bool = False) -> None:
    """Check that a server listens at an address, before a request that could block for minutes.

    Ctrl-C and SIGTERM work meanwhile, even during the name lookup.

    Args:
        parameter: The parameter's name, for the message.
        given: Its value.
        host: Host name or address.
        port: TCP port.
        is_ray: Whether it must be a gRPC server, as a Ray head is.

    Raises:
        InputError: Nothing responds in time, or the server is not a Ray head.
    """
    answers: list[str | None] = []
    thread = threading.Thread(
        target=lambda: answers.append(_connection_fault(host, port, is_ray)), name="connect", daemon=True
    )
    thread.start()
    thread.join(2 * _CONNECT_TIMEOUT_S)
    fault = answers[0] if answers else "timed out"
    if fault == _NO_HEAD:
        raise InputError(
            f"{parameter}: the server at {shown(given)} is not a Ray head; give the address that nodes join, as "
            f"`distiltune cluster up` prints it"
        )
    if fault is not None:
        raise InputError(
            f"{parameter}: no response from {shown(given)} ({fault}); is the cluster up, and that port reachable "
            f"from here?"
        )


_NO_HEAD = "no head"
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # with empty settings
_SETTINGS = 4  # type of the first frame that an HTTP/2 server, and so a gRPC server, sends


def _connection_fault(host: str, port: int, is_ray: bool) -> str | None:
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S) as probe:
            if not is_ray or os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return None
            try:
                probe.sendall(_HTTP2_HELLO)
                frame = b""
                while len(frame) < 9 and (more := probe.recv(9 - len(frame))):
                    frame += more
            except OSError:
                return _NO_HEAD
            return None if len(frame) == 9 and frame[3] == _SETTINGS else _NO_HEAD
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or first_line(error)


def own_address(head_host: str, port: int, head: str) -> str:
    """Return this machine's address on the route to the head, found by connecting.

    Raises:
        InputError: Nothing responds.
    """
    try:
        with socket.create_connection((head_host, port), timeout=_CONNECT_TIMEOUT_S) as probe:
            return probe.getsockname()[0]
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"HEAD:PORT: no response from {head} ({reason}); is the head up, with --host an address that this "
            f"machine can reach?"
        ) from None
