"""Trim a WordPiece vocabulary, in tokenizer and embedding, to the pieces that texts use.

The remaining pieces spell every text that could be spelled before: every single character of any piece is kept, at the
beginning of a word and inside it, so that a removed piece is split into shorter ones.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ...errors import ModelError
from ...texts import TextOrPair
from ..data.tokenized import TokenizedSplit, from_rows
from ..models.tied_embedding_rows import share_rows
from .size_config import VocabularyConfig

_TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")


def check_vocabulary(tokenizer: Any, config: VocabularyConfig) -> None:
    """Reject a vocabulary that is too small, or a tokenizer whose other pieces cannot be spelled.

    Raises:
        ModelError: As :func:`pieces_to_keep`.
    """
    pieces_to_keep(tokenizer, [], size=config.size, others_spelled=config.others == "spelled")


def pieces_of(
    tokenizer: Any, config: VocabularyConfig, texts: Sequence[TextOrPair], others: Sequence[TextOrPair]
) -> list[int]:
    """Return the ids of the pieces that a student keeps of its tokenizer, ascending.

    Args:
        tokenizer: The tokenizer before trimming.
        config: The section ``student.vocabulary``.
        texts: Training texts, whose pieces have priority.
        others: Further texts.

    Raises:
        ModelError: As :func:`pieces_to_keep`.
    """
    return pieces_to_keep(
        tokenizer,
        texts,
        others,
        min_count=config.min_count,
        size=config.size,
        others_spelled=config.others == "spelled",
    )


def with_pieces(
    model: PreTrainedModel,
    tokenizer: Any,
    config: VocabularyConfig,
    kept: Sequence[int],
    validation_texts: Sequence[TextOrPair] = (),
) -> tuple[Any, int, dict[str, Any]]:
    """Remove the rows of the token embedding of all but some pieces, or tie them to the kept ones, in place.

    Args:
        model: Its token embedding is changed.
        tokenizer: The model's tokenizer; it is not changed.
        config: The section ``student.vocabulary``.
        kept: Ids returned by :func:`pieces_of`.
        validation_texts: Texts on which the kept share is measured.

    Returns:
        The tokenizer, the number of distinct rows, and what is recorded under ``vocabulary``.
    """
    record = {"covered_share": covered_share(tokenizer, kept, validation_texts)}
    if config.others == "nearest":
        return tokenizer, share_rows(model, kept), record
    return trim_vocabulary(model, tokenizer, kept), len(kept), record


def pieces_to_keep(
    tokenizer: Any,
    texts: Sequence[TextOrPair],
    others: Sequence[TextOrPair] = (),
    *,
    min_count: int = 1,
    size: int | None = None,
    others_spelled: bool = True,
) -> list[int]:
    """Return the ids of the pieces that a trimmed vocabulary keeps, ascending.

    Args:
        tokenizer: A fast tokenizer, with a WordPiece model if the other pieces are to be spelled.
        texts: Texts whose pieces have priority.
        others: Further texts, whose pieces come after those of ``texts``.
        min_count: Keep pieces that occur at least this often in both together.
        size: Keep at most this many pieces: those of ``texts`` first, frequent ones before rare ones.
        others_spelled: Whether single characters are kept, so that they spell the removed pieces.

    Raises:
        ModelError: The tokenizer has another model, or ``size`` is less than the pieces that every text needs.
    """
    needed = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    if others_spelled:
        needed |= _spelling(_wordpiece(tokenizer))
    if size is not None and size <= len(needed):
        characters = " and single characters that spell every text" if others_spelled else ""
        raise ModelError(
            f"student.vocabulary.size: {size:,} given; the special tokens{characters} are {len(needed):,} pieces of "
            f"{len(tokenizer.get_vocab()):,}; give more than that"
        )
    counts, first = Counter(_pieces(tokenizer, others)), Counter(_pieces(tokenizer, texts))
    counts.update(first)
    used = [piece for piece, count in counts.items() if count >= min_count and piece not in needed]
    used.sort(key=lambda piece: (piece not in first, -counts[piece], piece))
    room = None if size is None else size - len(needed)
    return sorted(needed | set(used[:room]))


def covered_share(tokenizer: Any, kept: Sequence[int], texts: Sequence[TextOrPair]) -> float | None:
    """Return the share of texts, 0 to 1, all of whose pieces are kept, so that their tokenization does not change.

    Args:
        tokenizer: The tokenizer before trimming.
        kept: Ids returned by ``pieces_to_keep``.
        texts: Texts other than those that selected the ids; without any, the share is None.
    """
    if not texts:
        return None
    held = set(kept)
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return sum(held.issuperset(row) for row in rows) / len(rows)


def trim_vocabulary(model: PreTrainedModel, tokenizer: Any, kept: Sequence[int]) -> PreTrainedTokenizerFast:
    """Remove all but some word pieces from a model and its tokenizer; the rest get new ids in their old order.

    Args:
        model: Its input embedding loses the other rows.
        tokenizer: The model's tokenizer; it is not changed.
        kept: Ids returned by ``pieces_to_keep``.

    Returns:
        The tokenizer with the remaining pieces.
    """
    new_id = {old: new for new, old in enumerate(kept)}
    embedding: Any = model.get_input_embeddings()
    pad = model.config.pad_token_id
    rows = [*kept, *range(model.config.vocab_size, embedding.num_embeddings)]  # those of no piece stay
    trimmed = nn.Embedding(
        len(rows), embedding.embedding_dim, padding_idx=None if pad is None else new_id.get(pad)
    )
    with torch.no_grad():
        trimmed.weight.copy_(embedding.weight[rows])
    model.set_input_embeddings(trimmed)
    model.config.vocab_size = len(kept)
    for name in _TOKEN_IDS:
        old = getattr(model.config, name, None)
        if isinstance(old, int):
            setattr(model.config, name, new_id.get(old))
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(_with_new_ids(tokenizer, new_id))),
        model_input_names=tokenizer.model_input_names,
        model_max_length=tokenizer.model_max_length,
        **tokenizer.special_tokens_map,
    )


def respelled(split: TokenizedSplit, old: Any, new: Any, max_length: int) -> TokenizedSplit:
    """Return the same rows in the pieces of a trimmed tokenizer, splitting removed pieces into shorter ones.

    Use this for rows that are not plain text, such as masked ones; tokenize texts again instead.

    Args:
        split: Token ids of ``old``.
        old: The tokenizer before.
        new: The tokenizer returned by ``trim_vocabulary``.
        max_length: Pieces after which a row is cut; its last one, which ends every text, is kept.
    """
    model = _wordpiece(new)
    spelled = {
        piece: _spell(old.convert_ids_to_tokens(int(piece)), model) for piece in np.unique(split.input_ids)
    }
    rows = [
        np.array([part for piece in split.row(number) for part in spelled[piece]], dtype=np.int32)
        for number in range(len(split))
    ]
    rows = [_cut(row, max_length) for row in rows]
    if split.token_types is None:
        return from_rows(rows, split.labels)
    counts = {piece: len(parts) for piece, parts in spelled.items()}
    types = [
        _cut(
            np.repeat(split.token_types[start:end], [counts[piece] for piece in split.input_ids[start:end]]),
            max_length,
        )
        for start, end in zip(split.offsets[:-1], split.offsets[1:], strict=True)
    ]
    return from_rows(rows, split.labels, types)


def _cut(row: np.ndarray, max_length: int) -> np.ndarray:
    """Return a row of at most ``max_length`` values, the last one of which stays the last."""
    return row if len(row) <= max_length else np.append(row[: max_length - 1], row[-1])


def _spell(piece: str, model: dict[str, Any]) -> list[int]:
    """Split a piece into the ids of its longest parts from the left, as WordPiece does."""
    vocabulary, prefix = model["vocab"], model["continuing_subword_prefix"]
    if piece in vocabulary:
        return [vocabulary[piece]]
    rest, begun, ids = piece.removeprefix(prefix), piece.startswith(prefix), []
    while rest:
        for end in range(len(rest), 0, -1):
            part = (prefix if begun else "") + rest[:end]
            if part in vocabulary:
                ids.append(vocabulary[part])
                rest, begun = rest[end:], True
                break
        else:
            return [vocabulary[model["unk_token"]]]
    return ids


def _spelling(model: dict[str, Any]) -> set[int]:
    """Return the ids of single characters, and of pieces that contain a character without its own piece."""
    vocabulary, prefix = model["vocab"], model["continuing_subword_prefix"]
    special = {token["content"] for token in model["added_tokens"]}

    def is_needed(piece: str) -> bool:
        characters = piece.removeprefix(prefix)
        parts = [prefix + character for character in characters]
        if characters == piece:
            parts[0] = characters[0]
        return len(characters) == 1 or not all(part in vocabulary for part in parts)

    return {
        number
        for piece, number in vocabulary.items()
        if piece and piece not in special and not _unused(piece) and is_needed(piece)
    }


def _unused(piece: str) -> bool:
    """Return whether a piece is one of the unused entries of BERT's vocabularies."""
    return piece.startswith("[unused") and piece.endswith("]")


