"""Train only those rows of the token embedding that the training texts use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from .attention_free import AttentionFreeEncoder
from .tied_embedding_rows import first_equal_rows


def train_used_rows(model: PreTrainedModel, token_ids: np.ndarray) -> None:
    """Make the rows of ``token_ids`` the only parameters of the model's token embedding, in place.

    A step has gradients only for the rows of its own tokens, but the gradient of a whole table is dense: it is
    zeroed, written, measured and stepped for all rows. CLINC150's training texts use 5,400 of BERT's 30,522 rows.
    Losses and trained rows are the same as with the whole table; the other rows are not changed, whereas weight decay
    would shrink them. Equal rows are trained as one and stay equal. The state dict's format does not change.

    Args:
        model: Any model; it is not changed if its token embedding is not a plain table, or is frozen.
        token_ids: int[N], every token id of the training texts, possibly repeated. Other rows (such as that of
            padding, which has no gradient) can still be looked up.
    """
    table = model.get_input_embeddings()
    if type(table) is not nn.Embedding or table.max_norm is not None or not table.weight.requires_grad:
        return
    first = first_equal_rows(table.weight)
    encoder = model.base_model
    if isinstance(encoder, AttentionFreeEncoder):  # includes some unused pairs, across the ends of texts
        token_ids = encoder.rows_of(torch.from_numpy(token_ids.astype(np.int64))[None])[0].numpy()
    rows = np.unique(first.numpy()[token_ids])
    used = torch.from_numpy(rows[rows != table.padding_idx]).long()
    model.set_input_embeddings(_UsedRows(table, used, first))


def table_range(
    table: nn.Embedding, num_rows: int | None = None, range_of: Callable[[Tensor], Any] = torch.aminmax
) -> tuple[Tensor, Tensor]:
    """Return the smallest and largest value of a table, extended to include 0.

    Args:
        table: Any embedding, including one of which only some rows are trained.
        num_rows: Use only this many first rows, if the whole table is trained.
        range_of: Returns both ends of the range of float[V, D].
    """
    low, high = range_of(table.weight.detach()[:num_rows])
    if isinstance(table, _UsedRows):
        kept_low, kept_high = table.kept_range(range_of)
        low, high = torch.minimum(low, kept_low), torch.maximum(high, kept_high)
    return low.clamp(max=0), high.clamp(min=0)


class _UsedRows(nn.Embedding):
    """An embedding whose ``weight`` float[R, D] has the R trainable rows; the table float[V, D] is kept separately."""

    def __init__(self, table: nn.Embedding, rows: Tensor, first: Tensor) -> None:
        weight = table.weight.detach()
        super().__init__(len(rows), table.embedding_dim, _weight=weight[rows].clone())
        self.num_embeddings = table.num_embeddings
        # Not buffers: the processes of a trial would broadcast them at every step.
        self._table = weight
        self._rows = rows
        self._first = first
        place = torch.full((table.num_embeddings,), -1).index_put((rows,), torch.arange(len(rows)))
        self._place = place[first]
        self._kept_range: tuple[Callable[[Tensor], Any], Tensor, Tensor] | None = None
        self.register_state_dict_post_hook(_save_whole_table)
        self.register_load_state_dict_pre_hook(_load_whole_table)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as in nn.Embedding)
        place = self._place[input]
        trained = functional.embedding(place.clamp(min=0), self.weight)
        kept = functional.embedding(input, self._table)
        return torch.where((place >= 0).unsqueeze(-1), trained, kept)

    def kept_range(self, range_of: Callable[[Tensor], Any]) -> tuple[Tensor, Tensor]:
        """Return the smallest and largest value of the rows that are not trained and of 0."""
        if self._kept_range is None or self._kept_range[0] is not range_of:
            low, high = range_of(self._table.masked_fill((self._place >= 0).unsqueeze(-1), 0.0))
            self._kept_range = (range_of, low, high)
        return self._kept_range[1:]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # Move the other tensors with the parameters (to another device or precision).
        self._table, self._rows, self._place = fn(self._table), fn(self._rows), fn(self._place)
        self._first = fn(self._first)
        self._kept_range = None
        return super()._apply(fn, recurse)


def _save_whole_table(module: _UsedRows, state: dict[str, Any], prefix: str, _: Any) -> None:
    table = module._table.index_copy(0, module._rows, module.weight.detach())
    state[f"{prefix}weight"] = table[module._first]


def _load_whole_table(module: _UsedRows, state: dict[str, Any], prefix: str, *_: Any) -> None:
    name = f"{prefix}weight"
    if name in state and len(state[name]) == len(module._table):
        module._table = state[name].detach().to(module._table)
        module._kept_range = None
        state[name] = module._table[module._rows]
