"""Token classification: a tag for each word, with cross-entropy and soft targets over each word's first piece.

Labels of a tokenized text are int64[L], one for each piece: the tag of the word that begins there, ``UNLABELLED`` where
only a teacher labels it, ``IGNORED_LABEL`` for special tokens and for pieces that continue a word. Logits are [L, C].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import shown
from ...texts import TextOrPair, all_parts
from ..data.label_kinds import TAGS, LabelKind
from ..data.label_kinds.tag_scheme import entity_types
from ..ragged import Ragged, Rows, flat, like, offsets_of
from . import entities
from .base import TASKS, Task
from .metrics import LabelCounts, Metric, Mode, position_of
from .words import find_words, hidden_entities, tags_of_words, words_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from ..data.tokenized import LabelledSplit, TokenizedSplit

UNLABELLED = -1
"""Label of a word that only a teacher labels."""

_TOKEN_ACCURACY = "token_accuracy"
_OF_ENTITIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "f1": entities.f1,
    "precision": entities.precision,
    "recall": entities.recall,
}


class TokenClassification(Task):
    """Tag the words of a text; labels and predictions are tag numbers of each text's pieces, in rows of L."""

    name: ClassVar[str] = "token_classification"
    description: ClassVar[str] = "a tag for each word, by which the entities of a text are marked"
    title: ClassVar[str] = "Token classifier"
    does: ClassVar[str] = "Finds the entities of a text, by tagging each word with one of {num} tags."
    answer: ClassVar[str] = '[{"start": …, "end": …, "label": …, "score": …}, …]'
    pipeline: ClassVar[str] = "token-classification"
    label_kind: ClassVar[LabelKind] = TAGS
    label_dtype: ClassVar[str] = "int64"
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    of_tokens: ClassVar[bool] = True
    metric_modes: ClassVar[Mapping[str, Mode]] = {
        **{f"entity_{name}": "max" for name in _OF_ENTITIES},
        _TOKEN_ACCURACY: "max",
    }
    label_metrics: ClassVar[Mapping[str, Mode]] = dict.fromkeys(_OF_ENTITIES, "max")

    # ---- Texts ------------------------------------------------------------------------------------------

    def tokenize_labelled(
        self,
        texts: Sequence[TextOrPair],
        labels: Sequence[Any],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
    ) -> TokenizedSplit:
        """Tokenize N texts, and tag the first piece of each word of an entity."""
        return _tokenized(texts, labels, tokenizer, max_length)

    def tokenize_texts(
        self,
        texts: Sequence[TextOrPair],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        num_outputs: int,
    ) -> TokenizedSplit:
        """Tokenize texts whose words only a teacher labels."""
        return _tokenized(texts, None, tokenizer, max_length)

    def missing_labels(self, num_texts: int, num_outputs: int) -> Any:
        """Raise ``NotImplementedError``: the labels are those of words, which only ``tokenize_texts`` finds."""
        raise NotImplementedError(f"{num_texts} texts given, but words are labelled; use tokenize_texts")

    def with_logits_of(
        self, split: LabelledSplit, texts: Sequence[TextOrPair], old: Any, new: Any, max_length: int
    ) -> LabelledSplit:
        """Return a split in which each word has the teacher's logits of the word that has its first character.

        A word that the teacher's tokenizer has cut off gets ``IGNORED_LABEL``.
        """
        from ..data.tokenized import IGNORED_LABEL, encodings_of

        given, tokens = split.teacher_logits, split.tokens
        if given is None:
            return split
        assert isinstance(given, Ragged) and isinstance(tokens.labels, Ragged)
        labels = tokens.labels.like(np.array(tokens.labels.values))
        logits = labels.like(np.zeros((len(labels.values), given.values.shape[-1]), dtype=np.float32))
        single_texts = all_parts(texts)  # no text is a pair
        pairs = zip(
            encodings_of(single_texts, old, max_length),
            encodings_of(single_texts, new, max_length),
            strict=True,
        )
        for number, (text, encodings) in enumerate(zip(single_texts, pairs, strict=True)):
            theirs, own = (find_words(text, each.offsets, each.word_ids) for each in encodings)
            places = np.searchsorted(theirs.spans[:, 1], own.spans[:, 0], "right")
            there = places < len(theirs.pieces)
            there[there] = theirs.spans[places[there], 0] <= own.spans[there, 0]
            labels[number][own.pieces[~there]] = IGNORED_LABEL
            logits[number][own.pieces[there]] = given[number][theirs.pieces[places[there]]]
        return replace(split, tokens=replace(tokens, labels=labels), teacher_logits=logits)

    # ---- Model ------------------------------------------------------------------------------------------

    def num_outputs(self, label_names: Sequence[str]) -> int:
        """Return the number of tags; each has one logit for each piece."""
        return len(label_names)

    # ---- Losses -----------------------------------------------------------------------------------------

    def examples(self, batch: Mapping[str, Any]) -> Tensor | None:
        """Return the pieces that begin a word, int64[W]; without labels, those that are not padding.

        If the batch does not contain them, finding them waits for the GPU.
        """
        from ..data.tokenized import EXAMPLES, IGNORED_LABEL

        known, labels, mask = (batch.get(name) for name in (EXAMPLES, "labels", "attention_mask"))
        if known is not None or (labels is None and mask is None):
            return known
        kept: Any = mask if labels is None else labels != IGNORED_LABEL
        return kept.flatten().nonzero().flatten()

    def hard_loss(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        num_items: Tensor | int | None = None,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Compute the cross-entropy of logits[..., C] and labels[...], averaged over the words with a label."""
        from ..data.tokenized import IGNORED_LABEL
        from .losses import cross_entropy

        del class_weights  # a text has no single class
        labels = labels.reshape(-1)
        return cross_entropy(
            logits.reshape(-1, logits.shape[-1]),
            labels.where(labels >= 0, IGNORED_LABEL),
            num_items=num_items,
            label_smoothing=label_smoothing,
        )

    def soft_loss(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        *,
        temperature: float,
        num_items: Tensor | int | None = None,
    ) -> Tensor:
        """Compute T² · KL(softmax(z_t/T) ‖ softmax(z_s/T)) of logits[W, C], averaged over the W words."""
        from .losses import soft_target_loss

        if student_logits.ndim != 2:
            raise ValueError(
                f"logits of shape {tuple(student_logits.shape)} given, in which padding cannot be recognised; select "
                "the logits of words, [W, C]"
            )
        return soft_target_loss(student_logits, teacher_logits, temperature=temperature, num_items=num_items)

    def with_own_labels(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return labels[...] with ``UNLABELLED`` replaced by the tag of the largest of logits[..., C]."""
        return logits.argmax(-1).where(labels == UNLABELLED, labels)

    def known_labels(self, labels: Any, num_outputs: int) -> Any:
        """Return a copy of the labels: every tag is among the outputs."""
        return like(labels, np.array(flat(labels)))

    # ---- Predictions ------------------------------------------------------------------------------------

    def predictions(self, logits: Any) -> Any:
        """Return the tag of the largest logit of each piece; of equal ones, the first."""
        return like(logits, flat(logits).argmax(axis=-1))

    def warnings(
        self, texts: Sequence[TextOrPair], labels: Sequence[Any], label_names: Sequence[str]
    ) -> list[str]:
        """Count the entities that begin and end inside a word of an earlier one, which no tag marks."""
        each = zip(all_parts(texts), labels, strict=True)
        found = [(text, *entity) for text, own in each for entity in hidden_entities(text, own)]
        if not found:
            return []
        text, start, end, kind = found[0]
        count = "1 entity is" if len(found) == 1 else f"{len(found):,} entities are"
        return [
            f"{count} left out, inside a word of an earlier entity, since a word has one tag, such as "
            f"{shown(text[start:end])} ({entity_types(label_names)[kind]}) in {shown(text)}; divide such words in "
            "the texts, or label them as one entity"
        ]

    def measured_labels(self, texts: Sequence[TextOrPair], labels: Sequence[Any]) -> np.ndarray:
        """Return the tags of the words of N texts, int64[N, W], padded with ``IGNORED_LABEL``.

        The words are those of the text itself, the same for every tokenizer.
        """
        words = map(words_of, all_parts(texts))
        return _padded([tags_of_words(own, each) for own, each in zip(words, labels, strict=True)])

    def predictions_of_words(self, texts: Sequence[TextOrPair], spans: Ragged, logits: Ragged) -> np.ndarray:
        """Return the predicted tags of the words of N texts, int64[N, W], padded with ``IGNORED_LABEL``.

        The tags are those of the predicted entities; words that were cut off are outside every entity.
        """
        tags = self.predictions(logits)
        found = entities.entities(tags.values, tags.row_numbers)
        starts, ends = spans.values[found[:, 0], 0], spans.values[found[:, 1] - 1, 1]
        characters = np.stack([starts, ends, found[:, 2]], axis=1)
        bounds = np.searchsorted(tags.row_numbers[found[:, 0]], np.arange(len(tags) + 1))
        rows = [characters[start:end].tolist() for start, end in pairwise(bounds)]
        return self.measured_labels(texts, rows)

    def counted_names(self, label_names: Sequence[str]) -> list[str]:
        """Return the entity types."""
        return entity_types(label_names)

    def label_counts(self, predictions: Any, labels: Any, num_labels: int) -> LabelCounts:
        """Count the entities of each type, [T]."""
        found, true = _labelled_words(predictions, labels)
        counts = [entities.entity_counts(found, true, kind).sum(axis=0) for kind in range(num_labels)]
        right, predicted, there = np.array(counts).reshape(-1, 3).T
        return LabelCounts(there, predicted, right)

    def correct(self, predictions: Any, labels: Any) -> np.ndarray:
        """Return whether every word of each text has the right tag, bool[N]."""
        counts = entities.word_counts(*_labelled_words(predictions, labels))
        return counts[:, 0] == counts[:, 1]

    def metrics(
        self, predictions: Any, labels: Any, out_of_scope_id: int | None = None
    ) -> dict[str, float | None]:
        """Compute what the predicted tags have in common with the labels, over all texts, 0 to 1.

        Returns:
            ``entity_f1``, ``entity_precision`` and ``entity_recall`` of whole entities, as conlleval and seqeval count
            them; ``token_accuracy``, the share of the words whose tag is right.

        Raises:
            ValueError: No word has a label, or the numbers of predictions and labels differ.
        """
        del out_of_scope_id
        found, true = _labelled_words(predictions, labels)
        if not len(true.values):
            raise ValueError(f"{len(labels)} predictions for 0 labels of words; the number must be above 0")
        counts = entities.entity_counts(found, true).sum(axis=0)
        words = entities.word_counts(found, true).sum(axis=0)
        return {
            **{f"entity_{name}": float(of(counts)) for name, of in _OF_ENTITIES.items()},
            _TOKEN_ACCURACY: float(entities.word_accuracy(words)),
        }

    def metric(self, name: str, label_names: Sequence[str], out_of_scope_id: int | None = None) -> Metric:
        """Return a metric by its name; that of an entity type is named after the type, as in ``recall.PER``."""
        mode, (kind, _, label) = self.metric_mode(name), name.partition(".")
        number = None
        if label:
            number = position_of(label, name, entity_types(label_names))
        if name == _TOKEN_ACCURACY:
            counted, of = entities.word_counts, entities.word_accuracy
        else:
            counted, of = (
                partial(entities.entity_counts, kind=number),
                _OF_ENTITIES[kind.removeprefix("entity_")],
            )

        def statistics(predictions: Any, labels: Any) -> np.ndarray:
            return counted(*_labelled_words(predictions, labels))

        def measure(predictions: Any, labels: Any) -> float:
            return float(of(statistics(predictions, labels).sum(axis=0)))

        def concerns(labels: Any) -> np.ndarray:
            return statistics(labels, labels)[:, -1] > 0  # the entities of that type in each text

        return Metric(
            name,
            mode,
            measure,
            concerns=concerns if label else None,
            statistics=statistics,
            of_statistics=of,
        )

    def compute_metrics(self, evaluated: Any) -> dict[str, float]:
        """Compute the metrics of padded logits[N, L, C], or of tags int[N, L] that were computed from them."""
        given, labels = np.asarray(evaluated.predictions), np.asarray(evaluated.label_ids)
        found = self.metrics(given.argmax(axis=-1) if given.ndim == 3 else given, labels)
        return {name: value for name, value in found.items() if value is not None}


def _tokenized(
    texts: Sequence[TextOrPair],
    labels: Sequence[Any] | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> TokenizedSplit:
    """Tokenize N texts, with the entities of each, or None where only a teacher labels them."""
    from ..data.tokenized import IGNORED_LABEL, encodings_of, from_rows

    rows, tags = [], []
    single_texts = all_parts(texts)  # no text is a pair
    found = encodings_of(single_texts, tokenizer, max_length)
    for number, (text, encoding) in enumerate(zip(single_texts, found, strict=True)):
        words = find_words(text, encoding.offsets, encoding.word_ids)
        row = np.full(len(encoding.ids), IGNORED_LABEL, dtype=np.int64)
        row[words.pieces] = UNLABELLED if labels is None else tags_of_words(words, labels[number])
        rows.append(np.asarray(encoding.ids, dtype=np.int32))
        tags.append(row)
    return from_rows(rows, Ragged.of(tags, np.int64))


def _labelled_words(predictions: Rows, labels: Rows) -> tuple[Ragged, Ragged]:
    """Return predictions and labels of only the words with a label; both may be padded arrays [N, W].

    Raises:
        ValueError: The numbers of predictions and labels differ.
    """
    predictions, labels = (
        each if isinstance(each, Ragged) else _as_rows(each) for each in (predictions, labels)
    )
    if len(predictions) != len(labels) or len(predictions.values) != len(labels.values):
        raise ValueError(
            f"{len(predictions)} predictions for {len(labels)} labels; texts and their pieces must be the same"
        )
    known = labels.values >= 0
    offsets = offsets_of(known.astype(np.int64))[labels.offsets]
    return Ragged(predictions.values[known], offsets), Ragged(labels.values[known], offsets)


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return rows of tags as one array, padded with ``IGNORED_LABEL``."""
    from ..data.tokenized import IGNORED_LABEL

    return Ragged.of(rows, np.int64).padded(IGNORED_LABEL)


def _as_rows(rows: np.ndarray) -> Ragged:
    """Return an array [N, L] as rows of equal length."""
    return Ragged(rows.reshape(-1), np.arange(len(rows) + 1) * rows.shape[1])


TOKEN_CLASSIFICATION = TASKS.register(TokenClassification())
