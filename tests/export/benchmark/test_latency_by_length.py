"""Texts that a benchmark times: at the data's own lengths, and at given numbers of tokens."""

from __future__ import annotations

import time

import numpy as np
import pytest
from artifacts import tiny_artifact
from models import tiny_classifier, tiny_data
from pydantic import ValidationError

from distiltune.errors import ArtifactError
from distiltune.export.benchmark import measurements
from distiltune.export.benchmark.measurements import (
    PerformanceBenchmark,
    long_text,
    quantile_sample,
    seconds_of_length,
)
from distiltune.export.benchmark.targets.base import OpenOptions
from distiltune.export.benchmark.targets.pytorch import length_bound, open_checkpoint
from distiltune.export.config import BenchmarkConfig, ExportConfig
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.runtime.session.feeds import most_texts, runs_of
from distiltune.export.variants.build import build_variant

WORDS = ["one", "two", "three", "four five"]


# ---- Texts of the data's own lengths --------------------------------------------------------------------


@pytest.mark.parametrize("num", [1, 7, 50, 400])
def test_a_sample_has_the_quantiles_of_the_lengths(num):
    lengths = np.random.default_rng(0).geometric(0.02, 997)
    texts = ["x" * int(length) for length in lengths]
    sample = quantile_sample(texts, num)
    assert len(sample) == num and set(sample) <= set(texts)
    expected = np.quantile(lengths, (np.arange(num) + 0.5) / num, method="inverted_cdf")
    np.testing.assert_allclose(sorted(map(len, sample)), expected, atol=1)
    assert sample == quantile_sample(texts, num)


def test_a_sample_of_all_texts_has_each_once_in_another_order():
    texts = [f"{number:03}" for number in range(100)]
    sample = quantile_sample(texts, 1000)
    assert sorted(sample) == texts != sample
    pairs = [("a", "bb"), ("cc", "d"), ("", "e")]
    assert sorted(quantile_sample(pairs, 3)) == sorted(pairs)


# ---- Texts of a number of tokens ------------------------------------------------------------------------


@pytest.mark.parametrize("num_tokens", [1, 3, 32, 500])
def test_a_long_text_has_a_word_for_each_token(num_tokens):
    words = long_text(WORDS, num_tokens).split()
    assert len(words) == num_tokens
    assert words[:4] == ["one", "two", "three", "four"][:num_tokens]
    first, second = long_text([("one", "two"), ("three", "four")], num_tokens)
    assert len(first.split()) + len(second.split()) == max(2, num_tokens)


def test_scripts_without_spaces_and_blank_texts_have_bounded_ones():
    assert long_text(["字" * 10_000], 32) == "字" * 6 * 32
    assert long_text(["", "  "], 4) == "a a a a"
    assert len(long_text(["b" * 9] * 100_000, 2048)) <= 6 * 2048


def test_a_call_runs_fewer_texts_where_they_are_long():
    assert [most_texts(1024, each) for each in (0, 64, 256, 2048, 8192, 20_000)] == [
        1024,
        1024,
        1024,
        16,
        1,
        1,
    ]
    found = list(runs_of([4096, 3, 2, 8192, 4096, 4000, 4096], 3))
    assert found == [[2, 1, 5], [0, 4, 6], [3]]
    assert list(runs_of([], 3)) == []
    assert sorted(runs_of([8192] * 5, 32)) == [[0], [1], [2], [3], [4]]
    assert length_bound(["abc", "a" * 9], 100) == 12 and length_bound([("a" * 99, "b")], 64) == 64


class Timed:
    """Pipelines of a model with 512 positions that record their calls."""

    def __init__(self, raises: bool = False, seconds: float = 0.0) -> None:
        self.calls: list[tuple[int, str]] = []
        self.raises, self.seconds = raises, seconds

    def __call__(self, num_tokens: int):
        def pipeline(text: str) -> None:
            if num_tokens > 512:
                raise ArtifactError("no such position")
            self.calls.append((num_tokens, text))
            time.sleep(self.seconds)

        return pipeline if self.raises or num_tokens <= 512 else None


def bench(**options) -> PerformanceBenchmark:
    return PerformanceBenchmark(lambda text: None, WORDS, num_runs=5, **options)


