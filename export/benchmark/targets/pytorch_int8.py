"""Target of PyTorch's dynamic int8 on the CPU, through the transformers pipeline in inference mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .base import Opened, OpenOptions, Target, register
from .pytorch import open_pipeline, set_threads

if TYPE_CHECKING:
    from ....texts import TextOrPair
    from ....training.data.tokenized import TokenRow
    from ....training.ragged import Rows


def _open(options: OpenOptions) -> Opened:
    import numpy as np
    import torch

    from ....training import tasks
    from ....training.checkpoints.load import load_tokenizer
    from ....training.data.tokenized import TokenRow, tokenize_rows
    from ....training.ragged import Ragged
    from ...variants.torch_int8 import load_pytorch_int8

    set_threads(options.num_threads)
    task = tasks.get(options.task)
    model = load_pytorch_int8(options.directory, task)
    tokenizer = load_tokenizer(options.tokenizer_dir or options.directory)

    def windows(texts: Sequence[TextOrPair]) -> list[TokenRow]:
        split = task.tokenize_texts(texts, tokenizer, options.max_length, int(model.config.num_labels or 0))
        return [TokenRow(split.row(number), split.types(number)) for number in range(len(split))]

    def logits(texts: Sequence[TextOrPair]) -> Rows:
        rows = tokenize_rows(texts, tokenizer, options.max_length) if not task.of_windows else windows(texts)
        # Unlike compute_logits, run the whole last layer: the first token alone would be quantized by another range.
        with torch.inference_mode():
            found = [model(**_inputs(model, row)).logits[0].numpy() for row in rows]
        return Ragged.of(found, np.float32, found[0].shape[1:]) if found[0].ndim == 2 else np.stack(found)

    return open_pipeline(model, tokenizer, logits, options)


def _inputs(model: Any, row: TokenRow) -> dict[str, Any]:
    """Return the inputs [1, L] that a model reads of a text."""
    import torch

    from ....training.data.tokenized import TOKEN_TYPES
    from ....training.models.token_types import without_unread_types

    given = {"input_ids": row.ids} if row.types is None else {"input_ids": row.ids, TOKEN_TYPES: row.types}
    return without_unread_types(
        model, {name: torch.from_numpy(each).long()[None] for name, each in given.items()}
    )


register(
    Target(
        "pytorch-int8",
        "PyTorch's dynamic int8 on the CPU, through the transformers pipeline",
        _open,
        is_gated=True,
        color="#72b7b2",
    )
)
