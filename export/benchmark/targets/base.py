"""What a target declares: how rows of a kind are opened, measured and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ...runtime.scores import Threshold


@dataclass(frozen=True)
class Opened:
    """A row's model.

    Where activations are quantized as they come, a text's logits depend on the texts beside it; ``logits`` are those of
    each text alone, as it is timed and asked.

    Attributes:
        pipeline: Text in, label out; see :class:`~distiltune.export.benchmark.measurements.PerformanceBenchmark`.
        logits: Texts in, logits[N, C] out; the columns are named by ``labels``.
        labels: C of them.
        threshold: The out-of-scope threshold that it ships.
    """

    pipeline: Callable[..., Any]
    logits: Callable[[Sequence[str]], np.ndarray]
    labels: list[str]
    threshold: Threshold | None = None


@dataclass(frozen=True)
class OpenOptions:
    """What a row is opened with.

    Attributes:
        directory: The checkpoint or variant.
        max_length: Tokens after which a text is cut.
        tokenizer_dir: Where the tokenizer is, if not in ``directory``.
        num_threads: Intra-op threads.
        session: Session options that were found to be faster.
    """

    directory: str
    max_length: int
    tokenizer_dir: str | None
    num_threads: int
    session: dict[str, Any] | None


@dataclass(frozen=True)
class Preparation:
    """What a target prepares a row from.

    Attributes:
        row: The row's name.
        directory: The row's own.
        num_labels: Of the data.
        num_threads: To compute with.
        scratch: A folder for what is made; it goes when the row is measured.
    """

    row: str
    directory: str
    num_labels: int
    num_threads: int
    scratch: Path


@dataclass(frozen=True)
class Prepared:
    """What a target made before a row is measured.

    Attributes:
        directory: What is opened in place of the row's own.
        size_mb: What the row reports as its size.
    """

    directory: str
    size_mb: float


@dataclass(frozen=True)
class Target:
    """A runtime that rows of one kind are measured in.

    Attributes:
        name: The ``kind`` of its rows.
        description: How it classifies, in one phrase.
        open: Opens a row in the process that measures it; it imports there what that process needs, and no more.
        prepare: Makes what is opened, in a process of its own; None: the row's own directory is opened.
        has_accuracy: Whether its predictions mean something; otherwise latency and size alone are measured.
        is_gated: Whether its rows are variants of the student, which have to keep the limits on accuracy.
        can_be_sealed: Whether its rows can be chosen and sealed.
        is_onnx: Whether a row is an ONNX graph whose session is tuned and whose operations are counted.
        color: Of its points in pictures.
    """

    name: str
    description: str
    open: Callable[[OpenOptions], Opened]
    prepare: Callable[[Preparation], Prepared] | None = None
    has_accuracy: bool = True
    is_gated: bool = False
    can_be_sealed: bool = False
    is_onnx: bool = False
    color: str | None = None


TARGETS: dict[str, Target] = {}
"""Every registered target by its name; the package fills it."""


def register(target: Target) -> None:
    """Add a target to those that rows can have as their kind.

    Raises:
        ValueError: There is one of that name already.
    """
    if target.name in TARGETS:
        raise ValueError(f"target {target.name!r} is registered already; give it another name")
    TARGETS[target.name] = target
