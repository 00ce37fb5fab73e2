"""Texts with entities that a tiny model learns in a second, such a model, and jobs of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, DistilBertConfig, RobertaConfig

from distiltune.training.checkpoints.load import new_classifier, save_checkpoint
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.label_kinds.tag_scheme import tag_names
from distiltune.training.data.tokenized import TokenizedDataset
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.tasks import TOKEN_CLASSIFICATION
from distiltune.training.teacher.from_scratch import train_tokenizer

CITIES = ["berlin", "paris", "new york", "rome", "san juan", "oslo"]
PEOPLE = ["ann", "bo", "eve lee", "max"]
TYPES = ["city", "name"]
TAGS = tag_names(TYPES)
_FRAMES = [
    "{name} goes to {city} now",
    "is {city} big ?",
    "in {city} , {name} met {other}",
    "nobody is there",
    "call {name} , please",
]


def sentences(count: int) -> list[tuple[list[str], list[str]]]:
    """Tokens and IOB2 tags, always the same; those of a smaller count are a prefix."""
    made = []
    for number in range(count):
        chosen = {
            "name": PEOPLE[number % 4], "city": CITIES[(number * 5 + 1) % 6], "other": PEOPLE[(number + 1) % 4],
        }  # fmt: skip
        tokens, tags = [], []
        for part in _FRAMES[number % 5].split():
            words = chosen.get(part.strip("{}"), part).split()
            kind = {"{name}": "name", "{city}": "city", "{other}": "name"}.get(part)
            tokens += words
            tags += ["O"] * len(words) if kind is None else [f"B-{kind}", *[f"I-{kind}"] * (len(words) - 1)]
        made.append((tokens, tags))
    return made


def conll(count: int) -> str:
    """The same as the content of a CoNLL file."""
    rows = (
        "\n".join(f"{token} {tag}" for token, tag in zip(*each, strict=True)) for each in sentences(count)
    )
    return "\n\n".join(rows) + "\n"


def entities(tokens: list[str], tags: list[str]) -> list[list[int]]:
    """Start, end and number of the type of each entity of a text, as the data's column holds them."""
    found, at = [], 0
    for token, tag in zip(tokens, tags, strict=True):
        if tag.startswith("B-"):
            found.append([at, at + len(token), TYPES.index(tag[2:])])
        elif tag.startswith("I-"):
            found[-1][1] = at + len(token)
        at += len(token) + 1
    return found


def tiny_tagger(directory: Path, *, family: str = "bert", steps: int = 150, vocab_size: int = 90) -> Path:
    """Write a model trained on ``sentences`` for some steps; words such as "berlin" have several pieces."""
    rows = sentences(40)
    texts = [" ".join(tokens) for tokens, _ in rows]
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size)
    names: dict[str, Any] = {
        "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 66,
        **TOKEN_CLASSIFICATION.model_config(TAGS),
    }  # fmt: skip
    wide = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = {
            "bert": lambda: BertConfig(**wide, **names),
            "roberta": lambda: RobertaConfig(**wide, **names, type_vocab_size=1),
            "distilbert": lambda: DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, **names),
        }[family]()
        model = new_classifier(config, TOKEN_CLASSIFICATION)
        split = TOKEN_CLASSIFICATION.tokenize_labelled(texts, [entities(*row) for row in rows], tokenizer, 32)
        args = DistillationTrainingArguments(
            output_dir=str(directory / "work"), alpha=1.0, max_steps=steps, learning_rate=3e-3,
            per_device_train_batch_size=10, report_to="none", use_cpu=True, save_strategy="no",
            logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        DistillationTrainer(
            model, args, train_dataset=TokenizedDataset(split), task=TOKEN_CLASSIFICATION,
            data_collator=DistillationCollator(tokenizer.pad_token_id),
        ).train()  # fmt: skip
    save_checkpoint(model.eval(), tokenizer, directory)
    return directory
