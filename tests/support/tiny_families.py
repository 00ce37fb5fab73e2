"""A tiny model of every registered family, with a tokenizer of the family's own class, trained on a few texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
import torch
from models import tiny_data
from taggers import sentences
from tokenizers import models, pre_tokenizers, processors, trainers
from transformers import (
    CONFIG_MAPPING,
    AlbertTokenizer,
    BertTokenizer,
    CamembertTokenizer,
    DebertaV2Tokenizer,
    MPNetTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from distiltune.training.checkpoints.load import new_classifier, save_checkpoint
from distiltune.training.data.label_kinds.tag_scheme import tag_names
from distiltune.training.tasks import SINGLE_LABEL, Task
from distiltune.training.teacher.from_scratch import train_tokenizer

TOPICS = [text for text, _ in tiny_data()]
TEXTS = [
    *TOPICS,
    *(" ".join(tokens) for tokens, _ in sentences(20)),
    "grey white black ?",
    "a, b! new york's",
]
MAX_POSITIONS = 66
LABELS = sorted({label for _, label in tiny_data()})
_PIECES, _STEPS = 140, 40


def _learn(model: Any, splitter: Any, trainer: Any) -> dict[str, Any]:
    """The trained model, as in tokenizer.json."""
    learner = tokenizers.Tokenizer(model)
    learner.pre_tokenizer = splitter
    learner.train_from_iterator(TEXTS, trainer)
    return json.loads(learner.to_str())["model"]


@cache
def _word_pieces() -> list[str]:
    """Pieces of a WordPiece vocabulary, without special tokens, in their order."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=_PIECES)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return sorted(set(vocabulary) - set(tokenizer.all_special_tokens), key=vocabulary.__getitem__)


@cache
def _byte_pairs() -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces of a byte-level vocabulary in their order, and merges."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=_PIECES + 256, initial_alphabet=alphabet, show_progress=False)
    model = _learn(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), trainer)
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return pieces, [(first, second) for first, second in model["merges"]]


