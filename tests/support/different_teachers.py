"""Teachers of different kinds for the same texts: a checkpoint with another tokenizer, and a file of logits."""

import csv
from pathlib import Path

import datasets
import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

from distiltune.training.checkpoints.load import save_checkpoint
from distiltune.training.data.text_data import TextData

NAMES = ["buy", "find", "play", "stop"]
TEXTS = [
    f"{verb} {thing}"
    for verb in NAMES
    for thing in ("a song", "the radio", "milk", "my keys", "one more cake")
]
LABELS = [NAMES.index(text.split()[0]) for text in TEXTS]


def text_data(texts: list[str] = TEXTS) -> TextData:
    """The same labelled texts in every split."""
    rows = datasets.Dataset.from_dict(
        {"text": texts, "label": [NAMES.index(text.split()[0]) for text in texts]},
        features=datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)}
        ),
    )
    return TextData(datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), rows)), None)


def bytewise_classifier(directory: Path, names: list[str] | None = None, *, seed: int = 0) -> Path:
    """Write an untrained RoBERTa with a tokenizer of byte-level BPE, whose labels are in another order."""
    specials = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    specials["mask_token"] = "<mask>"
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXTS, 320, special_tokens=list(specials.values()))
    directory.mkdir(parents=True, exist_ok=True)
    trained.save(str(directory / "own.json"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(directory / "own.json"), **specials)
    (directory / "own.json").unlink()
    names = names or NAMES[::-1]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = RobertaConfig(
            vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, hidden_size=32, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=64, max_position_embeddings=66, type_vocab_size=1,
            initializer_range=0.2, id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
        )  # fmt: skip
        model = RobertaForSequenceClassification(config)
    save_checkpoint(model, tokenizer, directory)
    return directory


def file_of_logits(path: Path, texts: list[str], scale: float = 4.0) -> np.ndarray:
    """Write logits of texts that are right by ``scale``; return them, float32[N, C]."""
    logits = np.zeros((len(texts), len(NAMES)), dtype=np.float32)
    logits[range(len(texts)), [NAMES.index(text.split()[0]) for text in texts]] = scale
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", *(f"logits.{name}" for name in NAMES)])
        writer.writerows([text, *row] for text, row in zip(texts, logits.tolist(), strict=True))
    return logits
