"""Pack a row's predictions on a split compactly into JSON, and unpack them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError


@dataclass(frozen=True)
class Answers:
    """Predictions on N texts.

    Attributes:
        predictions: int[N], the predicted classes, numbered identically for all rows.
        right: bool[N], whether they are correct.
        labels: int[N], the labels, numbered in the same way; None where they were not packed.
    """

    predictions: np.ndarray
    right: np.ndarray
    labels: np.ndarray | None = None


def pack_answers(
    predictions: np.ndarray, right: np.ndarray, labels: np.ndarray | None = None
) -> dict[str, Any]:
    """Pack N predictions into JSON values: the bytes per text that the largest class needs, and a bit if correct.

    Args:
        predictions: int[N], not negative.
        right: bool[N], whether they are correct.
        labels: int[N], not negative; needed for metrics other than accuracy.
    """
    most = max(int(each.max(initial=0)) for each in (predictions, labels) if each is not None)
    kind = np.min_scalar_type(most).newbyteorder("<")
    packed = {
        "num_texts": len(predictions),
        "dtype": kind.str,
        "predictions": _encode(predictions.astype(kind)),
        "right": _encode(np.packbits(right)),
    }
    return packed if labels is None else {**packed, "labels": _encode(labels.astype(kind))}


def unpack_answers(values: dict[str, Any]) -> Answers:
    """Unpack predictions packed by :func:`pack_answers`.

    Raises:
        InputError: The values are malformed or do not match ``num_texts``.
    """
    try:
        num = int(values["num_texts"])
        kind, labels = np.dtype(values["dtype"]), None
        predictions = np.frombuffer(base64.b64decode(values["predictions"]), kind)
        if "labels" in values:
            labels = np.frombuffer(base64.b64decode(values["labels"]), kind).astype(np.int64)
        bits = np.frombuffer(base64.b64decode(values["right"]), np.uint8)
        right = np.unpackbits(bits, count=num).astype(bool)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the predictions of a measurement cannot be read: {error}; repeat the benchmark"
        ) from error
    if len(predictions) != num or len(bits) != (num + 7) // 8 or (labels is not None and len(labels) != num):
        raise InputError(
            f"the predictions of a measurement are not those of {num} texts; repeat the benchmark"
        )
    return Answers(predictions, right, labels)


def _encode(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
