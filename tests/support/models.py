"""Tiny checkpoints and data for the tests, made in a moment and deterministic."""

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from distiltune.training.checkpoints.load import save_checkpoint
from distiltune.training.teacher.from_scratch import train_tokenizer

WORDS = [
    "open",
    "close",
    "early",
    "late",
    "red",
    "blue",
    "slow",
    "fast",
    "big",
    "small",
    "old",
    "new",
    "warm",
    "cold",
    "left",
    "right",
    "north",
    "south",
    "first",
    "last",
]


def tiny_data(num_labels: int = 4, per_label: int = 12) -> list[tuple[str, str]]:
    """(text, label) pairs that a tiny model can learn: each label has a word of its own."""
    return [
        (
            f"{WORDS[(label * 5 + n) % len(WORDS)]} {WORDS[label]} topic{label} {WORDS[n % len(WORDS)]}",
            f"label_{label}",
        )
        for label in range(num_labels)
        for n in range(per_label)
    ]


def tiny_classifier(
    directory: Path,
    *,
    family: str = "bert",
    num_layers: int = 2,
    hidden_size: int = 32,
    label_names: list[str] | None = None,
    texts: list[str] | None = None,
    seed: int = 0,
) -> Path:
    """Write an untrained classifier with a tokenizer made from ``texts``; returns ``directory``."""
    label_names = label_names or [f"label_{n}" for n in range(4)]
    tokenizer = train_tokenizer(texts or [text for text, _ in tiny_data()], vocab_size=200)
    names = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: n for n, name in enumerate(label_names)},
        "max_position_embeddings": 66,
        "initializer_range": hidden_size**-0.5,
    }
    wide = {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * hidden_size,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family == "bert":
            model = BertForSequenceClassification(BertConfig(**wide, **names))
        elif family == "roberta":
            model = RobertaForSequenceClassification(RobertaConfig(**wide, **names, type_vocab_size=1))
        else:
            config = DistilBertConfig(
                dim=hidden_size, n_layers=num_layers, n_heads=2, hidden_dim=2 * hidden_size, **names
            )
            model = DistilBertForSequenceClassification(config)
    save_checkpoint(model, tokenizer, Path(directory))
    return Path(directory)
