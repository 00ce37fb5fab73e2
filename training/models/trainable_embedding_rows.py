"""Train only those rows of the token embedding that the training texts read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from .tied_embedding_rows import first_equal_rows


def train_used_rows(model: PreTrainedModel, token_ids: np.ndarray) -> None:
    """Make the rows of ``token_ids`` the only parameters of the model's token embedding, in place.

    A step gives gradient to the rows of its own tokens alone, but the gradient of a whole table is dense: it is
    zeroed, written, measured and stepped for all rows. Of BERT's 30,522, CLINC150's training texts read 5,400.
    Losses and trained rows are those of the whole table; the other rows stay as they are, where weight decay
    would shrink them. Rows that are equal are one and stay equal. The state dict is that of the model as it was.

    Args:
        model: any model; one whose token embedding is not a plain table, or is frozen, is left alone.
        token_ids: int[N], every token id of the training texts; repeats are welcome. A row that is not among
            them (as padding's, which has no gradient) can be read too.
    """
    table = model.get_input_embeddings()
    if type(table) is not nn.Embedding or table.max_norm is not None or not table.weight.requires_grad:
        return
    first = first_equal_rows(table.weight)
    rows = np.unique(first.numpy()[token_ids])
    used = torch.from_numpy(rows[rows != table.padding_idx]).long()
    model.set_input_embeddings(_UsedRows(table, used, first))


def table_range(table: nn.Embedding, num_rows: int | None = None) -> tuple[Tensor, Tensor]:
    """The least and the largest number of a table, or 0 where that is further out.

    Args:
        table: any, also one of which only some rows are trained.
        num_rows: of a table that is trained whole: look at its first rows alone.
    """
    low, high = torch.aminmax(table.weight.detach()[:num_rows])
    if isinstance(table, _UsedRows):
        kept_low, kept_high = table.kept_range()
        low, high = torch.minimum(low, kept_low), torch.maximum(high, kept_high)
    return low.clamp(max=0), high.clamp(min=0)


class _UsedRows(nn.Embedding):
    """``weight`` is float[R, D], the R rows that are trained; the whole table float[V, D] is kept beside it."""

    def __init__(self, table: nn.Embedding, rows: Tensor, first: Tensor) -> None:
        weight = table.weight.detach()
        super().__init__(len(rows), table.embedding_dim, _weight=weight[rows].clone())
        self.num_embeddings = table.num_embeddings
        # No buffers: several processes of a trial would send each other the buffers at every step.
        self._table = weight
        self._rows = rows
        self._first = first
        place = torch.full((table.num_embeddings,), -1).index_put((rows,), torch.arange(len(rows)))
        self._place = place[first]
        self._kept_range: tuple[Tensor, Tensor] | None = None
        self.register_state_dict_post_hook(_whole_table)
        self.register_load_state_dict_pre_hook(_taken_apart)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as in nn.Embedding)
        place = self._place[input]
        trained = functional.embedding(place.clamp(min=0), self.weight)
        kept = functional.embedding(input, self._table)
        return torch.where((place >= 0).unsqueeze(-1), trained, kept)

    def kept_range(self) -> tuple[Tensor, Tensor]:
        """The least and the largest number of the rows that are not trained, and of 0."""
        if self._kept_range is None:
            low, high = torch.aminmax(self._table.masked_fill((self._place >= 0).unsqueeze(-1), 0.0))
            self._kept_range = (low, high)
        return self._kept_range

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # Where the parameters go (to another device, into another precision), the rest goes too.
        self._table, self._rows, self._place = fn(self._table), fn(self._rows), fn(self._place)
        self._first = fn(self._first)
        self._kept_range = None
        return super()._apply(fn, recurse)


def _whole_table(module: _UsedRows, state: dict[str, Any], prefix: str, _: Any) -> None:
    table = module._table.index_copy(0, module._rows, module.weight.detach())
    state[f"{prefix}weight"] = table[module._first]


def _taken_apart(module: _UsedRows, state: dict[str, Any], prefix: str, *_: Any) -> None:
    name = f"{prefix}weight"
    if name in state and len(state[name]) == len(module._table):
        module._table = state[name].detach().to(module._table)
        module._kept_range = None
        state[name] = module._table[module._rows]
