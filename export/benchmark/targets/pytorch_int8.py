"""Target of PyTorch's dynamic int8 on the CPU, through the transformers pipeline in inference mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import Opened, OpenOptions, Target, register
from .pytorch import open_pipeline, set_threads

if TYPE_CHECKING:
    import numpy as np


def _open(options: OpenOptions) -> Opened:
    import torch

    from ....training import tasks
    from ....training.checkpoints.load import load_tokenizer
    from ....training.data.tokenized import tokenize_split
    from ...variants.torch_int8 import load_pytorch_int8

    set_threads(options.num_threads)
    model = load_pytorch_int8(options.directory, tasks.get(options.task))
    tokenizer = load_tokenizer(options.tokenizer_dir or options.directory)

    def logits(texts: Sequence[str]) -> np.ndarray:
        split = tokenize_split(texts, None, tokenizer, options.max_length)
        # Unlike compute_logits, run the whole last layer: the first token alone has another range.
        ids = [torch.from_numpy(split.row(i)).long()[None] for i in range(len(split))]
        with torch.inference_mode():
            return torch.cat([model(input_ids=each).logits for each in ids]).numpy()

    return open_pipeline(model, tokenizer, logits, options)


register(
    Target(
        "pytorch-int8",
        "PyTorch's dynamic int8 on the CPU, through the transformers pipeline",
        _open,
        is_gated=True,
        color="#72b7b2",
    )
)
