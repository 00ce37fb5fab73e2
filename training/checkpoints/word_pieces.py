"""Word pieces of a checkpoint: that its tokenizer has some, that its table has rows for them, that they are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from ...errors import ModelError
from ..models.runtime import quiet

TOKENIZER_FILE = "tokenizer.json"
MOST_UNKNOWN = 0.5
"""Share of the texts' characters: above it, most of what a model is to read is not there for it."""
_NUM_MEASURED = 2000  # texts
_MOST_PIECES = 512  # of each


def check_tokenizer_files(directory: Path) -> None:
    """Refuse a directory that has no tokenizer: transformers makes an empty one without a word.

    Raises:
        ModelError: The files that are accepted.
    """
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        return
    if any((directory / name).is_file() for name in (TOKENIZER_FILE, "vocab.txt")):
        return
    if not any(directory.glob("*.model")):
        raise ModelError(_no_tokenizer(directory))


def check_pieces(tokenizer: Any, directory: Path) -> None:
    """Refuse a tokenizer that knows only its special tokens, or whose own files are not those of the directory.

    Raises:
        ModelError: The files that it needs.
    """
    names = type(tokenizer).vocab_files_names
    others = [name for key, name in names.items() if key != "tokenizer_file"]
    whole = (directory / TOKENIZER_FILE).is_file()
    if not whole and not (others and all((directory / name).is_file() for name in others)):
        raise ModelError(_no_tokenizer(directory))
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise ModelError(
            f"{directory}: its tokenizer has {len(tokenizer)} pieces, all of them special tokens; copy the "
            "tokenizer files of the model beside its weights, or save it again with tokenizer.save_pretrained"
        )


def check_table(tokenizer: Any, config: PreTrainedConfig, name: str | Path) -> None:
    """Refuse a tokenizer whose ids reach beyond the rows of the embedding table.

    Raises:
        ModelError: The largest id, and the rows.
    """
    largest, rows = max(tokenizer.get_vocab().values()), config.vocab_size
    if largest >= rows:
        raise ModelError(
            f"{name}: its tokenizer has token ids up to {largest}, and its embedding table {rows} rows (vocab_size of "
            "config.json); copy the tokenizer files that belong to the model beside it, or resize the table "
            "(resize_token_embeddings), train it and save it again"
        )


def check_known(tokenizer: Any, texts: Sequence[str], parameter: str) -> float:
    """Refuse a checkpoint whose tokenizer does not know what the texts are written in.

    Args:
        tokenizer: Of the checkpoint.
        texts: The training texts; up to 2,000, evenly spaced, are looked at.
        parameter: Full name of the parameter that names the checkpoint.

    Returns:
        The share of the texts' characters, 0 to 1, that become the unknown piece; 0 for a tokenizer that has none.

    Raises:
        ModelError: It is above ``MOST_UNKNOWN``.
    """
    share = unknown_share(tokenizer, texts)
    if share > MOST_UNKNOWN:
        raise ModelError(
            f"{parameter}: its tokenizer does not know {share:.0%} of the characters of the training texts (they "
            f"become {tokenizer.unk_token}); accepted: at most {MOST_UNKNOWN:.0%}; name a checkpoint of the texts' "
            "language and script, such as a multilingual one, or teacher.scratch, whose pieces are made of the texts"
        )
    return share


def unknown_share(tokenizer: Any, texts: Sequence[str]) -> float:
    """Return the share of characters, 0 to 1, that become the unknown piece.

    Of characters, not of pieces: a sentence of a script without spaces is one piece.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None or not len(texts):
        return 0.0
    step = -(-len(texts) // _NUM_MEASURED)
    with quiet():
        encoded = tokenizer(
            list(texts[::step]),
            add_special_tokens=False,
            truncation=True,
            max_length=_MOST_PIECES,
            return_offsets_mapping=True,
        )
    total = lost = 0
    for ids, spans in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        for piece, (start, end) in zip(ids, spans, strict=True):
            total += end - start
            lost += (end - start) * (piece == unknown)
    return lost / total if total else 0.0


def _no_tokenizer(directory: Path) -> str:
    return (
        f"{directory}: has no tokenizer; accepted: {TOKENIZER_FILE}, or the vocabulary files of its family (vocab.txt; "
        "vocab.json and merges.txt; a SentencePiece .model); copy them from the model that it was made of, or save it "
        "again with tokenizer.save_pretrained"
    )
