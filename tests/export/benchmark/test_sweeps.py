import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from artifacts import MAX_LENGTH, TEXTS, tiny_artifact

from distiltune.cluster.cli import main
from distiltune.errors import InputError, RunFailedError
from distiltune.export.artifact.seal import seal_artifact
from distiltune.export.benchmark.processes import PACKAGE, environment
from distiltune.export.benchmark.serving.concurrency import load_in_processes, load_in_threads, measure_load
from distiltune.export.benchmark.serving.measure import time_artifact
from distiltune.export.benchmark.serving.startup import measure_startup
from distiltune.export.benchmark.serving.sweeps import default_lengths, default_threads, sweep
from distiltune.export.benchmark.serving.texts_of_length import batch_of, text_of_length, untruncated
from distiltune.export.runtime.profile import PROFILED

LATENCIES = {"mean", "std", "p50", "p90", "p99"}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_artifact(tmp_path_factory.mktemp("sweeps") / "artifact")


@pytest.fixture(scope="module")
def sealed(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed") / "sealed"
    return seal_artifact(artifact, folder, made_from={}, measurements={"query": TEXTS[0]})


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    before = threading.active_count()
    yield
    left = [each for each in psutil.Process().children(recursive=True) if each.status() != "zombie"]
    assert [each.cmdline() for each in left if "distiltune.export" in " ".join(each.cmdline())] == []
    assert threading.active_count() == before


def assert_ordered(latency_ms: dict) -> None:
    assert set(latency_ms) == LATENCIES
    assert 0 < latency_ms["p50"] <= latency_ms["p90"] <= latency_ms["p99"]


@pytest.mark.parametrize("num_tokens", [3, 4, 8, 24, 100])
def test_texts_are_as_long_as_asked(artifact: Path, num_tokens: int) -> None:
    tokenizer = untruncated(artifact)
    made = text_of_length(tokenizer, TEXTS, num_tokens)
    assert len(tokenizer.encode(made)) == num_tokens
    assert set(made.split()) <= set(" ".join(TEXTS).split())


def test_texts_come_as_near_as_their_words_allow(artifact: Path) -> None:
    tokenizer = untruncated(artifact)
    # Two pieces a word and two special tokens: 7 cannot be reached.
    assert text_of_length(tokenizer, ["unable"], 7) == "unable unable"
    with pytest.raises(InputError, match="no word of the texts fits into 3 tokens"):
        text_of_length(tokenizer, ["unable"], 3)
    assert batch_of(["a", "b"], 3) == ["a", "b", "a"]


def test_defaults_end_at_what_there_is() -> None:
    assert default_lengths(24) == [8, 16, 24]
    assert default_lengths(64) == [8, 16, 32, 64]
    assert default_lengths(4) == [4]
    threads = default_threads()
    assert threads[0] == 1
    assert threads[-1] <= (os.cpu_count() or 1)


def test_sweeps_change_one_thing_at_a_time(artifact: Path) -> None:
    found = sweep(
        artifact,
        texts=TEXTS,
        query=TEXTS[1],
        threads=[2],
        batch_sizes=[1, 4],
        lengths=[8, MAX_LENGTH],
        num_runs=7,
        num_warmups=1,
    )
    shapes = {
        name: [(each["num_threads"], each["batch_size"], each["num_tokens"]) for each in points]
        for name, points in found.items()
    }
    assert shapes == {
        "threads": [(2, 1, 4)],
        "batch_size": [(1, 1, 5), (1, 4, 8)],
        "length": [(1, 1, 8), (1, 1, MAX_LENGTH)],
    }
    for point in [each for points in found.values() for each in points]:
        assert_ordered(point["latency_ms"])
        assert point["num_runs"] == 7
        expected = point["batch_size"] / point["latency_ms"]["mean"] * 1000
        assert point["throughput"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": [0]}, r"threads is \[0\]; give one or more numbers of 1 or more"),
        ({"batch_sizes": []}, r"batch_sizes is \[\]"),
        ({"lengths": [8, 25]}, "lengths has 25; .* 24 tokens"),
    ],
)
def test_sweeps_of_what_cannot_be_are_refused(artifact: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sweep(artifact, texts=TEXTS, query=TEXTS[0], **options)


def test_a_process_computes_with_as_many_threads_as_told() -> None:
    for count in (1, 3):
        variables = environment(count)
        assert {variables[name] for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")} == {str(count)}
    code = "import os, sys; sys.exit(os.environ['TOKENIZERS_PARALLELISM'] != 'false')"
    assert subprocess.run([sys.executable, "-c", code], env=environment(1), check=False).returncode == 0


@pytest.mark.parametrize("num_clients", [1, 3])
def test_load_in_threads(artifact: Path, num_clients: int) -> None:
    found = load_in_threads(str(artifact), texts=TEXTS, num_clients=num_clients, num_threads=1, seconds=0.2)
    assert_ordered(found["latency_ms"])
    assert (found["num_clients"], found["num_threads"]) == (num_clients, 1)
    assert found["throughput"] == found["num_texts"] / 0.2 > 0
    # A closed loop: no client has two requests at the same time.
    assert found["num_texts"] * found["latency_ms"]["mean"] <= num_clients * 200 * 1.001


def test_load_in_processes(artifact: Path) -> None:
    found = load_in_processes(artifact, texts=TEXTS, num_clients=2, num_threads=1, seconds=0.3)
    assert_ordered(found["latency_ms"])
    assert (found["num_clients"], found["throughput"]) == (2, found["num_texts"] / 0.3)
    assert found["num_texts"] * found["latency_ms"]["mean"] <= 2 * 300 * 1.001
    assert found["peak_memory_mb"] > 2 * 10


def test_a_client_that_fails_is_told_of_and_the_others_end(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match=r"load in processes failed.*model\.onnx is missing"):
        load_in_processes(tmp_path, texts=TEXTS, num_clients=2, num_threads=1, seconds=0.1)


def test_a_client_ends_with_who_started_it(artifact: Path) -> None:
    asked = {"directory": str(artifact), "texts": TEXTS, "number": 0, "num_threads": 1, "seconds": 600}
    with subprocess.Popen(
        [sys.executable, "-m", f"{PACKAGE}.export.benchmark.serving.concurrency"],
        env=environment(1),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdin is not None
        client.stdin.write(json.dumps(asked) + "\n")
        client.stdin.close()
        assert client.wait(60) == 0


def test_loads_of_nothing_are_refused(artifact: Path) -> None:
    for options in ({"texts": []}, {"num_clients": []}, {"num_clients": [0]}, {"seconds": 0}):
        with pytest.raises(InputError, match=r"num_clients .*above 0"):
            measure_load(artifact, **{"texts": TEXTS, **options})


def test_start_up_is_the_sum_of_its_parts(artifact: Path) -> None:
    began = time.perf_counter()
    found = measure_startup(artifact, text=TEXTS[0], num_runs=1, session={"enable_cpu_mem_arena": False})
    wall = (time.perf_counter() - began) * 1000
    parts = [found[name] for name in ("python_ms", "import_ms", "load_ms", "first_call_ms")]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(found["total_ms"])
    assert found["total_ms"] < wall
    assert found["peak_memory_mb"] > 10
    with pytest.raises(InputError, match="num_runs is 0"):
        measure_startup(artifact, text=TEXTS[0], num_runs=0)


def test_start_up_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match=r"the start-up failed.*model\.onnx is missing"):
        measure_startup(tmp_path, text="open", num_runs=1)


def test_an_artifact_is_timed_by_its_stages_and_weighed_by_its_files(artifact: Path) -> None:
    found = time_artifact(str(artifact), TEXTS, num_runs=5, num_warmups=1, num_threads=1)
    assert set(found["profile_ms"]) == {*PROFILED, "first_call"}
    assert all(each > 0 for each in found["profile_ms"].values())
    files = ("model.onnx", "tokenizer.json", "distiltune.json")
    assert found["files_mb"] == sum((artifact / name).stat().st_size for name in files) / 1e6
    assert found["size_mb"] == (artifact / "model.onnx").stat().st_size / 2**20


def test_the_command_says_what_it_found(sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", str(sealed), "--runs", "3", "--floors", "--seconds", "0.1"]) == 0
    shown = capsys.readouterr().out
    for text in ("floor of the one text, 5 tokens", "times the larger of them", "MB peak memory"):
        assert text in shown
    # The headings "tokenizer alone" and "session alone" have two lines.
    assert ["tokenize", "feed", "run", "decode", "total", "alone", "alone", "own", "first", "call"] in [
        line.split() for line in shown.splitlines()
    ]
    files = [sealed / name for name in ("model.onnx", "tokenizer.json", "distiltune.json")]
    graph, *_ = sizes = [each.stat().st_size for each in files]
    assert f"graph: {graph / 2**20:.2f} MB of 2^20 bytes\n" in shown
    assert f"every file that the runtime reads: {sum(sizes) / 1e6:.2f} MB of 10^6 bytes\n" in shown
    assert "by batch" not in shown
    assert main(["benchmark", str(sealed), "--seconds", "0"]) == 2
    assert main(["benchmark", str(sealed), "--texts", str(sealed / "none.txt"), "--load"]) == 2
    assert "error: --texts" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_measures_all_that_it_can(
    sealed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    given = ["benchmark", str(sealed), "--runs", "5", "--thorough", "--seconds", "0.2", "--texts", str(texts)]
    assert main(given) == 0
    shown = capsys.readouterr().out
    for text in ("by threads", "by batch", "by tokens", "threads of one process", "first call", "best here:"):
        assert text in shown
    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["num_clients"] for each in found["load"]["processes"]] == [1, 2, 4, 8]
    assert [each["batch_size"] for each in found["sweep"]["batch_size"]] == [1, 2, 4, 8, 16, 32, 64]
    assert found["sweep"]["length"][-1]["num_tokens"] == MAX_LENGTH
    assert all(point["floor_ms"]["floor"] > 0 for point in found["sweep"]["length"])
    assert set(found["session"]["default"]) == {"load_ms", "peak_memory_mb"}
    assert found["startup"]["total_ms"] > 0
