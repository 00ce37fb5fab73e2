"""Read ``distiltune.json`` of a classifier: task, labels, lengths, threshold, and session options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ArtifactError, first_line
from ..artifact.files import parse_object
from ..artifact.manifest import TAKES_PAIRS
from .session.session_options import MAX_THREADS, check_session
from .tasks import DECODERS

_MAX_LENGTH = 2**20
_MAX_TOKEN_ID = 2**31 - 1


@dataclass(frozen=True)
class ClassifierConfig:
    """How a classifier turns texts into ids, and logits into predictions.

    Attributes:
        task: The task it was trained for, which is the name of a decoder.
        labels: Names of the graph's outputs, in order.
        max_length: Maximum number of tokens; longer texts are truncated.
        pad_token_id: Id that pads the shorter texts of a batch.
        out_of_scope_label: Label of texts outside every intent; None where there is none.
        threshold: Threshold below which texts get that label, besides those predicted by their largest logit; with
            several labels a text, ``LabelThresholds``; of questions, that of no answer. None: there is none.
        temperature: Divisor of the logits in probabilities, fitted on validation texts; it changes no prediction.
        num_threads: Intra-op threads that it was measured with; None: 1.
        session: Session options that it was measured with.
        takes_pairs: Whether it reads pairs of texts.
    """

    task: str
    labels: list[str]
    max_length: int
    pad_token_id: int
    out_of_scope_label: str | None = None
    threshold: Any = None
    temperature: float = 1.0
    num_threads: int | None = None
    session: Mapping[str, Any] = field(default_factory=dict)
    takes_pairs: bool = False


def read_config(content: bytes, path: Path) -> ClassifierConfig:
    """Read and check ``distiltune.json``; keys that the runtime does not use are ignored.

    Args:
        content: Content of the file.
        path: The file, for messages.

    Raises:
        ArtifactError: A value is missing or invalid; the message names it.
    """
    given = parse_object(content, path)
    task = _checked_task(given.get("task"), path)
    _check_labels(given.get("labels"), path)
    for name, least, most in (("max_length", 1, _MAX_LENGTH), ("pad_token_id", 0, _MAX_TOKEN_ID)):
        _check_integer(name, given.get(name), least, most, path)
    if given.get("num_threads") is not None:
        _check_integer("num_threads", given["num_threads"], 1, MAX_THREADS, path)
    label = given.get("out_of_scope_label")
    if label is not None and not _is_label(label):
        raise ArtifactError(f"{path}: out_of_scope_label is {label!r:.60}; it must be null or a name")
    threshold = given.get("threshold")
    if threshold is not None:
        if not DECODERS[task].has_threshold:
            raise ArtifactError(
                f"{path}: threshold is {threshold!r:.60}; it must be null for the task {task}"
            )
        try:
            threshold = DECODERS[task].read_threshold(threshold, given["labels"])
        except ValueError as error:
            raise ArtifactError(f"{path}: threshold is {threshold!r:.60}; {error}") from None
    takes_pairs = given.get(TAKES_PAIRS, False)
    if not isinstance(takes_pairs, bool):
        raise ArtifactError(f"{path}: {TAKES_PAIRS} is {takes_pairs!r:.60}; it must be true or false")
    if DECODERS[task].of_windows and not takes_pairs:
        raise ArtifactError(
            f"{path}: {TAKES_PAIRS} is {takes_pairs!r:.60}; it must be true for the task {task}"
        )
    session = given.get("session")
    try:
        check_session({} if session is None else session)
    except ValueError as error:
        raise ArtifactError(f"{path}: session: {first_line(error)}; pull the artifact again") from None
    return ClassifierConfig(
        task=task,
        labels=list(given["labels"]),
        max_length=given["max_length"],
        pad_token_id=given["pad_token_id"],
        out_of_scope_label=label,
        threshold=threshold,
        temperature=_checked_temperature(given.get("temperature"), path),
        num_threads=given.get("num_threads"),
        session=session or {},
        takes_pairs=takes_pairs,
    )


def _checked_task(task: Any, path: Path) -> str:
    if not isinstance(task, str) or task not in DECODERS:
        raise ArtifactError(f"{path}: task is {task!r:.60}; it must be one of {', '.join(DECODERS)}")
    return task


def _checked_temperature(value: Any, path: Path) -> float:
    if value is None:
        return 1.0
    if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
        raise ArtifactError(f"{path}: temperature is {value!r:.60}; it must be null or a number above 0")
    return float(value)


def _check_labels(labels: Any, path: Path) -> None:
    if not isinstance(labels, list) or not labels or not all(isinstance(name, str) for name in labels):
        raise ArtifactError(f"{path}: labels is {labels!r:.60}; it must be a list of names")
    for number, name in enumerate(labels):
        if not _is_label(name):
            raise ArtifactError(f"{path}: labels[{number}] is {name!r:.60}; it must be a name")
    if len(set(labels)) < len(labels):
        twice = next(name for name in labels if labels.count(name) > 1)
        raise ArtifactError(f"{path}: labels has {twice!r:.60} twice; each must name one output")


def _is_label(name: Any) -> bool:
    """Return whether a value is a string that is not blank and can be encoded as UTF-8."""
    return (
        isinstance(name, str)
        and bool(name.strip())
        and not any("\ud800" <= each <= "\udfff" for each in name)
    )


def _check_integer(name: str, value: Any, least: int, most: int, path: Path) -> None:
    if type(value) is not int or not least <= value <= most:
        shown = "more than 60 digits" if type(value) is int and abs(value) >= 10**60 else f"{value!r:.60}"
        raise ArtifactError(f"{path}: {name} is {shown}; it must be an integer from {least} to {most}")
