"""What ``distiltune benchmark DIR`` does: measure a sealed artifact on the machine at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..errors import InputError


def measure_artifact(
    directory: Path, *, texts_file: Path | None, num_runs: int, num_warmups: int, num_threads: int
) -> dict[str, Any]:
    """Latency, throughput, size and peak memory of an artifact, texts in, labels out.

    Args:
        directory: The artifact; verified first.
        texts_file: One text a line; without it, the text that was timed when the artifact was made.
        num_runs: Timed runs of one text.
        num_warmups: Runs before timing.
        num_threads: Intra-op threads.

    Raises:
        ArtifactError: The artifact is not whole.
        InputError: The texts cannot be read.
    """
    from ..export.artifact import verify_artifact
    from ..export.benchmark import PerformanceBenchmark, peak_memory_mb
    from ..export.machine import describe_machine
    from ..export.runtime import TextClassifier

    made = verify_artifact(directory)
    texts = _texts(texts_file) if texts_file else [made.measurements["query"]]
    classifier = TextClassifier.load(directory, num_threads=num_threads)
    benchmark = PerformanceBenchmark(
        classifier,
        texts,
        [answer["label"] for answer in classifier(texts)],
        label_names=classifier.labels,
        model_path=directory,
        num_runs=num_runs,
        num_warmups=num_warmups,
        num_sample_texts=len(texts),
    )
    return {
        "artifact": str(directory),
        "query": benchmark.query,
        "num_threads": num_threads,
        "latency_ms": benchmark.time_pipeline(),
        "sample_latency_ms": benchmark.time_sample() if len(texts) > 1 else None,
        "throughput": benchmark.compute_throughput(),
        "peak_memory_mb": peak_memory_mb(),
        **benchmark.compute_size(),
        "machine": describe_machine(),
    }


def print_measurement(measured: dict[str, Any]) -> None:
    """Show the figures on the terminal, with what they were taken on."""
    console = Console(highlight=False, markup=False)
    table = Table(box=None, pad_edge=False)
    for name in ("", "mean ± std ms", "p50", "p90", "p99"):
        table.add_column(name, justify="left" if not name else "right")
    for name in ("latency_ms", "sample_latency_ms"):
        times = measured[name]
        if times:
            figures = (
                f"{times['mean']:.3f} ± {times['std']:.3f}",
                *(f"{times[p]:.3f}" for p in ("p50", "p90", "p99")),
            )
            table.add_row("one text" if name == "latency_ms" else "every text", *figures)
    console.print(table)
    rates = ", ".join(f"{rate:,.0f} at batch {size}" for size, rate in measured["throughput"].items())
    console.print(f"texts a second: {rates}")
    console.print(f"{measured['size_mb']:.2f} MB on disk, {measured['peak_memory_mb']:.0f} MB peak memory")
    machine = measured["machine"]
    console.print(
        f"{measured['num_threads']} thread(s) of {machine['cpu']}; text: {measured['query']!r}",
        soft_wrap=True,
    )


def _texts(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--texts: {file} cannot be read as lines of text: {error}") from None
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise InputError(f"--texts: {file} holds no text; put one on each line")
    return texts