@pytest.mark.parametrize("raises", [False, True])
def test_each_length_is_timed_up_to_the_positions_of_the_model(raises):
    given = Timed(raises)
    times = bench().time_lengths(given, [512, 32, 2048, 9999], seconds=10.0)
    assert list(times) == ["32", "512"]
    assert all(set(each) == {"mean", "std", "p50", "p90", "p99"} for each in times.values())
    assert [num for num, _ in given.calls] == [32] * 6 + [512] * 6, "a warm-up, and five runs"
    assert {text for num, text in given.calls if num == 32} == {long_text(WORDS, 32)}


def test_a_slow_model_is_timed_three_times(monkeypatch):
    given = Timed(seconds=0.01)
    times = bench().time_lengths(given, [32], seconds=0.0)
    assert len(given.calls) == 4 and times["32"]["p50"] >= 10


def test_the_forecast_knows_how_long_that_takes():
    config = BenchmarkConfig(effort="quick")
    assert seconds_of_length(1e-4, config) == pytest.approx(31e-4)
    assert seconds_of_length(0.01, config) == pytest.approx(0.2)
    assert seconds_of_length(2.0, config) == pytest.approx(8.0)
    assert seconds_of_length(0.01, BenchmarkConfig()) == pytest.approx(0.5)


# ---- Models at another length ---------------------------------------------------------------------------


def test_a_classifier_cut_to_another_length_shares_the_model(tmp_path):
    classifier = TextClassifier.load(tiny_artifact(tmp_path / "artifact"))
    texts = ["open early red blue late " * 9, "open", ""]
    expected = classifier.logits(texts)
    shorter, longer = classifier.cut_to(4), classifier.cut_to(4 * classifier.max_length)
    assert (shorter.max_length, longer.max_length) == (4, 4 * classifier.max_length)
    assert [len(each._predictor.tokenizer.encode_one(texts[0]).ids) for each in (shorter, classifier)] == [
        4,
        classifier.max_length,
    ]
    assert len(longer._predictor.tokenizer.encode_one(texts[0]).ids) > classifier.max_length
    assert np.array_equal(classifier.logits(texts), expected), "the first one has not changed"
    assert np.array_equal(shorter.logits(["open"]), classifier.logits(["open"]))
    assert shorter(texts[0])["label"] in classifier.labels


def test_targets_give_the_pipeline_of_a_length_that_the_model_has_positions_for(
    tmp_path, plain_graph, monkeypatch
):
    student = tiny_classifier(tmp_path / "student")
    build_variant("onnx", student, tmp_path / "onnx", config=ExportConfig(), max_length=16,
                  base_onnx=plain_graph(student, 16))  # fmt: skip
    monkeypatch.setattr("distiltune.export.benchmark.targets.pytorch.set_threads", lambda _: None)
    texts = [text for text, _ in tiny_data()]
    opened = open_checkpoint(OpenOptions(str(student), 16, None, 1, None))
    classifier = TextClassifier.load(tmp_path / "onnx")
    assert opened.at_length is not None
    assert opened.at_length(67) is None, "66 positions"
    benchmark = PerformanceBenchmark(classifier, texts, num_runs=2)
    assert list(benchmark.time_lengths(opened.at_length, [8, 64, 128], seconds=1.0)) == ["8", "64"]
    # A graph has only the positions that the job's texts need.
    assert list(benchmark.time_lengths(classifier.cut_to, [8, 16, 64, 128], seconds=1.0)) == ["8", "16"]
    text = long_text(texts, 12)
    assert opened.at_length(12)(text)[0]["label"] == classifier.cut_to(12)(text)["label"]


# ---- The key --------------------------------------------------------------------------------------------


def test_lengths_are_sorted_and_each_stands_once():
    assert BenchmarkConfig().lengths == BenchmarkConfig(effort="quick").lengths == [32, 128, 512, 2048]
    assert BenchmarkConfig(lengths=[128, 32]).lengths == [32, 128]
    assert BenchmarkConfig(lengths=[]).lengths == []
    for wrong in ([32, 32], [3], [2**21], ["a"], list(range(4, 40))):
        with pytest.raises(ValidationError, match="lengths"):
            BenchmarkConfig(lengths=wrong)
    assert set(measurements.SECONDS_OF_LENGTH) == {"quick", "thorough"}
