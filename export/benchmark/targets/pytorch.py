"""Target of PyTorch checkpoints on the CPU, through the transformers pipeline in inference mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .base import Opened, OpenOptions, Target, register

if TYPE_CHECKING:
    import numpy as np

    from ....texts import TextOrPair


def open_checkpoint(options: OpenOptions) -> Opened:
    """Open a classifier's checkpoint."""
    from ....training import tasks
    from ....training.checkpoints.load import load_classifier
    from ....training.data.tokenized import tokenize_split
    from ....training.models.inference import compute_logits

    set_threads(options.num_threads)
    model, tokenizer = load_classifier(options.directory, tasks.get(options.task))

    def logits(texts: Sequence[TextOrPair]) -> np.ndarray:
        split = tokenize_split(texts, None, tokenizer, options.max_length)
        pad_token_id = int(model.config.pad_token_id or 0)
        return compute_logits(
            model, split, pad_token_id=pad_token_id, num_threads=options.num_threads, use_gpu=False
        )

    return open_pipeline(model, tokenizer, logits, options)


def set_threads(num_threads: int) -> None:
    """Set the number of threads that PyTorch uses in this process."""
    import torch

    torch.set_num_threads(num_threads)
    torch.set_num_interop_threads(1)


def open_pipeline(model: Any, tokenizer: Any, logits: Any, options: OpenOptions) -> Opened:
    """Wrap a model in the transformers pipeline, in inference mode."""
    import torch
    from transformers import pipeline

    from ....texts import as_columns
    from ....training.checkpoints.load import label_names
    from ....training.data.tokenized import TOKEN_TYPES
    from ....training.models.token_types import reads_token_types

    types = [TOKEN_TYPES] if reads_token_types(model) else []
    tokenizer.model_input_names = ["input_ids", *types, "attention_mask"]
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")

    def given(text: Any) -> Any:
        return as_columns(text) if isinstance(text, tuple) else text

    def call(texts: Any, batch_size: int = 1) -> Any:
        texts = [given(text) for text in texts] if isinstance(texts, list) else given(texts)
        with torch.inference_mode():
            return classify(texts, batch_size=batch_size, truncation=True, max_length=options.max_length)

    return Opened(call, logits, label_names(model.config))


register(
    Target(
        "pytorch", "PyTorch on the CPU, through the transformers pipeline", open_checkpoint, color="#4c78a8"
    )
)
