"""Measure an artifact under concurrent load: clients in threads that share a classifier, or in processes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ....errors import InputError, RunFailedError
from ....texts import TextOrPair, from_json
from ...runtime.classifier import TextClassifier
from ..measurements import summary_ms
from ..memory import peak_memory_mb
from ..processes import PACKAGE, call_in_process, environment, failure

NUM_CLIENTS = (1, 2, 4, 8)
_WARM_UP_RUNS = 10
_LEAD_S = 0.1  # from sending the start time until that time


def measure_load(
    directory: str | Path,
    *,
    texts: Sequence[TextOrPair],
    num_clients: Sequence[int] = NUM_CLIENTS,
    num_threads: int = 1,
    seconds: float = 2.0,
) -> dict[str, list[dict[str, Any]]]:
    """Measure throughput and latency with several concurrent clients, each sending texts back to back.

    Args:
        directory: an artifact or ONNX variant.
        texts: texts to classify, one per call, in a cycle; every client starts at a different one.
        num_clients: numbers of concurrent clients, with one measurement for each.
        num_threads: intra-op threads of every session.
        seconds: duration of each measurement; all clients start and stop together.

    Returns:
        ``threads`` (threads of one process share one classifier) and ``processes`` (each with its own classifier):
        lists with ``num_clients``, ``num_threads``, ``num_texts`` classified in time, ``throughput`` (texts per
        second), ``latency_ms`` (mean, std, p50, p90, p99) and ``peak_memory_mb`` (of all processes).

    Raises:
        InputError: there are no texts, or a number is not positive.
        RunFailedError: a process failed.
    """
    if not texts or not num_clients or min(num_clients) < 1 or num_threads < 1 or seconds <= 0:
        raise InputError(
            f"{len(texts)} texts, num_clients {list(num_clients)}, num_threads {num_threads}, seconds {seconds}: "
            "give at least one text, and numbers above 0"
        )
    shared = {
        "directory": str(directory),
        "texts": list(texts),
        "num_threads": num_threads,
        "seconds": seconds,
    }
    in_threads = [
        call_in_process(
            "benchmark.serving.concurrency",
            "load_in_threads",
            {**shared, "num_clients": count},
            what="load in threads",
            num_threads=num_threads,
        )
        for count in num_clients
    ]
    return {
        "threads": in_threads,
        "processes": [load_in_processes(num_clients=count, **shared) for count in num_clients],
    }


def load_in_threads(
    directory: str, *, texts: Sequence[TextOrPair], num_clients: int, num_threads: int, seconds: float
) -> dict[str, Any]:
    """Measure the load of ``num_clients`` threads on one classifier in this process."""
    texts = [*map(from_json, texts)]
    classifier = _warm(directory, texts, num_threads)
    begin = 0.0

    def set_begin() -> None:
        nonlocal begin
        begin = time.perf_counter()

    barrier = threading.Barrier(num_clients, action=set_begin)

    def client(number: int) -> list[float]:
        barrier.wait()
        return _classify_until(classifier, texts, number, begin, begin + seconds)

    with ThreadPoolExecutor(num_clients) as pool:
        times = list(pool.map(client, range(num_clients)))
    return _figures(times, num_threads, seconds, peak_memory_mb())


def load_in_processes(
    directory: str | Path, *, texts: Sequence[TextOrPair], num_clients: int, num_threads: int, seconds: float
) -> dict[str, Any]:
    """Measure the load of ``num_clients`` processes, which have all ended when this returns or raises."""
    with ExitStack() as stack:
        clients = [stack.enter_context(_process(num_threads)) for _ in range(num_clients)]
        for number, client in enumerate(clients):
            request = {
                "directory": str(directory),
                "texts": list(texts),
                "number": number,
                "num_threads": num_threads,
            }
            _send(client, {**request, "seconds": seconds})
        for client in clients:
            _receive(client)
        # perf_counter is a machine-wide clock, so all clients start at the same moment.
        begin = time.perf_counter() + _LEAD_S
        for client in clients:
            _send(client, begin)
        replies = [_receive(client) for client in clients]
    return _figures(
        [each["times"] for each in replies],
        num_threads,
        seconds,
        sum(each["peak_memory_mb"] for each in replies),
    )


def _warm(directory: str, texts: Sequence[TextOrPair], num_threads: int) -> TextClassifier:
    classifier = TextClassifier.load(directory, num_threads=num_threads)
    for run in range(_WARM_UP_RUNS):
        classifier(texts[run % len(texts)])
    return classifier


def _classify_until(
    classifier: TextClassifier, texts: Sequence[TextOrPair], number: int, begin: float, end: float
) -> list[float]:
    """Classify texts from ``begin`` to ``end``, and return the seconds of each call that completed in time."""
    times, index = [], number
    time.sleep(max(0.0, begin - time.perf_counter()))
    while True:
        start = time.perf_counter()
        classifier(texts[index % len(texts)])
        answered = time.perf_counter()
        if answered > end:
            return times
        times.append(answered - start)
        index += 1


def _figures(
    times: list[list[float]], num_threads: int, seconds: float, peak_memory_mb: float
) -> dict[str, Any]:
    together = [each for client in times for each in client]
    if not together:
        raise RunFailedError(f"no text was classified within {seconds} s; allow more seconds")
    return {
        "num_clients": len(times),
        "num_threads": num_threads,
        "num_texts": len(together),
        "throughput": len(together) / seconds,
        "latency_ms": summary_ms(together),
        "peak_memory_mb": peak_memory_mb,
    }


@contextmanager
def _process(num_threads: int) -> Iterator[subprocess.Popen[str]]:
    """Start a client process and kill it on exit; it also ends by itself when this process does."""
    client = subprocess.Popen(
        [sys.executable, "-m", f"{PACKAGE}.export.benchmark.serving.concurrency"],
        env=environment(num_threads),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    with client:
        try:
            yield client
        finally:
            client.kill()


def _send(client: subprocess.Popen[str], value: Any) -> None:
    assert client.stdin is not None
    try:
        client.stdin.write(json.dumps(value) + "\n")
        client.stdin.flush()
    except BrokenPipeError:
        _receive(client)  # raises with its stderr


def _receive(client: subprocess.Popen[str]) -> Any:
    assert client.stdout is not None
    assert client.stderr is not None
    line = client.stdout.readline()
    if not line:
        stderr = client.stderr.read()
        raise failure("load in processes", client.wait(), stderr)
    return json.loads(line)


def main() -> None:
    """Run one client: read the texts and then the start time from stdin, and write the times to stdout."""
    request = json.loads(sys.stdin.readline())
    texts = [*map(from_json, request["texts"])]
    classifier = _warm(request["directory"], texts, request["num_threads"])
    sys.stdout.write("true\n")
    sys.stdout.flush()
    line = sys.stdin.readline()
    if not line:  # the parent process has ended
        return
    begin = json.loads(line)
    times = _classify_until(classifier, texts, request["number"], begin, begin + request["seconds"])
    sys.stdout.write(json.dumps({"times": times, "peak_memory_mb": peak_memory_mb()}) + "\n")


if __name__ == "__main__":
    main()
