"""Texts without labels, and all that the teacher is to label besides the training texts."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import DataError
from .added_texts_config import UnlabelledConfig
from .augmentation import drop_words, mask_pieces, normalised, splice
from .config import DataConfig
from .files import decode, existing_file, read_bytes
from .losses import IGNORED_LABEL
from .rows import checked
from .tabular import read_table
from .tokenized import TokenizedSplit, tokenize_split

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

    from .data import TextData

logger = logging.getLogger(__name__)

_NAME = "unlabelled"


def read_unlabelled(config: UnlabelledConfig, splits: datasets.DatasetDict) -> list[str]:
    """The texts of the section ``data.unlabelled``, in an order that its seed draws.

    What stands in one of the splits, up to case and spaces, is left out, and so is a text's second occurrence.

    Raises:
        DataError: They cannot be read, or none is left.
    """
    texts = _read(config)
    known = {normalised(text) for split in splits.values() for text in split["text"][:]}
    distinct = {key: text for text in reversed(texts) if (key := normalised(text)) not in known}
    if not distinct:
        raise DataError(
            f"data.unlabelled: {config.path or config.dataset} holds no text that is not in train, validation or test; "
            "give it other texts, or leave it out"
        )
    if config.count is not None and len(distinct) < config.count:
        logger.warning(
            "data.unlabelled: %s texts, %s were asked for", f"{len(distinct):,}", f"{config.count:,}"
        )

    def place(key: str) -> bytes:
        return hashlib.blake2b(f"{config.seed}\0{key}".encode(), digest_size=8).digest()

    return [distinct[key] for key in sorted(distinct, key=place)[: config.count]]


def _read(config: UnlabelledConfig) -> list[str]:
    if config.dataset is not None:
        from .hub import read_hub_column

        raw = read_hub_column(config.dataset, config.dataset_config, config.split, config.text_column)
    elif str(config.path).lower().endswith(".txt"):
        path = existing_file(str(config.path), "data.unlabelled.path")
        return [line for line in decode(read_bytes(path), str(path), "text").splitlines() if line.strip()]
    else:
        raw = read_table(_NAME, str(config.path), config.text_column, config.text_column)
    return checked(replace(raw, labels=[_NAME] * len(raw.texts))).texts


def extra_texts(config: DataConfig, data: TextData) -> dict[str, list[str]]:
    """Texts for the teacher to label besides the training texts, by kind; none of validation or test.

    The same for every tokenizer. ``masked`` is no text and not among them.
    """
    made, train = config.augmentation, data.splits["train"]["text"][:]
    known = {normalised(text) for split in data.splits.values() for text in split["text"][:]}
    texts = {_NAME: data.unlabelled}
    known.update(map(normalised, data.unlabelled))
    if made.spliced is not None:
        texts["spliced"] = splice(train, made.spliced.count, seed=made.spliced.seed, known=known)
        known.update(map(normalised, texts["spliced"]))
    if made.dropped is not None:
        dropped = made.dropped
        texts["dropped"] = drop_words(
            train, dropped.count, share=dropped.share, seed=dropped.seed, known=known
        )
    return {kind: found for kind, found in texts.items() if found}


def extra_splits(
    config: DataConfig, data: TextData, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, TokenizedSplit]:
    """Token ids of ``extra_texts``, and of masked texts; all labels are ``IGNORED_LABEL``.

    Args:
        config: The ``data`` section.
        data: What it was read to.
        tokenizer: Of the model that reads them.
        max_length: Tokens that texts are cut to.

    Raises:
        DataError: Word pieces are to be masked, and the tokenizer has no mask token.
    """
    made = {
        kind: tokenize_split(texts, [IGNORED_LABEL] * len(texts), tokenizer, max_length)
        for kind, texts in extra_texts(config, data).items()
    }
    masked = config.augmentation.masked
    if masked is None:
        return made
    mask_token_id = tokenizer.mask_token_id
    if not isinstance(mask_token_id, int):
        raise DataError("data.augmentation.masked: the teacher's tokenizer has no mask token; leave it out")
    held = {name: data.splits[name]["text"][:] for name in data.splits}
    tokens = {
        name: tokenize_split(texts, [0] * len(texts), tokenizer, max_length) for name, texts in held.items()
    }
    known = {int(example) for split in [*tokens.values(), *made.values()] for example in split.example_ids}
    split = mask_pieces(
        tokens["train"],
        masked.count,
        share=masked.share,
        seed=masked.seed,
        mask_token_id=mask_token_id,
        special_ids=tokenizer.all_special_ids,
        known=known,
    )
    return made | {"masked": split} if len(split) else made
