"""Measure how far the logits of an exported model are from those of the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from transformers import PreTrainedModel

from ...errors import ExportError
from ...training.models.token_types import without_unread_types
from ..onnx.writer import TOKEN_TYPES

Logits = Callable[..., np.ndarray]
"""Maps input_ids, attention_mask and, for pairs, token types, each int64[B, S], to logits: float32[B, C], or [B, S, C]
for each token."""

_LOG_ERRORS_ONLY = 3
_MOST_OF_BATCH = 4096  # tokens of a text in a batch, since both models hold the attention scores of all heads


@dataclass(frozen=True)
class Parity:
    """Largest absolute difference of logits over the compared shapes ``[batch, length]``, and the largest logit."""

    max_abs_diff: float
    shapes: list[tuple[int, int]]
    largest: float = 0.0


def measure_parity(
    reference: Logits,
    candidate: Logits,
    *,
    vocab_size: int,
    pad_token_id: int,
    max_length: int,
    has_types: bool = False,
) -> Parity:
    """Compare two models on random token ids: single texts from one token to full length, and padded batches.

    In every batch of more than one text, lengths range from 1 to the full length, up to 4,096 tokens, and the rest is
    padding. With ``has_types``, the second half of each text has the second token type.

    Raises:
        ExportError: ``candidate`` fails on a shape, or returns logits that are not finite or have another shape.
    """
    generator = np.random.default_rng(0)
    shapes = list(
        dict.fromkeys(
            (batch, min(length, max_length))
            for batch, length in [(1, 8), (1, max_length), (4, 16), (8, 37), (2, _MOST_OF_BATCH), (1, 1)]
        )
    )
    worst = largest = 0.0
    for shape in shapes:
        inputs = _ragged_batch(generator, shape, vocab_size, pad_token_id)
        if has_types:
            inputs = (*inputs, _second_half(inputs[1]))
        expected = reference(*inputs)
        try:
            actual = candidate(*inputs)
        except Exception as error:  # ONNX Runtime's errors share no base class but Exception
            raise ExportError(f"the exported model fails on a batch of {shape}: {error}") from error
        if actual.shape == expected.shape and expected.ndim == 3:  # the logits of padding are not read
            expected, actual = (each[inputs[1] == 1] for each in (expected, actual))
        finite = bool(np.isfinite(actual).all())
        if actual.shape != expected.shape or not finite:
            raise ExportError(
                f"the exported model outputs logits of shape {actual.shape} (finite: {finite}) for a batch of "
                f"{shape}; the original outputs {expected.shape}"
            )
        worst = max(worst, float(np.abs(actual - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    return Parity(worst, shapes, largest)


def check_tolerance(name: str, parity: Parity, tolerance: float, *, relative: bool = False) -> None:
    """Check that a 32-bit variant's logits are within ``tolerance`` of the original's.

    Outputs in the unit of the data, such as prices in thousands, have rounding errors in proportion to their size:
    with ``relative``, the tolerance is a share of the largest of them, if that is above 1.

    Raises:
        ExportError: They differ by more.
    """
    allowed = tolerance * max(1.0, parity.largest) if relative else tolerance
    if parity.max_abs_diff > allowed:
        raise ExportError(
            f"{name}: logits differ from the student's by up to {parity.max_abs_diff:.3g}, more than "
            f"export.parity_tolerance = {tolerance:g} (shapes {parity.shapes}); the export is faulty: remove "
            f"{name} from export.variants"
        )


def torch_logits(model: PreTrainedModel) -> Logits:
    """Wrap ``model`` as a function of NumPy arrays."""

    def run(input_ids: np.ndarray, attention_mask: np.ndarray, types: np.ndarray | None = None) -> np.ndarray:
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        given |= {} if types is None else {TOKEN_TYPES: types}
        inputs = without_unread_types(model, {name: torch.from_numpy(each) for name, each in given.items()})
        with torch.inference_mode():
            return model(**inputs).logits.numpy()

    return run


def onnx_logits(path: Path, *, num_threads: int = 1) -> Logits:
    """Open the graph at ``path`` on the CPU, as a function of NumPy arrays."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = _LOG_ERRORS_ONLY
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base class but Exception
        raise ExportError(f"{path.name}: ONNX Runtime cannot load it: {error}") from error

    names = [each.name for each in session.get_inputs()]

    def run(input_ids: np.ndarray, attention_mask: np.ndarray, types: np.ndarray | None = None) -> np.ndarray:
        types = np.zeros_like(input_ids) if types is None else types
        given = {"input_ids": input_ids, "attention_mask": attention_mask, TOKEN_TYPES: types}
        return np.asarray(session.run(None, {name: given[name] for name in names})[0])

    return run


def _second_half(attention_mask: np.ndarray) -> np.ndarray:
    """Return 1 for each position in the second half of its text, else 0, int64[B, S]."""
    places = np.arange(attention_mask.shape[1])[None]
    lengths = attention_mask.sum(axis=1, keepdims=True)
    return ((2 * places >= lengths) & (attention_mask == 1)).astype(np.int64)


def _ragged_batch(
    generator: np.random.Generator, shape: tuple[int, int], vocab_size: int, pad_token_id: int
) -> tuple[np.ndarray, np.ndarray]:
    batch, length = shape
    # The padding id must not occur inside a text: roberta counts positions by it.
    input_ids = generator.integers(0, vocab_size - 1, size=shape, dtype=np.int64)
    input_ids[input_ids >= pad_token_id] += 1
    lengths = np.linspace(length, 1, batch).astype(np.int64)
    attention_mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    return np.where(attention_mask == 1, input_ids, pad_token_id), attention_mask