def _pieces(tokenizer: Any, texts: Sequence[TextOrPair]) -> list[int]:
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return [piece for row in rows for piece in row]


def _wordpiece(tokenizer: Any) -> dict[str, Any]:
    """Return the tokenizer's model as in its file, together with its ``added_tokens``."""
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = whole["model"].get("type")
    if kind != "WordPiece":
        raise ModelError(
            f"student.vocabulary: the tokenizer's model is {kind}; only WordPiece vocabularies, such as those of "
            f"BERT and DistilBERT, can be trimmed; remove the section"
        )
    return {**whole["model"], "added_tokens": whole["added_tokens"]}


def _with_new_ids(tokenizer: Any, new_id: dict[int, int]) -> dict[str, Any]:
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = whole["model"]["vocab"]
    whole["model"]["vocab"] = {piece: new_id[old] for piece, old in vocabulary.items() if old in new_id}
    for token in whole["added_tokens"]:
        token["id"] = new_id[token["id"]]
    after = whole.get("post_processor") or {}
    for token in after.get("special_tokens", {}).values():  # TemplateProcessing
        token["ids"] = [new_id[old] for old in token["ids"]]
    for name in ("sep", "cls"):  # BertProcessing
        if isinstance(after.get(name), list):
            after[name] = [after[name][0], new_id[after[name][1]]]
    return whole
