"""Bad addresses, ports, tokens and state of a cluster; no case starts anything or contacts another machine."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from .case import SECRET, Case
from .damages import Damage, both, cut, edit_json, fifo, folder, link, write
from .goods import STORAGE, UNFINISHED
from .schema import option

NOBODY = "127.0.0.1:9"  # the discard port, on which nothing listens
ADDRESSES = {
    "empty": "",
    "word": "nonsense nonsense",
    "unknown-host": "http://no-such-host.invalid:8265",
    "nobody": f"http://{NOBODY}",
    "nobody-gcs": "127.0.0.1:6379",
    "port-huge": "http://127.0.0.1:99999",
    "port-word": "http://127.0.0.1:port",
    "port-below": "http://127.0.0.1:-1",
    "other-scheme": "ftp://127.0.0.1:8265",
    "ray-scheme": "ray://127.0.0.1:10001",
    "file": "file:///etc/passwd",
    "secret": f"http://user:{SECRET}@{NOBODY}",
    "secret-only-name": f"http://{SECRET}@{NOBODY}",
    "path": f"http://{NOBODY}/path",
    "query": f"http://{NOBODY}/?token={SECRET}",
    "nul": "http://127.0.0.1\0:9",
    "newline": "http://127.0.0.1:9\nHost: x",
    "too-long": f"http://{'x' * 5000}:8265",
    "open-bracket": "http://[::1:8265",
}
HEADS = {
    "empty": "",
    "word": "nonsense",
    "no-host": ":6379",
    "no-port": "127.0.0.1:",
    "port-word": "127.0.0.1:port",
    "port-huge": "127.0.0.1:99999",
    "port-digits": "127.0.0.1:" + "9" * 5000,
    "port-other-digits": "127.0.0.1:٩",
    "url": "http://127.0.0.1:6379",
    "secret": f"user:{SECRET}@127.0.0.1:9",
    "nobody": NOBODY,
    "unknown-host": "no-such-host.invalid:6379",
    "nul": "127.0.0.1\0:9",
    "too-long": f"{'x' * 5000}:6379",
    "label-too-long": f"{'x' * 64}.invalid:6379",
}
HOSTS = {
    "empty": "",
    "word": "nonsense",
    "name": "no-such-host.invalid",
    "everybody": "0.0.0.0",
    "other": "192.0.2.7",
    "version-6": "::1",
    "loopback": "127.0.0.2",
    "nul": "127.0.0.1\0",
    "too-long": "x" * 5000,
    "with-port": "127.0.0.1:80",
}
PORTS = {
    "low": "80",
    "zero": "0",
    "below": "-1",
    "huge": "99999",
    "workers": "10005",
    "word": "many",
    "huger": str(10**30),
}


def _private(token: str) -> Damage:
    """Write a token file that only the user can read, so that the command need not correct its mode."""
    return both(write("token", token), lambda: Path("token").chmod(0o600))


TOKENS: dict[str, Damage] = {
    "missing": lambda: None,
    "empty": write("token", ""),
    "two": write("token", "one two"),
    "binary": write("token", bytes(range(256))),
    "nul": _private("a\0b"),
    "folder": folder("token"),
    "pipe": fifo("token"),
    "loop": link("token", "token"),
    "endless": link("token", "/dev/zero"),
    "newline": write("token", "a\nb"),
    "latin-1": write("token", b"caf\xe9"),
    "not-ascii": _private("tök€n"),
}


def answering(answer: bytes, port: int) -> Damage:
    """Answer every connection to the port, from a thread of the case's own process, as something other than Ray."""

    def damage() -> None:
        server = socket.create_server(("127.0.0.1", port))

        def serve() -> None:
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()

    return damage


