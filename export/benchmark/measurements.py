"""``PerformanceBenchmark``: measure accuracy, size, latency, throughput and memory of a classification pipeline."""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ArtifactError, InputError
from ...texts import TextOrPair, all_parts, num_characters
from ..artifact.manifest import MODEL_DATA_FILE, REQUIRED_FILES
from .memory import peak_memory_mb

if TYPE_CHECKING:
    from .config import BenchmarkConfig

ACCURACY_BATCH_SIZE = 32
_SAMPLE_SEED = 0
_LEAST_SECONDS_OF_THROUGHPUT = 0.5
SECONDS_OF_LENGTH = {"quick": 0.2, "thorough": 0.5}
"""Effort -> seconds in which one text of each number of tokens is timed."""
_LEAST_RUNS = 3  # of a text of a given number of tokens
_MOST_CHARACTERS = 6  # for each token of such a text


class PerformanceBenchmark:
    """Measure a classification pipeline.

    Based on the class of the same name in "Natural Language Processing with Transformers", chapter 8.

    Args:
        pipeline: called as ``pipeline(text)`` → ``{"label": name, …}`` or a list of one of those, and as
            ``pipeline(texts, batch_size=n)`` → a list of them: a transformers text-classification pipeline or
            a :class:`~distiltune.export.runtime.classifier.TextClassifier`.
        texts: the ``N`` texts, or pairs, of the test split.
        labels: their labels: names, or indices into ``label_names``; None: accuracy is not measured.
        label_names: all labels; default: the names in ``labels``.
        out_of_scope_label: name of the label for texts outside every intent, if there is one.
        name: name of the row.
        model_path: file, or folder of weights or graph files, whose size on disk is measured.
        num_warmups: runs before each timing.
        num_runs: timed runs of the query.
        num_sample_texts: number of texts sampled from ``texts`` (always the same ones), with their distribution of
            lengths, timed once each.
        batch_sizes: batch sizes for throughput.
        query: the single text that is timed; default: the text of ``texts`` with median length in characters.

    Raises:
        InputError: there are no texts, the number of labels differs, ``label_names`` lacks a label, or a count is too
            small.
    """

    def __init__(
        self,
        pipeline: Callable[..., Any],
        texts: Sequence[TextOrPair],
        labels: Sequence[str] | Sequence[int] | None = None,
        *,
        label_names: Sequence[str] | None = None,
        out_of_scope_label: str | None = None,
        name: str = "pipeline",
        model_path: str | Path | None = None,
        num_warmups: int = 10,
        num_runs: int = 100,
        num_sample_texts: int = 200,
        batch_sizes: Sequence[int] = (1, 8, 32),
        query: TextOrPair | None = None,
    ):
        if not texts:
            raise InputError("texts is empty; give at least one")
        if num_runs < 1 or num_warmups < 0 or num_sample_texts < 1:
            raise InputError(
                f"num_runs {num_runs} and num_sample_texts {num_sample_texts} must be 1 or more, "
                f"num_warmups {num_warmups} 0 or more"
            )
        self.pipeline = pipeline
        self.texts = list(texts)
        self.label_names = list(label_names or sorted({str(label) for label in labels or ()}))
        self.labels = None if labels is None else self._numbers(self.texts, labels)
        if out_of_scope_label is not None and out_of_scope_label not in self.label_names:
            raise InputError(
                f"out_of_scope_label {out_of_scope_label!r} is not one of the {len(self.label_names)} labels; "
                "use one of them, or none"
            )
        self.out_of_scope_label = out_of_scope_label
        self.name = name
        self.model_path = None if model_path is None else Path(model_path)
        self.num_warmups = num_warmups
        self.num_runs = num_runs
        self.batch_sizes = list(batch_sizes)
        self.query = median_text(self.texts) if query is None else query
        self.sample = quantile_sample(self.texts, num_sample_texts)

    def compute_accuracy(
        self, texts: Sequence[TextOrPair] | None = None, labels: Sequence[str] | Sequence[int] | None = None
    ) -> dict[str, float | None]:
        """Compute ``accuracy``, ``in_scope_accuracy`` and ``oos_recall`` on the test split, or on the given texts."""
        # Imported here, because it must not count towards a model's memory.
        from ...training.tasks import SINGLE_LABEL

        if texts is None or labels is None:
            texts, numbers = self.texts, self.labels
        else:
            numbers = self._numbers(texts, labels)
        if numbers is None:
            raise InputError("labels is None, but accuracy is measured against labels; give them")
        # Sorted by length, else most of a transformers pipeline's batch is padding.
        order = sorted(range(len(texts)), key=lambda i: num_characters(texts[i]))
        answers = self.pipeline([texts[i] for i in order], batch_size=ACCURACY_BATCH_SIZE)
        predictions = np.empty(len(texts), dtype=np.int64)
        predictions[order] = self._numbers(order, [_label(answer) for answer in answers])
        out_of_scope_id = (
            None if self.out_of_scope_label is None else self.label_names.index(self.out_of_scope_label)
        )
        return dict(SINGLE_LABEL.metrics(predictions, numbers, out_of_scope_id))

    def compute_size(self) -> dict[str, float | None]:
        """Compute ``size_mb``: bytes / 2**20 of the weights or graph on disk, without tokenizer and configuration."""
        return {"size_mb": None if self.model_path is None else model_bytes(self.model_path) / 2**20}

    def time_first_call(self) -> float:
        """Time the query once, in ms; the pipeline is cold if this is called first."""
        return self._seconds(self.query) * 1000

    def time_pipeline(self, query: TextOrPair | None = None) -> dict[str, float]:
        """Time one text ``num_runs`` times after ``num_warmups`` runs: mean, std, p50, p90, p99 in ms."""
        text = self.query if query is None else query
        self._warm_up(text)
        return summary_ms([self._seconds(text) for _ in range(self.num_runs)])

    def time_sample(self) -> dict[str, float]:
        """Time each text of the test sample once, at its own length: mean, std, p50, p90, p99 in ms."""
        self._warm_up(self.query)
        return summary_ms([self._seconds(text) for text in self.sample])

    def time_lengths(
        self, at_length: Callable[[int], Callable[..., Any] | None], lengths: Sequence[int], seconds: float
    ) -> dict[str, dict[str, float]]:
        """Time one text of each number of tokens: mean, std, p50, p90, p99 in ms, by the number.

        Each is timed ``num_runs`` times, or as often as fits into ``seconds``, but at least three times.

        Args:
            at_length: Returns the pipeline with texts truncated to a number of tokens; None if the model has fewer
                positions.
            lengths: Numbers of tokens. The first for which the model has too few positions ends the measurement.
            seconds: Time for each, warm-up included.
        """
        found: dict[str, dict[str, float]] = {}
        for num_tokens in sorted(lengths):
            pipeline, text = at_length(num_tokens), long_text(self.texts, num_tokens)
            if pipeline is None:
                break
            end, times = time.perf_counter() + seconds, []
            try:
                pipeline(text)
                while len(times) < self.num_runs and (len(times) < _LEAST_RUNS or time.perf_counter() < end):
                    times.append(_seconds_of(pipeline, text))
            except ArtifactError:  # of a graph without so many positions
                break
            found[str(num_tokens)] = summary_ms(times)
        return found

    def compute_throughput(self) -> dict[str, float]:
        """Measure texts per second by batch size: the sample in a cycle of full batches, for half a second or more."""
        return {str(size): self._throughput(size) for size in self.batch_sizes}

    def run_benchmark(self) -> dict[str, dict[str, Any]]:
        """Measure everything; timing first, while the process is fresh. Returns ``{name: measurements}``."""
        row: dict[str, Any] = {"latency_ms": self.time_pipeline(), "sample_latency_ms": self.time_sample()}
        row["throughput"] = self.compute_throughput()
        row["peak_memory_mb"] = peak_memory_mb()
        row.update(self.compute_size())
        if self.labels is not None:
            row.update(self.compute_accuracy())
        return {self.name: row}

    def _warm_up(self, text: TextOrPair) -> None:
        for _ in range(self.num_warmups):
            self.pipeline(text)

    def _seconds(self, text: TextOrPair) -> float:
        return _seconds_of(self.pipeline, text)

    def _throughput(self, batch_size: int) -> float:
        num_batches = -(-len(self.sample) // batch_size)
        texts = cycle(self.sample)
        batches = [list(islice(texts, batch_size)) for _ in range(num_batches)]
        self.pipeline(batches[0], batch_size=batch_size)
        num_texts, start = 0, time.perf_counter()
        while True:
            for batch in batches:
                self.pipeline(batch, batch_size=batch_size)
            num_texts += num_batches * batch_size
            seconds = time.perf_counter() - start
            if seconds >= _LEAST_SECONDS_OF_THROUGHPUT:
                return num_texts / seconds

    def _numbers(self, texts: Sequence[Any], labels: Sequence[str] | Sequence[int]) -> np.ndarray:
        """Return ``labels`` as indices into ``label_names``, int64 ``[N]``."""
        if len(labels) != len(texts):
            raise InputError(f"{len(texts)} texts but {len(labels)} labels; give one label per text")
        index = {name: i for i, name in enumerate(self.label_names)}
        numbers = [index.get(label, -1) if isinstance(label, str) else int(label) for label in labels]
        for label, number in zip(labels, numbers, strict=True):
            if not 0 <= number < len(self.label_names):
                raise InputError(
                    f"label {label!r} is not one of the {len(self.label_names)} labels; check label_names"
                )
        return np.asarray(numbers, dtype=np.int64)


def seconds_of_length(call_s: float, config: BenchmarkConfig) -> float:
    """Return how long ``time_lengths`` takes for a text, in seconds, given the time of one call."""
    needed = max(SECONDS_OF_LENGTH[config.effort], (1 + _LEAST_RUNS) * call_s)
    return min(needed, (1 + config.num_runs) * call_s)


def _seconds_of(pipeline: Callable[..., Any], text: TextOrPair) -> float:
    start = time.perf_counter()
    pipeline(text)
    return time.perf_counter() - start


def quantile_sample(texts: Sequence[TextOrPair], num: int) -> list[TextOrPair]:
    """Return up to ``num`` texts at evenly spaced quantiles of the lengths in characters, in a random, fixed order."""
    order = sorted(range(len(texts)), key=lambda index: num_characters(texts[index]))
    count = min(num, len(order))
    rows = [order[(2 * number + 1) * len(order) // (2 * count)] for number in range(count)]
    random.Random(_SAMPLE_SEED).shuffle(rows)
    return [texts[row] for row in rows]


def long_text(texts: Sequence[TextOrPair], num_tokens: int) -> TextOrPair:
    """Join words of ``texts``, in order and in a cycle, into a text or pair of ``num_tokens`` words.

    The two texts of a pair have lengths in the proportion of ``texts``: a question is much shorter than its context.
    It has at most six characters for each of the tokens, and fewer words where they are long, as in scripts without
    spaces.
    """
    words = cycle(" ".join(all_parts(texts[:num_tokens])).split() or ["a"])
    taken, num = [], 0
    while len(taken) < num_tokens and num < _MOST_CHARACTERS * num_tokens:
        taken.append(next(words))
        num += len(taken[-1]) + 1
    if isinstance(texts[0], str):
        return " ".join(taken)[: _MOST_CHARACTERS * num_tokens]
    lengths = [[len(part) for part in each] for each in texts if not isinstance(each, str)]
    share = sum(first for first, _ in lengths) / max(1, sum(map(sum, lengths)))
    middle = max(1, min(len(taken) - 1, round(share * len(taken))))
    return " ".join(taken[:middle]), " ".join(taken[middle:]) or taken[0]


def median_text(texts: Sequence[TextOrPair]) -> TextOrPair:
    """Return the text or pair of median length in characters; those of equal length keep their order."""
    return sorted(texts, key=num_characters)[len(texts) // 2]


def shares_of_text(profile: Mapping[str, float]) -> dict[str, float]:
    """Split a text's time into ``tokenizing``, ``own Python`` and ``bare session``, which add up to ``total``, in ms.

    Args:
        profile: ``Measurement.profile_ms``. Its two floors are subtracted from the total; the rest is the work of the
            runtime itself: building inputs, checking and decoding logits.
    """
    tokenizing, session, total = (profile[each] for each in ("tokenizer_alone", "session_alone", "total"))
    own = total - tokenizing - session
    return {"tokenizing": tokenizing, "own Python": own, "bare session": session, "total": total}


def times_of_text(profile: Mapping[str, float]) -> dict[str, float]:
    """Return the times of a text by name, in ms: its stages in order, ``total``, the floors, and the first call.

    ``own`` is what the runtime adds to the floors, ``tokenizer alone`` and ``session alone``.

    Args:
        profile: ``Measurement.profile_ms``.
    """
    return {
        **{name: profile[name] for name in ("tokenize", "feed", "run", "decode", "total")},
        "tokenizer alone": profile["tokenizer_alone"],
        "session alone": profile["session_alone"],
        "own": shares_of_text(profile)["own Python"],
        "first call": profile["first_call"],
    }


def model_bytes(path: Path) -> int:
    """Return the bytes of a file, or of the ``.safetensors``, ``.onnx`` and ``.onnx.data`` files of a folder.

    Raises:
        InputError: there is no such file.
    """
    return sum(file.stat().st_size for file in _weight_files(path))


def runtime_bytes(directory: Path) -> int:
    """Return the bytes of every file that the runtime reads to classify: graph, weights beside it, tokenizer, settings.

    Raises:
        InputError: one of the required files is missing.
    """
    total = 0
    for name in (*REQUIRED_FILES, MODEL_DATA_FILE):
        path = directory / name
        if path.is_file():
            total += path.stat().st_size
        elif name in REQUIRED_FILES:
            raise InputError(f"{directory}: {name} is missing; give the folder of an exported ONNX variant")
    return total


def compressed_bytes(path: Path) -> int:
    """Return the bytes of the same files compressed by zlib at level 9, which shows what zeroed weights save.

    Raises:
        InputError: there is no such file.
    """
    total = 0
    for each in _weight_files(path):
        compressor = zlib.compressobj(9)
        with each.open("rb") as file:
            while block := file.read(2**20):
                total += len(compressor.compress(block))
        total += len(compressor.flush())
    return total


def _weight_files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = [
            file for file in path.iterdir() if file.name.endswith((".safetensors", ".onnx", ".onnx.data"))
        ]
    if not files:
        raise InputError(f"{path}: there are no weights (.safetensors) and no graph (.onnx)")
    return files


def _label(answer: Any) -> str:
    return (answer[0] if isinstance(answer, list) else answer)["label"]


def summary_ms(seconds: list[float]) -> dict[str, float]:
    """Summarize ``seconds`` in ms: mean, population std (NumPy's default, as in the book), p50, p90 and p99."""
    times = np.asarray(seconds) * 1000
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    figures = {"mean": times.mean(), "std": times.std(), "p50": p50, "p90": p90, "p99": p99}
    return {name: float(value) for name, value in figures.items()}
