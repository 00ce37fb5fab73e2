"""Trim a vocabulary, in tokenizer and embedding, to the pieces that texts use.

The remaining pieces spell every text that could be spelled before: every single character of any piece is kept, so that
a removed piece is split into shorter ones. What else a vocabulary needs depends on the tokenizer's model, see
:mod:`.pieces`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
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
from .pieces import piece_model
from .size_config import VocabularyConfig

_TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")


def check_vocabulary(tokenizer: Any, config: VocabularyConfig) -> None:
    """Reject a vocabulary that is too small, or a tokenizer whose other pieces cannot be spelled.

    Raises:
        ModelError: As :func:`pieces_to_keep`.
    """
    pieces_to_keep(tokenizer, [], size=config.size, others_spelled=config.others == "spelled")


def pieces_of(
    tokenizer: Any,
    config: VocabularyConfig,
    texts: Sequence[TextOrPair],
    others: Sequence[TextOrPair],
    fixed: Iterable[int] = (),
) -> list[int]:
    """Return the ids of the pieces that a student keeps of its tokenizer, ascending.

    Args:
        tokenizer: The tokenizer before trimming.
        config: The section ``student.vocabulary``.
        texts: Training texts, whose pieces have priority.
        others: Further texts.
        fixed: Ids that are kept in any case.

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
        fixed=fixed,
    )


def with_pieces(
    model: PreTrainedModel,
    tokenizer: Any,
    config: VocabularyConfig,
    kept: Sequence[int],
    validation_texts: Sequence[TextOrPair] = (),
) -> tuple[Any, int, dict[str, Any]]:
    """Remove the token embedding's rows of all pieces but some, or tie them to rows of kept pieces, in place.

    Args:
        model: Its token embedding is changed.
        tokenizer: The model's tokenizer; it is not changed.
        config: The section ``student.vocabulary``.
        kept: Ids returned by :func:`pieces_of`.
        validation_texts: Texts on which ``covered_share`` is measured.

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
    fixed: Iterable[int] = (),
) -> list[int]:
    """Return the ids of the pieces that a trimmed vocabulary keeps, ascending.

    Args:
        tokenizer: A fast tokenizer, with a model of a registered type if the other pieces are to be spelled.
        texts: Texts whose pieces have priority.
        others: Further texts, whose pieces come after those of ``texts``.
        min_count: Keep pieces that occur at least this often in both together.
        size: Keep at most this many pieces: those of ``texts`` first, frequent ones before rare ones.
        others_spelled: Whether single characters are kept, so that they can spell the removed pieces.
        fixed: Ids that are kept in any case.

    Raises:
        ModelError: The tokenizer's model is not registered, or ``size`` is less than the pieces that every text needs.
    """
    needed = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder) | set(fixed)
    model = piece_model(tokenizer) if others_spelled else None
    if model is not None:
        needed |= model.needed()
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
    kept = set(needed)
    for piece in used:
        more = ({piece} if model is None else model.parts(piece)) - kept
        if size is None or len(kept) + len(more) <= size:
            kept |= more
    return sorted(kept)


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
    rows = [*kept, *range(model.config.vocab_size, embedding.num_embeddings)]  # rows of no piece stay
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
        truncation_side=tokenizer.truncation_side,
        **tokenizer.special_tokens_map,
    )


def respelled(split: TokenizedSplit, old: Any, new: Any, max_length: int) -> TokenizedSplit:
    """Return the same rows in the pieces of a trimmed tokenizer, splitting removed pieces into shorter ones.

    Use this for rows that are not plain text, such as masked ones; tokenize texts again instead.

    Args:
        split: Token ids of ``old``.
        old: The tokenizer before.
        new: The tokenizer returned by ``trim_vocabulary``.
        max_length: Pieces after which a row is cut; its last piece, which ends every text, is kept.

    Raises:
        ModelError: The tokenizers' models differ in type.
    """
    model, before = piece_model(new), piece_model(old)
    if model.type != before.type:
        raise ModelError(
            f"data.augmentation.masked: its texts are pieces of the teacher's tokenizer, a {before.type}, which the "
            f"student's, a {model.type}, cannot spell; remove it, or use a student with a {before.type} tokenizer"
        )
    added, own = new.get_added_vocab(), new.special_tokens_map
    roles = {
        token: own[role]
        for role, token in old.special_tokens_map.items()
        if isinstance(token, str) and role in own
    }
    spelled: dict[int, list[int]] = {}
    for piece in np.unique(split.input_ids).tolist():
        name = old.convert_ids_to_tokens(piece)
        name = roles.get(name, name)
        spelled[piece] = [added[name]] if name in added else model.spell(new, name)
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


def _pieces(tokenizer: Any, texts: Sequence[TextOrPair]) -> list[int]:
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return [piece for row in rows for piece in row]


def _with_new_ids(tokenizer: Any, new_id: dict[int, int]) -> dict[str, Any]:
    """Return a tokenizer, as in its ``tokenizer.json``, with only the pieces that have a new id."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"] = piece_model(tokenizer).with_new_ids(new_id)
    for token in content["added_tokens"]:
        token["id"] = new_id[token["id"]]
    _renumber(content.get("post_processor") or {}, new_id)
    return content


def _renumber(processor: dict[str, Any], new_id: dict[int, int]) -> None:
    """Give the special tokens of a post-processor of ``tokenizer.json`` their new ids, in place."""
    for each in processor.get("processors", []):  # Sequence
        _renumber(each, new_id)
    special = processor.get("special_tokens")
    for token in special.values() if isinstance(special, dict) else ():  # TemplateProcessing
        token["ids"] = [new_id[old] for old in token["ids"]]
    for name in ("sep", "cls"):  # BertProcessing, RobertaProcessing
        if isinstance(processor.get(name), list):
            processor[name] = [processor[name][0], new_id[processor[name][1]]]
