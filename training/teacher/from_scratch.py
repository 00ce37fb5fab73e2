"""A small BERT from scratch: a WordPiece tokenizer trained on texts, and a model built from a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import BertWordPieceTokenizer, Tokenizer
from transformers import BertConfig, PreTrainedModel, PreTrainedTokenizerFast

from ...texts import TextOrPair, all_parts
from ..checkpoints.load import new_classifier
from ..tasks import SINGLE_LABEL, Task
from .config import ScratchConfig

_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def train_tokenizer(texts: Sequence[TextOrPair], vocab_size: int) -> Any:
    """Train a lower-casing WordPiece tokenizer with at most ``vocab_size`` pieces on ``texts``.

    Texts become ``[CLS] text [SEP]``, and pairs ``[CLS] text [SEP] text_pair [SEP]`` with token type 1 from the second
    text on; the same texts give the same pieces with the same ids.
    """
    parts = all_parts(texts)
    special = list(_SPECIAL.values())
    learner = BertWordPieceTokenizer(lowercase=True)
    learner.train_from_iterator(
        parts,
        vocab_size=vocab_size,
        min_frequency=1,
        show_progress=False,
        special_tokens=[*special, *_continuations(learner, parts)],
    )
    vocabulary = learner.get_vocab()
    # Build a new tokenizer from the pieces: the trained one treats the continuations as special tokens.
    tokenizer = BertWordPieceTokenizer(vocabulary, lowercase=True)
    assert tokenizer.num_special_tokens_to_add(False) == 2, "[CLS] and [SEP]"
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.to_str()),
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **_SPECIAL,
    )


def _continuations(tokenizer: BertWordPieceTokenizer, texts: Sequence[str]) -> list[str]:
    """Return every ``##c`` that the texts need, sorted.

    By default training numbers them in the order of a hash table, which differs between processes, and breaks
    ties between pieces by these numbers.
    """
    normalizer, splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
    assert normalizer is not None and splitter is not None
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    return sorted({f"##{character}" for word in words for character in word[1:]})


def new_model(
    config: ScratchConfig,
    tokenizer: Any,
    label_names: list[str],
    max_length: int,
    task: Task = SINGLE_LABEL,
) -> PreTrainedModel:
    """Build a task's untrained BERT for the tokenizer and the labels; seed torch first."""
    shapes = scratch_shapes(
        config,
        vocab_size=len(tokenizer),
        max_position_embeddings=max_length,
        pad_token_id=tokenizer.pad_token_id,
        **task.model_config(label_names),
    )
    return new_classifier(shapes, task)


def scratch_shapes(config: ScratchConfig, **others: Any) -> BertConfig:
    """Return the configuration of ``new_model``, without what depends on tokenizer and labels."""
    return BertConfig(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        hidden_dropout_prob=config.dropout,
        **others,
    )
