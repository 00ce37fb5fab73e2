"""Measure a sealed artifact on this machine, for ``distiltune benchmark DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ArtifactError
from ...export.commands.lines import lines_of_file
from ...export.commands.streams import quiet_panics

if TYPE_CHECKING:
    from ...export.benchmark.serving.measure import ExtraMeasurements


def measure_artifact(
    directory: Path,
    *,
    texts_file: Path | None,
    text_column: str = "text",
    num_runs: int,
    num_warmups: int,
    num_threads: int,
    extras: ExtraMeasurements | None = None,
) -> dict[str, Any]:
    """Measure an artifact's latency, throughput, size and peak memory end to end, from texts to labels.

    Args:
        directory: The artifact; it is verified first.
        texts_file: Any file that ``data.train`` can name, or a text file with one text per line; the default is the
            text that was timed when the artifact was made.
        text_column: Column of that file with the text.
        num_runs: Timed runs of one text.
        num_warmups: Runs before timing.
        num_threads: Intra-op threads.
        extras: Additional measurements.

    Raises:
        ArtifactError: The artifact is incomplete or damaged, or does not run.
        InputError: The texts cannot be read.
    """
    from ...export.artifact.seal import verify_artifact
    from ...export.benchmark.serving.measure import measure_serving
    from ...export.machine import describe_machine
    from ...export.runtime.classifier import TextClassifier

    texts = None if texts_file is None else _texts(texts_file, text_column)
    query = verify_artifact(directory).measurements.get("query")
    if texts is None:
        if not isinstance(query, str) or not query.strip():
            raise ArtifactError(
                f"{directory}: measurements.query of the manifest is {query!r:.60}, which cannot be timed; give "
                f"--texts"
            )
        texts = [query]
    with quiet_panics():  # report load and run errors here, not in the measuring process
        TextClassifier.load(directory, num_threads=num_threads)(texts[:1])
    measured = measure_serving(
        directory,
        texts=texts,
        num_runs=num_runs,
        num_warmups=num_warmups,
        num_threads=num_threads,
        extras=extras,
    )
    return {"artifact": str(directory), **measured, "machine": describe_machine()}


def _texts(file: Path, column: str) -> list[str]:
    """Return the texts of a table, or the lines of a file in another format, without blank ones."""
    from ...training.data.rows import checked
    from ...training.data.sources.columns import Columns
    from ...training.data.sources.table import is_table, read_table

    if not is_table(file):
        return lines_of_file(file, "--texts")
    raw = read_table("given", str(file), Columns(column, section=None), parameter="--texts")
    return checked(raw, []).texts
