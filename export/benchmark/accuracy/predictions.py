"""Pack a row's predictions on a split compactly into JSON, and unpack them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....errors import InputError


@dataclass(frozen=True)
class Answers:
    """Predictions on N texts.

    Attributes:
        predictions: [N, ...], as the task has them; classes are numbered identically for all rows.
        right: bool[N], whether they are correct; None for a task whose predictions are neither right nor wrong.
        labels: [N, ...], the labels, numbered in the same way; None where they were not packed.
    """

    predictions: np.ndarray
    right: np.ndarray | None
    labels: np.ndarray | None = None


def pack_answers(
    predictions: np.ndarray, right: np.ndarray | None, labels: np.ndarray | None = None
) -> dict[str, Any]:
    """Pack N predictions into JSON values: integers in as few bytes as the largest needs, and a bit for correctness.

    Args:
        predictions: [N, ...].
        right: bool[N], whether they are correct; None for a task whose predictions are neither.
        labels: [N, ...], likewise; needed for metrics other than accuracy.
    """
    given = {"predictions": predictions} if labels is None else {"predictions": predictions, "labels": labels}
    packed: dict[str, Any] = {"num_texts": len(predictions)}
    if right is not None:
        packed["right"] = _encode(np.packbits(right))
    whole = [np.asarray(each) for each in given.values() if np.asarray(each).dtype.kind in "iub"]
    ends = [int(of(each, initial=0)) for each in whole for of in (np.min, np.max)]
    smallest = np.result_type(np.uint8, *(np.min_scalar_type(end) for end in ends))
    for name, each in given.items():
        values = np.asarray(each)
        kind = (smallest if values.dtype.kind in "iub" else values.dtype).newbyteorder("<")
        packed |= {name: _encode(values.astype(kind)), f"{name}_form": [kind.str, *values.shape[1:]]}
    return packed


def unpack_answers(values: dict[str, Any]) -> Answers:
    """Unpack predictions packed by :func:`pack_answers`.

    Raises:
        InputError: The values are malformed or do not match ``num_texts``.
    """
    try:
        num, right = int(values["num_texts"]), None
        predictions = _decode(values, "predictions")
        labels = _decode(values, "labels") if "labels" in values else None
        if "right" in values:
            bits = np.frombuffer(base64.b64decode(values["right"]), np.uint8)
            right = np.unpackbits(bits, count=num).astype(bool)
            if len(bits) != (num + 7) // 8:
                raise ValueError(f"{len(bits)} bytes for {num} texts")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the predictions of a measurement cannot be read: {error}; repeat the benchmark"
        ) from error
    if any(each is not None and len(each) != num for each in (predictions, labels)):
        raise InputError(
            f"the predictions of a measurement are not those of {num} texts; repeat the benchmark"
        )
    return Answers(predictions, right, labels)


def _encode(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _decode(values: dict[str, Any], name: str) -> np.ndarray:
    """Return an array; integers as int64."""
    kind, *shape = values[f"{name}_form"]
    array = np.frombuffer(base64.b64decode(values[name]), np.dtype(kind)).reshape(-1, *shape)
    return array.astype(np.int64) if array.dtype.kind in "iu" else array
