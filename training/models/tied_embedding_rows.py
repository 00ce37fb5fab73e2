"""Tied rows of the token embedding: word pieces share a row, and training keeps it shared.

A table with few distinct rows can be stored as those rows and an index per piece; the tokenizer is unchanged. Tied
rows are recognised only by their equality, so that the checkpoint is an ordinary one. Shapes: V word pieces, D width,
K distinct rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

_FEW_ROWS = 0.95  # share of distinct rows below which a table is smaller with equal rows stored once
_CHUNK = 2048  # rows compared with all kept rows at a time


def first_equal_rows(table: Tensor) -> Tensor:
    """Return for each row of table[V, D] the index of the first bitwise equal row, int64[V]."""
    first: dict[bytes, int] = {}
    rows = table.detach().cpu().contiguous().numpy()
    return torch.tensor([first.setdefault(row.tobytes(), number) for number, row in enumerate(rows)])


def num_distinct_rows(model: PreTrainedModel) -> int:
    """Return the number of distinct rows of the word pieces in a model's token embedding."""
    embedding: nn.Embedding = model.get_input_embeddings()  # pyright: ignore[reportAssignmentType]
    return len(first_equal_rows(embedding.weight[: model.config.vocab_size]).unique())


def share_rows(model: PreTrainedModel, kept: Sequence[int]) -> int:
    """Replace the row of each piece not in ``kept`` by that of the most similar kept piece, in place.

    Similarity is the cosine between the rows: "pictures" gets the row of "picture".

    Args:
        model: The rows of its token embedding are changed, except for rows of ``kept`` and rows of no piece.
        kept: Ids of the pieces whose rows are kept.

    Returns:
        The number of distinct rows.
    """
    embedding: nn.Embedding = model.get_input_embeddings()  # pyright: ignore[reportAssignmentType]
    table, own = embedding.weight.detach()[: model.config.vocab_size], torch.tensor(sorted(kept))
    directions = functional.normalize(table, dim=1)
    others = own[directions[own].any(dim=1)]  # a zero row, such as that of padding, is similar to none
    nearest = torch.cat(
        [others[(chunk @ directions[others].T).argmax(dim=1)] for chunk in directions.split(_CHUNK)]
    )
    nearest[own] = own
    with torch.no_grad():
        table.copy_(table[nearest])
    return num_distinct_rows(model)


class SharedRows(nn.Module):
    """A token embedding whose equal rows are stored once; it has no gradient.

    Args:
        table: An embedding of V rows.
    """

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        first, place = first_equal_rows(table.weight).unique(return_inverse=True)
        self.weight = nn.Buffer(table.weight.detach()[first].clone())
        self.place = nn.Buffer(place.to(torch.int32))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Look up int64[B, L] as float[B, L, D]."""
        return functional.embedding(self.place[input_ids], self.weight)

    @property
    def num_rows(self) -> int:
        """Number of distinct rows, K."""
        return len(self.weight)


def rows_stored_once(table: nn.Embedding) -> SharedRows | None:
    """Return a token embedding with its equal rows stored once, or None where that would not be smaller."""
    shared = SharedRows(table)
    return shared if shared.num_rows < _FEW_ROWS * table.num_embeddings else None
