"""Token ids of a split as flat NumPy arrays, which Ray shares between processes without copying."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch.utils.data import ConcatDataset, Dataset

from ...texts import TextOrPair
from ..ragged import Ragged, Rows, joined, offsets_of

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerBase

IGNORED_LABEL = -100
"""Label of an unlabelled text; cross-entropy ignores it, as PyTorch's does by default."""
EXAMPLES = "examples"
"""Key in the batches of a token-level task: indices of the labelled tokens in the flattened batch, int64[W]."""
TOKEN_TYPES = "token_type_ids"
"""Model input that distinguishes the two texts of a pair."""


class TokenRow(NamedTuple):
    """A tokenized text: token ids int[L], and the type of each, int[L], where types distinguish the texts of a pair."""

    ids: np.ndarray
    types: np.ndarray | None = None


@dataclass(frozen=True)
class Questions:
    """The Q questions of a split whose rows are windows: each row has a question and a part of its context.

    Attributes:
        numbers: int64[N], ascending; number of each row's question.
        spans: int32[total, 2], parallel to the split's token ids: first character of each token in the context, and the
            one after its last; -1 for a token outside of the context.
        contexts: The Q contexts.
        answers: int64[Q, A, W], the words of the correct answers, as the task measures them; None if there are none.
    """

    numbers: np.ndarray
    spans: np.ndarray
    contexts: tuple[str, ...]
    answers: np.ndarray | None = None


