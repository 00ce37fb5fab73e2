"""The transfer set: all texts besides the training texts that the teacher labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...errors import DataError
from ...texts import TextOrPair, texts_of
from .augmentation import drop_words, mask_pieces, splice
from .config import DataConfig
from .rows import normalised
from .tokenized import TokenizedSplit, tokenize_split
from .unlabelled import UNLABELLED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .text_data import TextData


class Unlabelled(Protocol):
    """A task, as far as texts are concerned that only a teacher labels."""

    def num_outputs(self, label_names: Sequence[str]) -> int:
        """Return the number of the head's outputs."""
        ...

    def missing_labels(self, num_texts: int, num_outputs: int) -> np.ndarray:
        """Return the labels of texts."""
        ...

    def tokenize_texts(
        self,
        texts: Sequence[TextOrPair],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        num_outputs: int,
    ) -> TokenizedSplit:
        """Tokenize texts, with these labels."""
        ...


def extra_texts(config: DataConfig, data: TextData) -> dict[str, list[TextOrPair]]:
    """Return the texts of the transfer set by kind; none is in validation or test.

    They do not depend on the tokenizer. ``masked`` exists only as token ids and is not included.
    """
    made, train = config.augmentation, texts_of(data.splits["train"])
    known = {normalised(text) for split in data.splits.values() for text in texts_of(split)}
    texts = {UNLABELLED: data.unlabelled}
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
    config: DataConfig,
    data: TextData,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    task: Unlabelled,
) -> dict[str, TokenizedSplit]:
    """Return the token ids of ``extra_texts`` and of masked texts, whose labels are missing.

    Args:
        config: The ``data`` section.
        data: The data loaded from it.
        tokenizer: Tokenizer of the model that reads them.
        max_length: Tokens that texts are cut to.
        task: The task, which gives texts without a label their missing labels.

    Raises:
        DataError: Masked texts are requested, and the tokenizer has no mask token.
    """
    outputs = task.num_outputs(data.class_names)
    made = {
        kind: task.tokenize_texts(texts, tokenizer, max_length, outputs)
        for kind, texts in extra_texts(config, data).items()
    }
    masked = config.augmentation.masked
    if masked is None:
        return made
    mask_token_id = tokenizer.mask_token_id
    if not isinstance(mask_token_id, int):
        raise DataError(
            "data.augmentation.masked: the teacher's tokenizer has no mask token; remove the section"
        )
    held = {name: texts_of(data.splits[name]) for name in data.splits}
    tokens = {name: tokenize_split(texts, None, tokenizer, max_length) for name, texts in held.items()}
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
    missing = replace(split, labels=task.missing_labels(len(split), outputs))
    return made | {"masked": missing} if len(split) else made
