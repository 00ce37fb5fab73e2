"""Target of PyTorch checkpoints on the CPU, through the transformers pipeline in inference mode."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ....texts import num_characters
from .answers import open_answerer
from .base import Opened, OpenOptions, Target, register

if TYPE_CHECKING:
    from ....texts import TextOrPair
    from ....training.ragged import Rows


def open_checkpoint(options: OpenOptions) -> Opened:
    """Open a classifier's checkpoint."""
    from ....training import tasks
    from ....training.checkpoints.load import load_classifier
    from ....training.models.inference import compute_logits

    set_threads(options.num_threads)
    task = tasks.get(options.task)
    model, tokenizer = load_classifier(options.directory, task)

    def logits(texts: Sequence[TextOrPair]) -> Rows:
        outputs = int(model.config.num_labels or 0)
        split = task.tokenize_texts(texts, tokenizer, options.max_length, outputs)
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


def open_pipeline(
    model: Any, tokenizer: Any, logits: Any, options: OpenOptions, *, device: str = "cpu"
) -> Opened:
    """Wrap a model in the transformers pipeline, in inference mode; questions are answered by ``open_answerer``."""
    import torch
    from transformers import pipeline

    from ....texts import as_columns
    from ....training import tasks
    from ....training.checkpoints.load import label_names, most_tokens
    from ....training.data.tokenized import TOKEN_TYPES, encodings_of
    from ....training.models.token_types import reads_token_types
    from ...runtime.session.feeds import most_texts
    from ...runtime.tasks import Tokens

    types = [TOKEN_TYPES] if reads_token_types(model) else []
    tokenizer.model_input_names = ["input_ids", *types, "attention_mask"]
    tokenizer.model_max_length = options.max_length  # the limit at which the pipeline of tokens truncates
    task = tasks.get(options.task)
    if task.of_windows:
        return open_answerer(model, tokenizer, logits, options, device=device)
    of_tokens = task.of_tokens
    pipeline_options: dict[str, Any] = {"aggregation_strategy": "simple"} if of_tokens else {}
    call_options = {} if of_tokens else {"truncation": True, "max_length": options.max_length}
    kind: Any = task.pipeline
    classify: Any = pipeline(kind, model=model, tokenizer=tokenizer, device=device, **pipeline_options)

    def as_input(text: Any) -> Any:
        return as_columns(text) if isinstance(text, tuple) else text

    def call(texts: Any, batch_size: int = 1, **cut: Any) -> Any:
        if isinstance(texts, list):
            batch_size = most_texts(batch_size, length_bound(texts, options.max_length))
        texts = [as_input(text) for text in texts] if isinstance(texts, list) else as_input(texts)
        with torch.inference_mode():
            return classify(texts, batch_size=batch_size, **{**call_options, **cut})

    def at_length(num_tokens: int) -> Any:
        most = most_tokens(model)
        if most is not None and num_tokens > most:
            return None
        tokenizer.model_max_length = num_tokens
        return call if of_tokens else partial(call, max_length=num_tokens)

    def tokens(texts: Sequence[str]) -> list[Tokens]:
        found = encodings_of(texts, tokenizer, options.max_length)
        return [Tokens(text, each.offsets, each.word_ids) for text, each in zip(texts, found, strict=True)]

    return Opened(
        call,
        logits,
        label_names(model.config),
        tokens=tokens if of_tokens else None,
        at_length=at_length,
    )


def length_bound(texts: Sequence[TextOrPair], max_length: int) -> int:
    """Estimate the maximum number of tokens of texts: one for each character, and three special ones."""
    return min(max_length, 3 + max(map(num_characters, texts), default=0))


register(
    Target(
        "pytorch", "PyTorch on the CPU, through the transformers pipeline", open_checkpoint, color="#4c78a8"
    )
)
