"""Write the nodes that all students without attention share: rows of the table, mask, hidden layer and head."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from ....training.models.attention_free import AttentionFreeClassifier, AttentionFreeEncoder, without_norm
from ....training.models.tied_embedding_rows import rows_stored_once
from ..parts import HIDDEN_LAYER
from ..writer import INPUT_NAMES, GraphWriter

IDS, MASK = INPUT_NAMES
HIDDEN_LAYER_PART = (r"^model\.dense\.", "hidden layer", HIDDEN_LAYER)
TABLE, PLACE = "encoder.word_embeddings.weight", "encoder.word_embeddings.place"


class TableRows:
    """Write the lookup of rows of an encoder's table, in which equal rows are stored once where that is smaller.

    Args:
        writer: The graph to add to.
        encoder: The encoder with the table.
        ids: Name of the value with the indices of the rows that the texts read, int64[B, M]; default: the token ids.

    Attributes:
        ids: Name of the value with the indices of the stored rows, integers[B, M].
        zero: Name of the index of a stored row of zeros, for padding; a scalar of the same type.
    """

    def __init__(self, writer: GraphWriter, encoder: AttentionFreeEncoder, ids: str = IDS) -> None:
        self._writer, self.ids = writer, ids
        table, padding, dtype = whole_table(encoder), encoder.config.pad_token_id, np.dtype(np.int64)
        stored = rows_stored_once(table)
        rows = values((stored or table).weight)
        if stored is not None:
            place = values(stored.place)
            padding, dtype = int(place[padding]), place.dtype
            self.ids = writer.add("Gather", writer.weight(PLACE, place), ids)
        if rows[padding].any():
            rows, padding = np.concatenate([rows, np.zeros_like(rows[:1])]), len(rows)
        self._table, self.zero = writer.weight(TABLE, rows), writer.scalar(padding, dtype)

    def of(self, ids: str) -> str:
        """Add the lookup of the rows ``ids``, integers[B, M]: float[B, M, D]."""
        return self._writer.add("Gather", self._table, ids)


def kept_positions(writer: GraphWriter, mask: str) -> str:
    """Add a value that is 1 for a position with text and 0 for padding, float[B, M, 1], from a mask int64[B, M]."""
    # The two values come from a Constant node, because quantizers would quantize a table among the weights.
    zero_and_one = writer.add(
        "Constant", value=numpy_helper.from_array(np.array([[0], [1]], dtype=np.float32))
    )
    return writer.add("Gather", zero_and_one, mask)


def head(writer: GraphWriter, model: AttentionFreeClassifier, pooled: str) -> str:
    """Add normalization, hidden layer and head over pooled[B, P], and return the name of the logits."""
    hidden = writer.add(
        "Relu", writer.linear(pooled, "dense", *map(values, without_norm(model.norm, model.dense)))
    )
    last = model.classifier
    return writer.linear(hidden, "classifier", values(last.weight), values(last.bias))


def values(tensor: Tensor | None) -> np.ndarray:
    """Return a tensor's values as an array."""
    assert tensor is not None
    return tensor.detach().cpu().numpy()


def whole_table(encoder: AttentionFreeEncoder) -> nn.Embedding:
    """Return all rows; an encoder that has just been trained may hold only some of them."""
    table: Any = encoder.word_embeddings
    if type(table) is nn.Embedding:
        return table
    with torch.no_grad():
        return nn.Embedding.from_pretrained(table(torch.arange(table.num_embeddings)))
