"""What a row answered to each text of a split, packed into a few bytes of JSON."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError


@dataclass(frozen=True)
class Answers:
    """Answers to N texts.

    Attributes:
        predictions: int[N], the classes that the texts got, counted alike for all rows.
        right: bool[N], whether they are the texts' own.
    """

    predictions: np.ndarray
    right: np.ndarray


def pack_answers(predictions: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """JSON values of N answers: as few bytes a text as the largest class needs, and a bit for whether it is right.

    Args:
        predictions: int[N], not negative.
        right: bool[N], whether they are the texts' own.
    """
    kind = np.min_scalar_type(int(predictions.max(initial=0))).newbyteorder("<")
    return {
        "num_texts": len(predictions),
        "dtype": kind.str,
        "predictions": _encode(predictions.astype(kind)),
        "right": _encode(np.packbits(right)),
    }


def unpack_answers(values: dict[str, Any]) -> Answers:
    """What :func:`pack_answers` packed.

    Raises:
        InputError: The values do not hold so many answers.
    """
    try:
        num = int(values["num_texts"])
        predictions = np.frombuffer(base64.b64decode(values["predictions"]), np.dtype(values["dtype"]))
        bits = np.frombuffer(base64.b64decode(values["right"]), np.uint8)
        right = np.unpackbits(bits, count=num).astype(bool)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"answers of a row cannot be read: {error}; measure the rows again") from error
    if len(predictions) != num or len(bits) != (num + 7) // 8:
        raise InputError(f"answers of a row: not those of {num} texts; measure the rows again")
    return Answers(predictions, right)


def _encode(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
