"""Latency ratios of models that are timed in turns, with intervals."""

import json
from pathlib import Path

import numpy as np
import pytest
from artifacts import tiny_artifact

from distiltune.errors import RunFailedError
from distiltune.export.benchmark.contention import MOST_WAITING
from distiltune.export.benchmark.measure_models import Measurement, MeasurementSpec
from distiltune.export.benchmark.targets.base import OpenOptions
from distiltune.export.markdown import times_faster
from distiltune.export.selection import interleaved
from distiltune.export.selection.interleaved import (
    latency_ratio,
    measure_ratios,
    ratio_interval,
    time_in_turns,
)
from distiltune.export.selection.timed_process import Block, TimedProcess, time_block

TIMES = {"mean": 2.0, "std": 0.0, "p50": 2.0, "p90": 2.0, "p99": 2.0}


def test_the_interval_is_that_of_the_mean_of_paired_ratios() -> None:
    rng = np.random.default_rng(7)
    own, base = np.exp(rng.normal(0, 0.1, 30)), 5 * np.exp(rng.normal(0, 0.1, 30))
    faster, low, high = ratio_interval(own, base)
    logs = np.log(base / own)
    assert faster == pytest.approx(np.exp(logs.mean()))
    # 2.0452 is Student's t with 29 degrees of freedom, from tables.
    error = 2.0452 * logs.std(ddof=1) / np.sqrt(len(logs))
    assert np.log([low, high]) == pytest.approx([logs.mean() - error, logs.mean() + error], abs=1e-4 * error)
    draws = np.random.default_rng(3).choice(logs, (20_000, len(logs))).mean(axis=1)
    assert [low, high] == pytest.approx(np.exp(np.percentile(draws, [2.5, 97.5])), rel=0.01)


@pytest.mark.parametrize("rounds", [5, 8, 24])
def test_the_interval_holds_the_true_ratio_as_often_as_it_says(rounds) -> None:
    rng, held = np.random.default_rng(1), 0
    for _ in range(1000):
        # The machine's speed, the same for both models.
        speed = np.exp(np.cumsum(rng.normal(0, 0.05, rounds)))
        own, base = (
            speed * np.exp(rng.normal(0, 0.03, rounds)),
            8 * speed * np.exp(rng.normal(0, 0.03, rounds)),
        )
        _, low, high = ratio_interval(own, base)
        held += low <= 8 <= high
    assert 0.93 <= held / 1000 <= 0.97


def test_two_workloads_of_known_ratio_are_told_apart() -> None:
    """One workload adds five times as many numbers as the other."""

    def adding(count: int):
        numbers = range(count)
        return lambda: time_block(lambda: sum(numbers), 12)

    blocks = time_in_turns({"own": adding(20_000), "base": adding(100_000)}, 12, 0.5)
    found = latency_ratio(blocks["own"], blocks["base"], 12)
    assert found.num_rounds >= 5
    assert found.low <= found.faster <= found.high
    assert found.faster == pytest.approx(5, rel=0.3)
    assert found.low * 0.9 < 5 < found.high * 1.1
    assert found.base_ms == pytest.approx(found.faster * found.own_ms)


def numbered(log: list[str], name: str, waits: list[float | None]):
    given = iter(waits)

    def timed() -> Block:
        log.append(name)
        return Block(1.0 if name == "a" else 2.0, next(given))

    return timed


def test_models_take_turns_in_alternating_order() -> None:
    log: list[str] = []
    blocks = time_in_turns({name: numbered(log, name, [0.0] * 9) for name in "abc"}, 4, 60.0)
    assert "".join(log) == "abccbaabccba"
    assert {name: len(each) for name, each in blocks.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_disturbed_round_is_measured_again_and_dropped() -> None:
    log: list[str] = []
    waits = [0.0, 0.9, *[0.0] * 9]
    blocks = time_in_turns(
        {"a": numbered(log, "a", waits), "b": numbered(log, "b", [0.0] * 11)}, num_rounds=6, seconds=60.0
    )
    found = latency_ratio(blocks["a"], blocks["b"], 6)
    assert (found.num_measured, found.num_rounds, found.waiting) == (7, 6, 0.0)
    assert not found.is_disturbed


def test_where_all_rounds_are_disturbed_the_quietest_are_kept_and_marked() -> None:
    waits = [0.9, 0.5, 0.1, 0.4, 0.3, 0.2, 0.6]
    own = [Block(1.0 + each, each) for each in waits]
    base = [Block(2.0 + 2 * each, 0.0) for each in waits]
    found = latency_ratio(own, base, 6)
    assert (found.num_rounds, found.waiting, found.is_disturbed) == (5, 0.5, True)
    assert found.faster == pytest.approx(2.0)
    assert MOST_WAITING < 0.1


def test_time_is_limited_and_unknown_waiting_is_no_disturbance() -> None:
    log: list[str] = []
    models = {name: numbered(log, name, [None] * 9) for name in "ab"}
    blocks = time_in_turns(models, 100, 0.0)
    found = latency_ratio(blocks["a"], blocks["b"], 100)
    assert (found.num_rounds, found.waiting, found.is_disturbed) == (5, None, False)
    assert set(found.to_json()) >= {"faster", "low", "high", "num_rounds", "own_ms", "base_ms", "waiting"}
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"faster": 20.81, "low": 20.13, "high": 21.48}, "20.8x (20.1 to 21.5)"),
        ({"faster": 1.234, "low": 1.2, "high": 1.3}, "1.23x (1.20 to 1.30)"),
        ({"faster": 20.81}, "20.8x"),
        ({"faster": 2.04, "low": None, "high": None}, "2.0x"),
    ],
)
def test_a_ratio_is_written_with_its_interval(found, text) -> None:
    assert times_faster(found) == text


def test_models_are_timed_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = tiny_artifact(tmp_path / "onnx")
    monkeypatch.setitem(interleaved.NUM_ROUNDS, "quick", 3)
    monkeypatch.setitem(interleaved.SECONDS, "quick", 0.2)
    spec = MeasurementSpec("onnx", "onnx", str(variant), 16)
    measured = Measurement("onnx", "onnx", 1.0, TIMES, TIMES, {}, 1.0, 1, "a text", session={})
    other = MeasurementSpec("other", "onnx", str(variant), 16)
    found = measure_ratios(
        (spec, measured), [(other, measured)], task="single_label", num_outputs=3, effort="quick"
    )
    assert set(found) == {"other"}
    ratio = found["other"]
    assert 0.2 < ratio.low <= ratio.faster <= ratio.high < 5  # the same model twice
    assert 0 < ratio.own_ms < 100


def test_a_model_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    options = OpenOptions(str(tmp_path / "none"), 16, None, 1, None)
    with (
        TimedProcess("broken", "onnx", options, "a text", tmp_path) as process,
        pytest.raises(RunFailedError, match=r"broken.*none"),
    ):
        process()
