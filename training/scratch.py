"""A small BERT from nothing: a WordPiece tokenizer made from texts, and a model from a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import BertWordPieceTokenizer, Tokenizer
from tokenizers.processors import BertProcessing
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from .config import ScratchConfig
from .heads import label_maps

_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Any:
    """A lower-casing WordPiece tokenizer with at most ``vocab_size`` pieces, learned from ``texts``.

    Texts become ``[CLS] text [SEP]``; the same texts give the same pieces with the same numbers.
    """
    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator(
        texts,
        vocab_size=vocab_size,
        min_frequency=1,
        show_progress=False,
        special_tokens=list(_SPECIAL.values()),
    )
    vocabulary = pieces.get_vocab()
    # Training leaves the special tokens out of what the tokenizer puts around a text.
    sep, cls = ((_SPECIAL[name], vocabulary[_SPECIAL[name]]) for name in ("sep_token", "cls_token"))
    pieces.post_processor = BertProcessing(sep, cls)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(pieces.to_str()),
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **_SPECIAL,
    )


def new_model(
    config: ScratchConfig, tokenizer: Any, label_names: list[str], max_length: int
) -> BertForSequenceClassification:
    """An untrained BERT classifier that fits the tokenizer and the labels; seed torch before."""
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=max_length,
            pad_token_id=tokenizer.pad_token_id,
            **label_maps(label_names),
        )
    )
