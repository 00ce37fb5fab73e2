"""Build the arrays that a classifier's graph reads: token ids, attention mask and token types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers

from ....errors import ArtifactError
from ....training.tasks.spans.windows import Window
from ...artifact.manifest import MODEL_FILE, TOKENIZER_FILE

_LEAST_MASK = 64
# Pairs of tokens in a run of several texts; each attention head has a score of 4 bytes for each pair.
_MOST_PAIRS = 2**26


def most_texts(batch_size: int, length: int) -> int:
    """Return how many texts to run at once if the longest has ``length`` tokens: at most ``batch_size``."""
    return min(batch_size, max(1, _MOST_PAIRS // max(1, length) ** 2))


def runs_of(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of the texts in each run of a model, the shortest first, so that there is little padding.

    Args:
        lengths: Number of tokens of each text.
        batch_size: Maximum number of texts in a run.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    start = 0
    while start < len(order):
        rows = order[start : start + batch_size]
        rows = rows[: most_texts(batch_size, lengths[rows[-1]])]
        yield rows
        start += len(rows)


class Feeds:
    """Inputs of a graph by name, only those that it declares; calls are thread-safe.

    Args:
        input_types: NumPy type of each input that the graph declares.
        pad_token_id: Id of the padding token. A text without tokens, such as a blank one of a tokenizer that adds
            none, is one token of padding.

    Attributes:
        has_type_ids: Whether the graph reads token types.
    """

    def __init__(self, input_types: Mapping[str, Any], pad_token_id: int):
        self._types = dict(input_types)
        self._id_type = self._types["input_ids"]
        self._padding = [pad_token_id]
        self._has_mask = "attention_mask" in self._types
        self.has_type_ids = "token_type_ids" in self._types
        self._ones = _read_only_ones(_LEAST_MASK, self._types.get("attention_mask"))
        self._masks: dict[int, np.ndarray] = {}

    def of_text(self, ids: Sequence[int], type_ids: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """Return the inputs ``[1, L]`` of one text, which must not be written to.

        Raises:
            ArtifactError: An id is beyond the range of the graph's input.
        """
        try:
            rows = np.array((ids or self._padding,), self._id_type)
        except OverflowError:
            raise _beyond_range() from None
        feed = {"input_ids": rows}
        if self._has_mask:
            length = rows.shape[1]
            mask = self._masks.get(length)
            feed["attention_mask"] = self._new_mask(length) if mask is None else mask
        if self.has_type_ids:
            dtype = self._types["token_type_ids"]
            feed["token_type_ids"] = np.array((type_ids,), dtype) if type_ids else np.zeros(rows.shape, dtype)
        return feed

    def of_batch(self, encodings: Sequence[tokenizers.Encoding | Window]) -> dict[str, np.ndarray]:
        """Return the inputs ``[B, L]`` of several texts or windows, padded to the longest of them.

        Raises:
            ArtifactError: An id is beyond the range of the graph's input.
        """
        shape = (len(encodings), max(1, *(len(encoding) for encoding in encodings)))
        feed = {name: np.zeros(shape, dtype) for name, dtype in self._types.items()}
        feed["input_ids"].fill(self._padding[0])
        for row, encoding in enumerate(encodings):
            ids = encoding.ids or self._padding
            try:
                feed["input_ids"][row, : len(ids)] = ids
            except OverflowError:
                raise _beyond_range() from None
            if self._has_mask:
                feed["attention_mask"][row, : len(ids)] = 1
            if self.has_type_ids:
                feed["token_type_ids"][row, : len(encoding.ids)] = encoding.type_ids
        return feed

    def of_ids(self, rows: np.ndarray, type_ids: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """Return the inputs of ids ``[B, L]`` without padding.

        Args:
            rows: The ids.
            type_ids: Token type of each position; None: all are of the first type. Ignored where the graph does not
                read token types.
        """
        feed = {name: np.zeros(rows.shape, dtype) for name, dtype in self._types.items()}
        feed["input_ids"][:] = rows
        if self.has_type_ids and type_ids is not None:
            feed["token_type_ids"][:] = type_ids
        if self._has_mask:
            feed["attention_mask"].fill(1)
        return feed

    def _new_mask(self, length: int) -> np.ndarray:
        """Return a mask of ones ``[1, L]``, and cache it; all masks are views of one array."""
        ones = self._ones
        if ones.shape[1] < length:
            ones = self._ones = _read_only_ones(2 * length, ones.dtype)
        mask = self._masks[length] = ones[:, :length]
        return mask


def _read_only_ones(length: int, dtype: Any) -> np.ndarray:
    ones = np.ones((1, length), dtype)
    ones.setflags(write=False)
    return ones


def _beyond_range() -> ArtifactError:
    return ArtifactError(
        f"{TOKENIZER_FILE} has ids beyond the input range of {MODEL_FILE}; pull the artifact again"
    )