def http(status: str, body: bytes = b"", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


ANSWERS: dict[str, bytes] = {
    "nothing": b"",
    "no-http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "half-a-line": b"HTTP/1.1 20",
    "page": http("200 OK", b"<html>hello</html>"),
    "list": http("200 OK", b"[]"),
    "deep": http("200 OK", b"[" * 100_000),
    "number": http("200 OK", b"7"),
    "binary": http("200 OK", bytes(range(256))),
    "not-found": http("404 Not Found"),
    "unauthorized": http("401 Unauthorized"),
    "forbidden": http("403 Forbidden"),
    "broken": http("500 Internal Server Error"),
    "redirect": http("302 Found", headers="Location: http://192.0.2.7/\r\n"),
    "lies-of-length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
    "status-word": b"HTTP/1.1 many OK\r\n\r\n",
    "long-header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
}


def _clusters() -> Iterator[Case]:
    spelled = option("cluster status", "address")
    for how, address in ADDRESSES.items():
        yield Case(f"address/status/{how}", ("cluster", "status", f"{spelled}={address}"), names=(spelled,))
        if how not in ("nul",):
            given = ("cluster", "status")
            named = ((spelled, "RAY_ADDRESS"),)
            if how not in ("empty",):
                yield Case(
                    f"address/variable/{how}", given, names=named, environment={"RAY_ADDRESS": address}
                )
    for how, address in itertools.islice(ADDRESSES.items(), 8):
        yield Case(f"address/submit/{how}", ("submit", f"{spelled}={address}"), names=(spelled,))
        yield Case(
            f"address/resume/{how}",
            ("resume", UNFINISHED, f"{spelled}={address}"),
            names=(spelled,),
            needs=(STORAGE,),
        )
    yield Case("address/none", ("cluster", "status"), names=(spelled,))
    yield Case("address/none-to-submit", ("submit",), names=(spelled,))
    for number, (how, answer) in enumerate(ANSWERS.items()):
        port = _port(number)
        given = ("cluster", "status", f"{spelled}=http://127.0.0.1:{port}")
        named = ((spelled, option("cluster status", "token_file")),)
        yield Case(f"answer/{how}", given, names=named, damage=answering(answer, port))


def _port(number: int) -> int:
    return 20100 + number


def _joining() -> Iterator[Case]:
    argument = option("cluster join", "head").partition(":")[0]
    for how, head in HEADS.items():
        yield Case(f"join/{how}", ("cluster", "join", "--", head), names=(argument,))
    token = option("cluster join", "token_file")
    for how, damage in TOKENS.items():
        port = _port(100 + list(TOKENS).index(how))
        with_server = both(damage, answering(b"", port))
        given = ("cluster", "join", f"127.0.0.1:{port}", token, "token")
        yield Case(f"token/join/{how}", given, names=(token,), damage=with_server)
        given = ("cluster", "status", option("cluster status", "address"), f"http://{NOBODY}", token, "token")
        yield Case(f"token/status/{how}", given, names=(token,), damage=damage)
    for how in ("missing", "two", "pipe"):
        given = ("submit", option("submit", "address"), f"http://{NOBODY}", token, "token")
        yield Case(f"token/submit/{how}", given, names=(option("submit", "token_file"),), damage=TOKENS[how])


def _starting() -> Iterator[Case]:
    for parameter in ("host", "dashboard_host"):
        spelled = option("cluster up", parameter)
        for how, host in HOSTS.items():
            if parameter == "dashboard_host" and how == "everybody":
                continue
            yield Case(f"up/{parameter}/{how}", ("cluster", "up", f"{spelled}={host}"), names=(spelled,))
    for parameter in ("port", "dashboard_port"):
        spelled = option("cluster up", parameter)
        for how, port in PORTS.items():
            yield Case(f"up/{parameter}/{how}", ("cluster", "up", f"{spelled}={port}"), names=(spelled,))
        port = _port(200) + len(parameter)
        given = ("cluster", "up", f"{spelled}={port}")
        yield Case(f"up/{parameter}/taken", given, names=(spelled, str(port)), damage=answering(b"", port))
    ports = (option("cluster up", "port"), "20900", option("cluster up", "dashboard_port"), "20900")
    yield Case(
        "up/same-port-twice", ("cluster", "up", *ports), names=(option("cluster up", "dashboard_port"),)
    )
    open_to_all = (option("cluster up", "dashboard_host"), "0.0.0.0", option("cluster up", "no_token"))
    yield Case(
        "up/open-to-all", ("cluster", "up", *open_to_all), names=(option("cluster up", "dashboard_host"),)
    )


STATE = "../state"
RECORD = {
    "kind": "head",
    "directory": "/tmp/dtc-nothing",
    "pid": 1,
    "create_time": 1.0,
    "address": "127.0.0.1:6379",
    "dashboard": "http://127.0.0.1:9",
    "token_file": None,
    "options": {"host": "127.0.0.1"},
}


def _states() -> Iterator[Case]:
    record = f"{STATE}/dtc-nothing.json"
    bad: dict[str, Damage] = {
        "no-json": write(record, "{"),
        "list": write(record, "[]"),
        "null": write(record, "null"),
        "binary": write(record, bytes(range(256))),
        "deep": write(record, "[" * 100_000),
        "folder": folder(record),
        "pipe": fifo(record),
        "surplus": write(record, json.dumps({**RECORD, "surplus": 1})),
        "pid-word": write(record, json.dumps({**RECORD, "pid": "one"})),
        "pid-below": write(record, json.dumps({**RECORD, "pid": -1})),
        "pid-huge": write(record, json.dumps({**RECORD, "pid": 10**30})),
        "options-word": write(record, json.dumps({**RECORD, "options": "x"})),
        "cut": both(write(record, json.dumps(RECORD)), cut(record)),
        "kind-number": both(write(record, json.dumps(RECORD)), edit_json(record, "kind", 7)),
    }
    for how, damage in bad.items():
        # A damaged record of a daemon is ignored, so there is no cluster.
        yield Case(
            f"state/{how}", ("cluster", "status"), names=(option("cluster status", "address"),), damage=damage
        )
    places: dict[str, tuple[str, Damage]] = {
        "a-file": ("file", write("file", "x")),
        "below-a-file": ("file/state", write("file", "x")),
        "a-loop": ("loop", link("loop", "loop")),
        "not-writable": ("/proc/state", lambda: None),
        "too-long": ("x" * 5000, lambda: None),
        "a-pipe": ("pipe", fifo("pipe")),
    }
    for how, (place, damage) in places.items():
        for words in (("cluster", "up"), ("cluster", "down"), ("cluster", "status")):
            yield Case(
                f"state/{words[1]}/{how}",
                words,
                names=("DISTILTUNE_STATE_DIR",),
                damage=damage,
                environment={"DISTILTUNE_STATE_DIR": place},
            )


CASES: tuple[Case, ...] = (*_clusters(), *_joining(), *_starting(), *_states())
