"""The transfer set: all texts besides the training texts, labelled only by the teacher."""

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
    """The part of a task that concerns texts which only a teacher labels."""

    def num_outputs(self, label_names: Sequence[str]) -> int:
        """Return the number of the head's outputs."""
        ...

    def missing_labels(self, num_texts: int, num_outputs: int) -> np.ndarray:
        """Return the labels that stand for missing ones, for ``num_texts`` texts."""
        ...

    def tokenize_texts(
        self,
        texts: Sequence[TextOrPair],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        num_outputs: int,
    ) -> TokenizedSplit:
        """Tokenize texts, and give them missing labels."""
        ...


def extra_texts(config: DataConfig, data: TextData) -> dict[str, list[TextOrPair]]:
    """Return the texts of the transfer set by kind, with all candidates; none is in validation or test.

    They do not depend on the tokenizer. ``masked`` texts exist only as token ids, and are not included.
    """
    augmentation, train = config.augmentation, texts_of(data.splits["train"])
    known = {normalised(text) for split in data.splits.values() for text in texts_of(split)}
    texts = {UNLABELLED: data.unlabelled}
    known.update(map(normalised, data.unlabelled))
    if augmentation.spliced is not None:
        spliced = augmentation.spliced
        texts["spliced"] = splice(train, spliced.num_generated, seed=spliced.seed, known=known)
        known.update(map(normalised, texts["spliced"]))
    if augmentation.dropped is not None:
        dropped = augmentation.dropped
        texts["dropped"] = drop_words(
            train, dropped.num_generated, share=dropped.share, seed=dropped.seed, known=known
        )
    return {kind: found for kind, found in texts.items() if found}


def least_certain(probabilities: np.ndarray, count: int) -> np.ndarray:
    """Return the rows of the texts whose classes have the highest entropy, int[count], in ascending order.

    Args:
        probabilities: Of the classes, float[N, C].
        count: How many to select, at most N; of equally uncertain texts, the first ones.
    """
    logarithms = np.log(np.clip(probabilities, np.finfo(np.float32).tiny, None))
    entropy = -(probabilities * logarithms).sum(axis=1)
    return np.sort(np.argsort(-entropy, kind="stable")[:count])


def extra_splits(
    config: DataConfig,
    data: TextData,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    task: Unlabelled,
) -> dict[str, TokenizedSplit]:
    """Return the token ids of ``extra_texts`` and of masked texts, with missing labels.

    Args:
        config: The ``data`` section.
        data: The data loaded from it.
        tokenizer: Tokenizer of the model that reads them.
        max_length: Number of tokens to which texts are cut.
        task: The task, which defines the labels that stand for missing ones.

    Raises:
        DataError: Masked texts are requested, and the tokenizer has no mask token.
    """
    num_outputs = task.num_outputs(data.class_names)
    splits = {
        kind: task.tokenize_texts(texts, tokenizer, max_length, num_outputs)
        for kind, texts in extra_texts(config, data).items()
    }
    masked = config.augmentation.masked
    if masked is None:
        return splits
    mask_token_id = tokenizer.mask_token_id
    if not isinstance(mask_token_id, int):
        raise DataError(
            "data.augmentation.masked: the teacher's tokenizer has no mask token; remove the section"
        )
    tokens = {
        name: tokenize_split(texts_of(split), None, tokenizer, max_length)
        for name, split in data.splits.items()
    }
    known = {int(example) for split in [*tokens.values(), *splits.values()] for example in split.example_ids}
    split = mask_pieces(
        tokens["train"],
        masked.num_generated,
        share=masked.share,
        seed=masked.seed,
        mask_token_id=mask_token_id,
        special_ids=tokenizer.all_special_ids,
        known=known,
    )
    unlabelled = replace(split, labels=task.missing_labels(len(split), num_outputs))
    return splits | {"masked": unlabelled} if len(split) else splits
