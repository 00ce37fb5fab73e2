"""User-provided texts without labels, for the teacher to label."""

from __future__ import annotations

import hashlib
import logging

import datasets

from ...errors import DataError
from ...texts import TextOrPair, texts_of
from .added_texts_config import UnlabelledConfig
from .rows import checked, normalised
from .sources.columns import Columns
from .sources.files import decode, existing_file, read_bytes
from .sources.table import read_table

logger = logging.getLogger(__name__)

UNLABELLED = "unlabelled"


def read_unlabelled(config: UnlabelledConfig, splits: datasets.DatasetDict) -> list[TextOrPair]:
    """Read the texts of the section ``data.unlabelled``, in a random order determined by its seed.

    Duplicates, and texts that occur in one of the splits, are dropped; case and white space are ignored.

    Raises:
        DataError: The texts cannot be read, or none is left.
    """
    texts = _read(config)
    known = {normalised(text) for split in splits.values() for text in texts_of(split)}
    distinct = {key: text for text in reversed(texts) if (key := normalised(text)) not in known}
    if not distinct:
        raise DataError(
            f"data.unlabelled: {config.path or config.dataset} contains no text that is not in train, validation "
            f"or test; provide other texts, or remove the section"
        )
    if config.count is not None and len(distinct) < config.count:
        logger.warning(
            "data.unlabelled: %s texts, %s were requested", f"{len(distinct):,}", f"{config.count:,}"
        )

    def place(key: str) -> bytes:
        return hashlib.blake2b(f"{config.seed}\0{key}".encode(), digest_size=8).digest()

    return [distinct[key] for key in sorted(distinct, key=place)[: config.count]]


def _read(config: UnlabelledConfig) -> list[TextOrPair]:
    columns = Columns(config.text_column, section="data.unlabelled", pair=config.text_pair_column)
    if config.dataset is not None:
        from .sources.hub import read_hub_column

        raw = read_hub_column(config.dataset, config.dataset_config, config.split, columns)
    elif str(config.path).lower().endswith(".txt"):
        path = existing_file(str(config.path), "data.unlabelled.path")
        # Not str.splitlines(): a text may hold U+2028, a form feed and the like, which it treats as line ends.
        lines = decode(read_bytes(path), str(path), "text").split("\n")
        return [line.removesuffix("\r") for line in lines if line.strip()]
    else:
        raw = read_table(UNLABELLED, str(config.path), columns)
    notes: list[str] = []
    texts = checked(raw, notes).texts
    for note in notes:
        logger.warning("%s", note)
    return texts
