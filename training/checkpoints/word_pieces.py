"""Checks of a checkpoint's word pieces: they exist, fit its embedding table, and cover the training texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from ...errors import ModelError
from ...texts import TextOrPair
from ..models.runtime import quiet

TOKENIZER_FILE = "tokenizer.json"
MOST_UNKNOWN = 0.5
"""Largest accepted share of the texts' characters that become the unknown piece."""
_NUM_MEASURED = 2000  # texts
_MOST_PIECES = 512  # per text


def check_tokenizer_files(directory: Path) -> None:
    """Reject a directory without a tokenizer, for which transformers would silently create an empty one.

    Raises:
        ModelError: There is none; lists the accepted files.
    """
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        return
    if any((directory / name).is_file() for name in (TOKENIZER_FILE, "vocab.txt")):
        return
    if not any(directory.glob("*.model")):
        raise ModelError(_no_tokenizer(directory))


def check_pieces(tokenizer: Any, directory: Path) -> None:
    """Reject a tokenizer that has only special tokens, or whose files are missing from the directory.

    Raises:
        ModelError: It is rejected; lists the files that it needs.
    """
    names = type(tokenizer).vocab_files_names
    others = [name for key, name in names.items() if key != "tokenizer_file"]
    has_tokenizer_file = (directory / TOKENIZER_FILE).is_file()
    if not has_tokenizer_file and not (others and all((directory / name).is_file() for name in others)):
        raise ModelError(_no_tokenizer(directory))
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise ModelError(
            f"{directory}: its tokenizer has {len(tokenizer)} pieces, all of them special tokens; copy the "
            f"tokenizer files of the model next to its weights, or save it again with tokenizer.save_pretrained"
        )


def check_table(tokenizer: Any, config: PreTrainedConfig, name: str | Path) -> None:
    """Reject a tokenizer whose ids exceed the rows of the embedding table.

    Raises:
        ModelError: It is rejected; gives the largest id and the number of rows.
    """
    largest, rows = max(tokenizer.get_vocab().values()), config.vocab_size
    if largest >= rows:
        raise ModelError(
            f"{name}: its tokenizer has token ids up to {largest}, but its embedding table has {rows} rows "
            f"(vocab_size of config.json); copy the tokenizer files that belong to the model, or resize the table "
            f"(resize_token_embeddings), train it and save it again"
        )


def check_padding(tokenizer: Any, config: PreTrainedConfig, name: str | Path, *, is_counted: bool) -> None:
    """Reject a padding id that differs between tokenizer and configuration, if positions are counted from it.

    Args:
        tokenizer: The checkpoint's tokenizer.
        config: Its configuration.
        name: Its name, for the message.
        is_counted: Whether positions are counted from the padding id.

    Raises:
        ModelError: The ids differ; gives both.
    """
    own = getattr(config, "pad_token_id", None)
    if is_counted and own is not None and own != tokenizer.pad_token_id:
        raise ModelError(
            f"{name}: pad_token_id: {own} in its config.json, but {tokenizer.pad_token_id} in its tokenizer "
            f"({tokenizer.pad_token}), and positions are counted from it; copy the tokenizer files that belong to the "
            f"model, or correct the key"
        )


def check_known(tokenizer: Any, texts: Sequence[TextOrPair], parameter: str) -> float:
    """Reject a checkpoint whose tokenizer does not cover the script of the texts.

    Args:
        tokenizer: The checkpoint's tokenizer.
        texts: The training texts; up to 2,000 of them, evenly spaced, are measured.
        parameter: Full name of the parameter that names the checkpoint.

    Returns:
        The share of the texts' characters, 0 to 1, that become the unknown piece; 0 for a tokenizer without one.

    Raises:
        ModelError: The share is above ``MOST_UNKNOWN``.
    """
    share = unknown_share(tokenizer, texts)
    if share > MOST_UNKNOWN:
        raise ModelError(
            f"{parameter}: its tokenizer has no pieces for {share:.0%} of the characters of the training texts (they "
            f"become {tokenizer.unk_token}); accepted: at most {MOST_UNKNOWN:.0%}; use a checkpoint for the texts' "
            f"language and script, such as a multilingual one, or teacher.scratch, whose word pieces are trained "
            f"on the texts"
        )
    return share


def unknown_share(tokenizer: Any, texts: Sequence[TextOrPair]) -> float:
    """Return the share of characters, 0 to 1, that become the unknown piece.

    Characters are counted, not pieces, because a sentence in a script without spaces is one piece.
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
        f"{directory}: has no tokenizer; accepted: {TOKENIZER_FILE}, or the vocabulary files of its family "
        "(vocab.txt; vocab.json and merges.txt; a SentencePiece .model); copy them from the original model, or "
        "save it again with tokenizer.save_pretrained"
    )