@cache
def _scored_pieces() -> list[tuple[str, float]]:
    """Pieces of a unigram vocabulary with their scores, without special tokens."""
    splitter = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    trainer = trainers.UnigramTrainer(
        vocab_size=_PIECES, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    model = _learn(models.Unigram(), splitter, trainer)
    return [(piece, score) for piece, score in model["vocab"] if piece != "<unk>"]


def _numbered(special: Sequence[str], pieces: Sequence[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate([*special, *pieces])}


def _scored(*special: str) -> list[tuple[str, float]]:
    return [*((name, 0.0) for name in special), *_scored_pieces()]


def _bert() -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return BertTokenizer(vocab=_numbered(special, _word_pieces()))


def _mpnet() -> Any:
    return MPNetTokenizer(vocab=_numbered(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"], _word_pieces()))


def _roberta() -> Any:
    pieces, merges = _byte_pairs()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    return RobertaTokenizer(vocab=_numbered(special, [*pieces, "<mask>"]), merges=merges)


def _modernbert() -> Any:
    pieces, merges = _byte_pairs()
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    # Its special tokens come last.
    vocabulary = _numbered([], [*pieces, *names.values(), "[MASK]"])
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def _xlm_roberta() -> Any:
    return XLMRobertaTokenizer(vocab=[*_scored("<s>", "<pad>", "</s>", "<unk>"), ("<mask>", 0.0)])


def _camembert() -> Any:
    special = ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>")
    return CamembertTokenizer(vocab=[*_scored(*special), ("<mask>", 0.0)])


def _albert() -> Any:
    return AlbertTokenizer(vocab=_scored("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"))


def _deberta() -> Any:
    return DebertaV2Tokenizer(vocab=_scored("[PAD]", "[CLS]", "[SEP]", "[UNK]"))


@dataclass(frozen=True)
class Tiny:
    """What a family's tiny model has of its own: its tokenizer, and fields of its configuration."""

    tokenizer: Callable[[], Any]
    fields: dict[str, Any] = field(default_factory=dict)


_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
_ROBERTA = {"type_vocab_size": 1}
TINY: dict[str, Tiny] = {
    "albert": Tiny(_albert, {"embedding_size": 16}),
    "bert": Tiny(_bert),
    "camembert": Tiny(_camembert, _ROBERTA),
    "deberta-v2": Tiny(
        _deberta,
        {**_DEBERTA, "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False},
    ),
    "distilbert": Tiny(_bert),
    "electra": Tiny(_bert, {"embedding_size": 16}),
    "modernbert": Tiny(_modernbert, {"local_attention": 8}),
    "mpnet": Tiny(_mpnet),
    "roberta": Tiny(_roberta, _ROBERTA),
    "xlm-roberta": Tiny(_xlm_roberta, _ROBERTA),
}
"""One for every family; DeBERTa is configured like v3."""
OTHER_FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "albert-groups": ("albert", {"num_hidden_groups": 3}),
    "deberta-v2-unshared": (
        "deberta-v2",
        {
            "share_att_key": False,
            "norm_rel_ebd": "none",
            "position_biased_input": True,
            "type_vocab_size": 2,
            "conv_kernel_size": 3,
        },
    ),
    "modernbert-mean": ("modernbert", {"classifier_pooling": "mean", "global_attn_every_n_layers": 2}),
}
"""Further configurations, by a name of their own: the family, and the fields in which they differ."""


ALIKE = dict.fromkeys(("roberta", "xlm-roberta", "camembert"), ("roberta", "xlm-roberta", "camembert"))
"""Families of the same computation, so that one model trained on the pieces of all has one graph for all."""


@cache
def tokenizer_of(family: str) -> Any:
    """The family's tokenizer, trained on ``TEXTS``."""
    return TINY[family].tokenizer()


def names_of_labels(task: Task) -> list[str]:
    """Names of a model's outputs."""
    if task.fixed_outputs:
        return [*task.fixed_outputs]
    return tag_names(["city", "name"]) if task.label_kind.name == "tags" else ["red", "blue", "grey"]


def config_of(
    family: str, task: Task = SINGLE_LABEL, names: Sequence[str] | None = None, **fields: Any
) -> PreTrainedConfig:
    """The configuration of a tiny model of 3 layers; the other families accept BERT's names of the sizes."""
    tokenizer, own = tokenizer_of(family), TINY[family]
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    if family == "modernbert":
        ids |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
        ids |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    rows = "hidden_dim" if family == "distilbert" else "intermediate_size"
    return CONFIG_MAPPING[family](
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            rows: 64,
            "max_position_embeddings": MAX_POSITIONS,
            "initializer_range": 0.2,
            **ids,
            **task.model_config(list(names or names_of_labels(task))),
            **own.fields,
            **fields,
        }
    )


def tiny_model(
    config: PreTrainedConfig, task: Task | None = SINGLE_LABEL, kind: Any = None
) -> PreTrainedModel:
    """An untrained model of a configuration, whose biases and norms are drawn too; ``kind`` replaces the task's."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = new_classifier(config, task or SINGLE_LABEL) if kind is None else kind.from_config(config)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def tiny_checkpoint(directory: Path, family: str, task: Task = SINGLE_LABEL, **fields: Any) -> Path:
    """Write an untrained model with its tokenizer; returns ``directory``."""
    save_checkpoint(tiny_model(config_of(family, task, **fields), task), tokenizer_of(family), directory)
    return directory


def trained_checkpoint(directory: Path, family: str, **fields: Any) -> Path:
    """Write a classifier of the topics of ``tiny_data`` that has learned them, with its tokenizer.

    Families that are alike have the same weights, which learned the pieces of each.
    """
    alike = ALIKE.get(family, (family,))
    own = {"names": LABELS, "vocab_size": max(len(tokenizer_of(each)) for each in alike), **fields}
    model = tiny_model(config_of(family, **own))
    model.load_state_dict(_trained(alike, json.dumps(own)))
    save_checkpoint(model, tokenizer_of(family), directory)
    return directory


@cache
def _trained(alike: tuple[str, ...], fields: str) -> dict[str, torch.Tensor]:
    """Weights that have learned the topics in the pieces of each of these families."""
    targets = torch.tensor([LABELS.index(label) for _, label in tiny_data()])
    batches = [
        tokenizer_of(each)(TOPICS, padding=True, return_tensors="pt", return_token_type_ids=False)
        for each in alike
    ]
    model = tiny_model(config_of(alike[0], **json.loads(fields))).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for step in range(_STEPS * len(batches)):
            optimizer.zero_grad()
            logits = model(**batches[step % len(batches)]).logits
            torch.nn.functional.cross_entropy(logits, targets).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model.state_dict()
