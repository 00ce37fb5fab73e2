"""What ``distiltune benchmark DIR`` does: measure a sealed artifact on the machine at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from ..export.serving import Extras


def measure_artifact(
    directory: Path,
    *,
    texts_file: Path | None,
    num_runs: int,
    num_warmups: int,
    num_threads: int,
    extras: Extras | None = None,
) -> dict[str, Any]:
    """Latency, throughput, size and peak memory of an artifact, texts in, labels out.

    Args:
        directory: The artifact; verified first.
        texts_file: One text a line; without it, the text that was timed when the artifact was made.
        num_runs: Timed runs of one text.
        num_warmups: Runs before timing.
        num_threads: Intra-op threads.
        extras: What to measure besides.

    Raises:
        ArtifactError: The artifact is not whole.
        InputError: The texts cannot be read.
    """
    from ..export.artifact import verify_artifact
    from ..export.machine import describe_machine
    from ..export.serving import measure_serving

    made = verify_artifact(directory)
    measured = measure_serving(
        directory,
        texts=_texts(texts_file) if texts_file else [made.measurements["query"]],
        num_runs=num_runs,
        num_warmups=num_warmups,
        num_threads=num_threads,
        extras=extras,
    )
    return {"artifact": str(directory), **measured, "machine": describe_machine()}


def _texts(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--texts: {file} cannot be read as lines of text: {error}") from None
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise InputError(f"--texts: {file} holds no text; put one on each line")
    return texts
