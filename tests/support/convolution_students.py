"""Tiny students without attention, made in a moment and deterministic."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from models import tiny_data

from distiltune.training.checkpoints.load import save_checkpoint
from distiltune.training.models.convolution import ConvolutionConfig, ConvolutionForSequenceClassification
from distiltune.training.models.static import StaticConfig, StaticForSequenceClassification
from distiltune.training.teacher.from_scratch import train_tokenizer

LABELS = [f"label_{n}" for n in range(4)]
_SIZES: dict[str, Any] = {"vocab_size": 60, "hidden_size": 8, "classifier_size": 12}
_DRAWN: dict[str, Any] = {
    "initializer_range": 0.5,
    "id2label": dict(enumerate(LABELS)),
    "label2id": {name: n for n, name in enumerate(LABELS)},
}


def convolution(seed: int = 0, **shape: Any) -> ConvolutionForSequenceClassification:
    """A convolution with random weights and statistics of its batch norm, in evaluation mode."""
    config = ConvolutionConfig(**{**_SIZES, "num_filters": 6, "block_size": 10, **shape}, **_DRAWN)
    return _made(seed, lambda: ConvolutionForSequenceClassification(config))


def static(seed: int = 0, **shape: Any) -> StaticForSequenceClassification:
    """A weighted mean of word pieces, likewise."""
    config = StaticConfig(**{**_SIZES, **shape}, **_DRAWN)
    model = _made(seed, lambda: StaticForSequenceClassification(config))
    model.get_input_embeddings().weight.data[config.vocab_size :] *= (
        20  # rows of pairs as large as those of pieces
    )
    return model


def _made(seed: int, make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make().eval()
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or name.startswith("norm."):
                parameter.data += 0.3 * torch.randn_like(parameter)
        model.norm.running_mean = torch.randn_like(model.norm.running_mean)
        model.norm.running_var = torch.rand_like(model.norm.running_var) + 0.5
    return model


def convolution_student(directory: Path, num_pieces: int = 200, **shape: Any) -> Path:
    """Write a convolution with a tokenizer of :func:`models.tiny_data`; returns ``directory``."""
    return _written(convolution, directory, shape, num_pieces)


def static_student(directory: Path, **shape: Any) -> Path:
    """Write a weighted mean of word pieces, likewise."""
    return _written(static, directory, shape)


def _written(make: Callable[..., Any], directory: Path, shape: dict[str, Any], num_pieces: int = 200) -> Path:
    tokenizer = train_tokenizer([text for text, _ in tiny_data()], vocab_size=num_pieces)
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    save_checkpoint(make(**vocabulary, **shape), tokenizer, directory)
    return directory
