"""Tiny classifiers of pairs that depend on token types, and data labelled by one: without types most are wrong."""

import csv
import random
from pathlib import Path

import torch
from models import tiny_classifier

from distiltune.training.checkpoints.load import load_classifier, save_checkpoint
from distiltune.training.data.tokenized import TokenizedSplit, tokenize_split
from distiltune.training.models.inference import compute_logits
from distiltune.training.tasks import SINGLE_LABEL

COLOURS = ["red", "blue", "grey", "green", "white", "black"]
LABELS = ["entailment", "neutral"]
MAX_LENGTH = 32
_DROPOUTS = {
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
}
_GAP = 3.0  # standard deviation of the difference between the logits


def drawn_pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Distinct pairs of short texts over a few words."""
    draw, found = random.Random(seed), {}
    while len(found) < count:
        parts = [" ".join(draw.choices(COLOURS, k=draw.randint(2, 6))) for _ in range(2)]
        found[parts[0], parts[1]] = None
    return list(found)


def pair_classifier(directory: Path, family: str = "bert") -> Path:
    """Write a confident classifier of pairs without dropout; the answers of a BERT depend on token types."""
    texts = [text for pair in drawn_pairs(60) for text in pair]
    tiny_classifier(directory, family=family, label_names=LABELS, texts=texts)
    model, tokenizer = load_classifier(directory, SINGLE_LABEL)
    model.config.update(dict.fromkeys(_DROPOUTS & set(vars(model.config)), 0.0))
    pairs = drawn_pairs(200, seed=1)
    logits = torch.from_numpy(logits_of(model, tokenizer, pairs))
    gaps = logits[:, 0] - logits[:, 1]
    with torch.no_grad():  # most answers are confident, and both labels are frequent
        head = model.classifier.out_proj if family == "roberta" else model.classifier
        head.weight.mul_(_GAP / gaps.std())
        middle = gaps.median() * _GAP / gaps.std()
        head.bias += torch.tensor([-middle / 2, middle / 2])
    save_checkpoint(model, tokenizer, directory)
    return directory


def logits_of(model, tokenizer, pairs, *, with_types: bool = True):
    """Logits float32[N, C]; without types, every token has that of the first text."""
    split = tokenize_split(pairs, None, tokenizer, MAX_LENGTH)
    if not with_types:
        split = TokenizedSplit(split.input_ids, split.offsets, split.labels, split.example_ids)
    return compute_logits(model, split, pad_token_id=tokenizer.pad_token_id, num_threads=1)


def write_pairs(path: Path, checkpoint: Path, count: int = 160, seed: int = 2) -> Path:
    """Write distinct pairs with the labels that a classifier gives them, half of each label."""
    model, tokenizer = load_classifier(checkpoint, SINGLE_LABEL)
    pairs = drawn_pairs(4 * count, seed=seed)
    labels = logits_of(model, tokenizer, pairs).argmax(axis=1)
    kept = [
        pair
        for number in (0, 1)
        for pair in [p for p, n in zip(pairs, labels, strict=True) if n == number][: count // 2]
    ]
    number_of = dict(zip(pairs, labels, strict=True))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence1", "sentence2", "label"])
        writer.writerows([*pair, LABELS[number_of[pair]]] for pair in kept)
    return path
