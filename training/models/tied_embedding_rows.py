"""Word pieces that share a row of the token embedding: rows that are equal, and stay so.

A table in which few rows differ is stored as those, and for each piece the number of its own; the tokenizer stays as
it is. Nothing else says which pieces share a row, so that the checkpoint is an ordinary one. Shapes: V word pieces,
D width, K rows that differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

_CHUNK = 2048  # rows that are compared with all that stay, at a time


def first_equal_rows(table: Tensor) -> Tensor:
    """int64[V]: for each row of table[V, D] the number of the first that equals it, bit by bit."""
    first: dict[bytes, int] = {}
    rows = table.detach().cpu().contiguous().numpy()
    return torch.tensor([first.setdefault(row.tobytes(), number) for number, row in enumerate(rows)])


def share_rows(model: PreTrainedModel, kept: Sequence[int]) -> int:
    """Give each piece that is not among ``kept`` the row of the most similar one that is, in place.

    Similar is what has the largest cosine of the angle between the rows: "pictures" gets the row of "picture".

    Args:
        model: Its token embedding is changed, but for the rows of ``kept``.
        kept: Numbers of the pieces whose rows stay.

    Returns:
        How many rows differ now.
    """
    embedding: nn.Embedding = model.get_input_embeddings()  # pyright: ignore[reportAssignmentType]
    table, own = embedding.weight.detach(), torch.tensor(sorted(kept))
    directions = functional.normalize(table, dim=1)
    nearest = torch.cat(
        [own[(chunk @ directions[own].T).argmax(dim=1)] for chunk in directions.split(_CHUNK)]
    )
    nearest[own] = own
    with torch.no_grad():
        embedding.weight.copy_(table[nearest])
    return len(first_equal_rows(embedding.weight).unique())


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
        """float[B, L, D] of int64[B, L]."""
        return functional.embedding(self.place[input_ids], self.weight)

    @property
    def num_rows(self) -> int:
        """K."""
        return len(self.weight)
