"""Measure a sealed artifact on this machine, for ``distiltune benchmark DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ArtifactError, InputError
from ...export.commands.lines import lines_of_file
from ...export.commands.streams import quiet_panics
from ...export.commands.tables import pair_of_line
from ...texts import PAIR_COLUMN, TextOrPair, from_json, is_blank, is_pair

if TYPE_CHECKING:
    from ...export.benchmark.serving.measure import ExtraMeasurements
    from ...export.runtime.classifier import TextClassifier


def measure_artifact(
    directory: Path,
    *,
    texts_file: Path | None,
    text_column: str = "text",
    text_pair_column: str | None = None,
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
        text_pair_column: Column with the second text, for an artifact that takes pairs; None: ``text_pair``.
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

    with quiet_panics():  # report load and run errors here, not in the measuring process
        classifier = TextClassifier.load(directory, num_threads=num_threads)
    pair = pair_column_of(classifier, text_pair_column)
    texts = None if texts_file is None else read_given_texts(texts_file, text_column, pair, "--texts")
    query = from_json(verify_artifact(directory).measurements.get("query"))
    if texts is None:
        if not (is_pair(query) if classifier.takes_pairs else isinstance(query, str)) or is_blank(query):
            raise ArtifactError(
                f"{directory}: measurements.query of the manifest is {query!r:.60}, which cannot be timed; give "
                f"--texts"
            )
        texts = [query]
    with quiet_panics():
        classifier(texts[:1])
    measured = measure_serving(
        directory,
        texts=texts,
        num_runs=num_runs,
        num_warmups=num_warmups,
        num_threads=num_threads,
        extras=extras,
    )
    return {"artifact": str(directory), **measured, "machine": describe_machine()}


def pair_column_of(classifier: TextClassifier, given: str | None) -> str | None:
    """Return the column of the second texts that ``--text-pair-column`` gives; None for an artifact of single texts.

    Raises:
        InputError: It is given for an artifact of single texts.
    """
    if classifier.takes_pairs:
        return given or PAIR_COLUMN
    if given is not None:
        raise InputError(
            f"--text-pair-column: {given!r:.60} given, but this artifact takes single texts; remove it"
        )
    return None


def read_given_texts(file: Path, column: str, pair: str | None, option: str) -> list[TextOrPair]:
    """Return the texts of a table, or the lines of a file in another format, without blank ones.

    Args:
        file: Any file that ``data.train`` can name, or a text file.
        column: Column of a table with the text.
        pair: Column with the second text of each pair, for which a line has a tab; None: texts are single.
        option: What names the file, for messages.

    Raises:
        InputError: They cannot be read.
    """
    from ...training.data.rows import checked
    from ...training.data.sources.columns import Columns
    from ...training.data.sources.table import is_table, read_table

    if not is_table(file):
        lines = lines_of_file(file, option)
        return (
            [*lines] if pair is None else [pair_of_line(line, f"{option}: {file!s:.200}") for line in lines]
        )
    raw = read_table("given", str(file), Columns(column, section=None, pair=pair), parameter=option)
    return checked(raw, []).texts