@dataclass(frozen=True)
class TokenizedSplit:
    """N tokenized texts. The arrays may be read-only or memory-mapped.

    Attributes:
        input_ids: int32[total]; the concatenated rows, special tokens included.
        offsets: int64[N + 1]; row i is ``input_ids[offsets[i]:offsets[i + 1]]``.
        labels: [N] or [N, ...], as the task defines them; for a token-level task, rows of int64[L].
        example_ids: int64[N]; a hash of the row's token ids and types. Equal rows have equal ids and a changed row has
            another id, so a join by id never mixes up rows.
        token_types: int8[total], parallel to ``input_ids``: 0 and 1 for the first and the second text of pairs, as
            given by the tokenizer; None for single texts, and if the tokenizer gives both texts the same type.
        questions: The questions that the rows are windows of; None if each row is a text of its own.
    """

    input_ids: np.ndarray
    offsets: np.ndarray
    labels: Rows
    example_ids: np.ndarray
    token_types: np.ndarray | None = None
    questions: Questions | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def row(self, index: int) -> np.ndarray:
        """Return the token ids of one text, int32[L]."""
        return self.input_ids[self.offsets[index] : self.offsets[index + 1]]

    def types(self, index: int) -> np.ndarray | None:
        """Return the token types of one text, int8[L]; None where there are none."""
        if self.token_types is None:
            return None
        return self.token_types[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each text, int64[N]."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class LabelledSplit:
    """N texts of one kind (``train``, ``validation``, or one of the transfer set) with the teacher's logits.

    Attributes:
        tokens: Token ids and labels; ``IGNORED_LABEL`` where only the teacher labels a text.
        teacher_logits: float32[N, C], aligned with the texts, or rows of [L, C]; None if no teacher is needed.
        selected: Positions of the texts among all candidates of their kind, int[N]; None if none was left out.
    """

    tokens: TokenizedSplit
    teacher_logits: Rows | None = None
    selected: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def first(self, count: int) -> LabelledSplit:
        """Return views of the first ``count`` texts or questions, or of all if there are fewer."""
        tokens = self.tokens
        if tokens.questions is not None:
            count = int(np.searchsorted(tokens.questions.numbers, count))
        end = tokens.offsets[min(count, len(self))]
        part = TokenizedSplit(
            input_ids=tokens.input_ids[:end],
            offsets=tokens.offsets[: count + 1],
            labels=tokens.labels[:count],
            example_ids=tokens.example_ids[:count],
            token_types=None if tokens.token_types is None else tokens.token_types[:end],
        )
        logits, rows = self.teacher_logits, self.selected
        return LabelledSplit(
            part, None if logits is None else logits[:count], None if rows is None else rows[:count]
        )


def tokenize_split(
    texts: Sequence[TextOrPair],
    labels: Rows | Sequence[int] | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> TokenizedSplit:
    """Tokenize texts or pairs, cut to ``max_length`` tokens, without padding; labels as in ``from_rows``.

    A pair that is too long is cut token by token, each time at the end of the longer text.
    """
    rows = tokenize_rows(texts, tokenizer, max_length)
    types = [row.types for row in rows if row.types is not None]
    has_types = any(each.any() for each in types)
    return from_rows([row.ids for row in rows], labels, types if has_types else None)


def encodings_of(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[tokenizers.Encoding]:
    """Tokenize single texts as ``tokenize_split`` does, keeping the place of each token in its text."""
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    return list(encoded.encodings or [])


def tokenize_rows(
    texts: Sequence[TextOrPair], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[TokenRow]:
    """Tokenize texts or pairs as ``tokenize_split`` does; pairs have token types, which may all be 0."""
    if not texts:
        return []
    has_pairs = not isinstance(texts[0], str)
    given: Any = list(texts)  # a tuple of two strings is a pair for the tokenizer as well
    encoded = tokenizer(
        given,
        truncation=True,
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=has_pairs,
    )
    rows = [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]
    if not has_pairs:
        return [TokenRow(row) for row in rows]
    types = [np.asarray(each, dtype=np.int8) for each in encoded[TOKEN_TYPES]]
    return [TokenRow(*row) for row in zip(rows, types, strict=True)]


def from_rows(
    rows: Sequence[np.ndarray],
    labels: Rows | Sequence[int] | None = None,
    types: Sequence[np.ndarray | None] | None = None,
) -> TokenizedSplit:
    """Build a split from rows int32[L] of token ids with special tokens.

    Args:
        rows: Token ids of N texts.
        labels: An array, used as it is, or class numbers; None: ``IGNORED_LABEL`` for every text.
        types: Token types of each row, int8[L]; None: there are none.
    """
    if not isinstance(labels, np.ndarray | Ragged):
        labels = np.asarray([IGNORED_LABEL] * len(rows) if labels is None else labels, dtype=np.int64)
    return TokenizedSplit(
        input_ids=np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32),
        offsets=offsets_of([len(row) for row in rows]),
        labels=labels,
        example_ids=np.array(
            [example_id(row, None if types is None else types[i]) for i, row in enumerate(rows)],
            dtype=np.int64,
        ),
        token_types=np.concatenate([np.asarray(each, dtype=np.int8) for each in types]) if types else None,
    )


def selected(split: TokenizedSplit, rows: Sequence[int]) -> TokenizedSplit:
    """Return a split of the given rows, in that order; the questions that they are windows of are left out."""
    ids = Ragged(split.input_ids, split.offsets)[rows]
    types = split.token_types
    return TokenizedSplit(
        input_ids=ids.values,
        offsets=ids.offsets,
        labels=split.labels[rows],
        example_ids=split.example_ids[rows],
        token_types=None if types is None else Ragged(types, split.offsets)[rows].values,
    )


def example_id(row: np.ndarray, types: np.ndarray | None = None) -> int:
    """Return a hash of a row's token ids, and of their types where it has any, a signed 64-bit integer."""
    content = row.astype("<i4").tobytes() + (b"" if types is None else types.astype("i1").tobytes())
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class TokenizedDataset(Dataset[dict[str, Any]]):
    """A split for a data loader: ``input_ids`` int64[L], ``labels`` and ``teacher_logits`` as in the split.

    Args:
        split: The texts.
        teacher_logits: float32[N, C], aligned with the split's rows, or rows of [L, C]; None trains without a teacher.
    """

    def __init__(self, split: TokenizedSplit, teacher_logits: Rows | None = None) -> None:
        if teacher_logits is not None and len(teacher_logits) != len(split):
            raise ValueError(f"teacher_logits has {len(teacher_logits)} rows for {len(split)} texts")
        self.split = split
        self.teacher_logits = teacher_logits
        self.lengths = split.lengths
        self.labels = split.labels

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> dict[str, Any]:
        # Copies: the arrays may be read-only, and torch must not write into them.
        item: dict[str, Any] = {
            "input_ids": self.split.row(index).astype(np.int64),
            "labels": self.split.labels[index],
        }
        types = self.split.types(index)
        if types is not None:
            item[TOKEN_TYPES] = types.astype(np.int64)
        if self.teacher_logits is not None:
            item["teacher_logits"] = np.array(self.teacher_logits[index], dtype=np.float32)
        return item


class JoinedDataset(ConcatDataset[dict[str, Any]]):
    """Several splits, concatenated for a data loader without copying.

    Args:
        splits: The texts, at least one split.
        with_teacher: Whether items include ``teacher_logits`` where available.
    """

    def __init__(self, splits: Iterable[LabelledSplit], *, with_teacher: bool = True) -> None:
        parts = [
            TokenizedDataset(each.tokens, each.teacher_logits if with_teacher else None) for each in splits
        ]
        super().__init__(parts)
        self.lengths = np.concatenate([each.lengths for each in parts])
        self.labels = joined([each.labels for each in parts])
