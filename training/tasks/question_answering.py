"""Extractive question answering: cross-entropy and soft targets of an answer's first and last token.

A question is read in windows of its context (``spans.windows``), which are the rows of a tokenized split. The labels of
a window are int64[2], the places of the answer's first and last token: 0 and 0, the window's first token, if the answer
is not in the window, and ``UNLABELLED`` if only a teacher labels it. Logits are [L, 2]. Predictions are answers, one
for each question, as the words of each, int64[N, W] (``spans.scoring``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...texts import TextOrPair
from ..data.label_kinds import ANSWERS, LabelKind
from ..data.label_kinds.answers import ENDS
from ..ragged import Ragged, Rows
from .base import TASKS, Task
from .metrics import Metric, Mode
from .spans import scoring
from .spans.decoding import SpanLogits, answers_of, best_span
from .spans.head import LEAST_LOGIT
from .spans.moved_logits import moved
from .spans.windows import NO_CONTEXT, Window, Windowing

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ..data.tokenized import LabelledSplit, TokenizedSplit

UNLABELLED = -1
"""Label of a window that only a teacher labels."""

_F1, _EXACT = "f1", "exact_match"


class QuestionAnswering(Task):
    """Find the answer of a question in its context; pairs are a question and its context."""

    name: ClassVar[str] = "question_answering"
    description: ClassVar[str] = "the part of a context that answers a question"
    title: ClassVar[str] = "Question answerer"
    does: ClassVar[str] = "Finds the part of a context that answers a question."
    answer: ClassVar[str] = '{"answer": …, "score": …, "start": …, "end": …}'
    example: ClassVar[str] = '("your question", "the context that answers it")'
    pipeline: ClassVar[str] = "question-answering"
    columns: ClassVar[Mapping[str, str]] = {
        "text_column": "question",
        "text_pair_column": "context",
        "label_column": "answers",
    }
    fixed_outputs: ClassVar[tuple[str, ...]] = ENDS
    label_kind: ClassVar[LabelKind] = ANSWERS
    label_dtype: ClassVar[str] = "int64"
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    of_tokens: ClassVar[bool] = True
    of_windows: ClassVar[bool] = True
    padding_logit: ClassVar[float] = LEAST_LOGIT
    has_label_smoothing: ClassVar[bool] = False
    metric_modes: ClassVar[Mapping[str, Mode]] = {_F1: "max", _EXACT: "max"}

    # ---- Texts ------------------------------------------------------------------------------------------

    def tokenize_labelled(
        self,
        texts: Sequence[TextOrPair],
        labels: Sequence[Any],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
    ) -> TokenizedSplit:
        """Return the windows of N questions; training uses the first right answer, metrics all of them."""
        windows = Windowing.of_transformers(tokenizer, max_length).windows(_pairs(texts))
        ends = [_end_labels(window, labels[window.question]) for window in windows]
        return _split_of_windows(texts, windows, ends, self.measured_labels(texts, labels))

    def tokenize_texts(
        self,
        texts: Sequence[TextOrPair],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        num_outputs: int,
    ) -> TokenizedSplit:
        """Return the windows of N questions that only a teacher answers."""
        windows = Windowing.of_transformers(tokenizer, max_length).windows(_pairs(texts))
        return _split_of_windows(texts, windows, self.missing_labels(len(windows), num_outputs))

    def missing_labels(self, num_texts: int, num_outputs: int) -> np.ndarray:
        """Return ``UNLABELLED`` for both ends."""
        return np.full((num_texts, len(ENDS)), UNLABELLED, dtype=self.label_dtype)

    def with_logits_of(
        self, split: LabelledSplit, texts: Sequence[TextOrPair], old: Any, new: Any, max_length: int
    ) -> LabelledSplit:
        """Return a split with the teacher's logits moved to the context tokens that share their characters."""
        given, questions = split.teacher_logits, split.tokens.questions
        if given is None:
            return split
        assert isinstance(given, Ragged) and questions is not None
        theirs = Windowing.of_transformers(old, max_length).windows(_pairs(texts))
        spans = Ragged(questions.spans, split.tokens.offsets)
        return replace(split, teacher_logits=moved(given, theirs, spans, questions.numbers))

    # ---- Model ------------------------------------------------------------------------------------------

    def num_outputs(self, label_names: Sequence[str]) -> int:
        """Return 2: each token has a logit for being the first of the answer, and one for being the last."""
        return len(ENDS)

    def model_class(self, config: PreTrainedConfig) -> type[PreTrainedModel] | None:
        """Return the family's class with the logits of both ends in one tensor, or None if the family has none."""
        from .spans.head import with_joined_logits

        stock = super().model_class(config)
        return None if stock is None else with_joined_logits(stock)

    # ---- Losses -----------------------------------------------------------------------------------------

    def hard_loss(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        num_items: Tensor | int | None = None,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Compute the cross-entropy of logits[B, L, 2] and labels[B, 2], averaged over both ends and the windows.

        Labels are smoothed over the tokens of a window, not over padding, where the logits are ``LEAST_LOGIT``.
        """
        from ..data.tokenized import IGNORED_LABEL
        from .losses import cross_entropy

        del class_weights  # a window has no class
        by_end = _by_end(logits)
        return cross_entropy(
            by_end,
            labels.where(labels >= 0, IGNORED_LABEL).reshape(-1),
            num_items=None if num_items is None else len(ENDS) * num_items,
            label_smoothing=label_smoothing,
            possible=_is_token(by_end),
        )

    def soft_loss(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        *,
        temperature: float,
        num_items: Tensor | int | None = None,
    ) -> Tensor:
        """Compute T² · KL(softmax(z_t/T) ‖ softmax(z_s/T)) of logits[B, L, 2], averaged over both ends and the windows.

        Padding, where the student's logits are ``LEAST_LOGIT``, is ignored.
        """
        from .losses import soft_target_loss

        teacher_logits = teacher_logits.where(_is_token(student_logits), LEAST_LOGIT)
        num_items = len(student_logits) if num_items is None else num_items
        return soft_target_loss(
            _by_end(student_logits),
            _by_end(teacher_logits),
            temperature=temperature,
            num_items=len(ENDS) * num_items,
        )

    def with_own_labels(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return labels[B, 2] with ``UNLABELLED`` replaced by the tokens of the largest of logits[B, L, 2]."""
        return logits.argmax(1).where(labels == UNLABELLED, labels)

    def known_labels(self, labels: Any, num_outputs: int) -> Any:
        """Return a copy of the labels: every token is among the outputs."""
        return np.array(labels)

    def validation_loss(self, logits: Rows, labels: Rows) -> float:
        """Compute the cross-entropy of the logits of all windows."""
        import torch

        assert isinstance(logits, Ragged) and isinstance(labels, np.ndarray)
        padded = torch.from_numpy(logits.padded(np.float32(LEAST_LOGIT)))
        return float(self.hard_loss(padded, torch.from_numpy(np.array(labels))))

    # ---- Predictions ------------------------------------------------------------------------------------

    def predictions(self, logits: Any) -> np.ndarray:
        """Return the places of the best span of each window, int64[M, 2]; its tokens may be outside the context."""
        return np.array([best_span(row)[:2] for row in logits], dtype=np.int64).reshape(-1, len(ENDS))

    def measured_labels(self, texts: Sequence[TextOrPair], labels: Sequence[Any]) -> np.ndarray:
        """Return the words of the right answers of N questions, int64[N, A, W]."""
        contexts = (context for _, context in _pairs(texts))
        return scoring.words_of_labels(
            [[text[start:end] for start, end in own] for text, own in zip(contexts, labels, strict=True)]
        )

    def measured_on(
        self,
        split: TokenizedSplit,
        logits: Rows,
        out_of_scope_id: int | None = None,
        *,
        also: Iterable[str] = (),
        label_names: Sequence[str] = (),
    ) -> dict[str, float | None]:
        """Measure the answers to the questions of a split, with the decoder of the runtime.

        If some questions of the split have no answer, the model may also give none, where that has the highest value.
        """
        questions = split.questions
        assert questions is not None and questions.answers is not None and isinstance(logits, Ragged)
        given = SpanLogits.of(logits, Ragged(questions.spans, split.offsets), questions.numbers)
        threshold = 0.0 if scoring.is_unanswerable(questions.answers).any() else None
        words = scoring.words_of_answers(answers_of(questions.contexts, given, threshold))
        return self.measured(words, questions.answers, out_of_scope_id, also=also, label_names=label_names)

    def correct(self, predictions: Any, labels: Any) -> np.ndarray:
        """Return whether each answer is exactly a right one, bool[N]."""
        return scoring.scores(predictions, labels)[:, 1] > 0

    def changed(self, predictions: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return whether each of N answers has other words than another model's, bool[N]."""
        return ~scoring.are_equal(predictions, others)

    def metrics(
        self, predictions: Any, labels: Any, out_of_scope_id: int | None = None
    ) -> dict[str, float | None]:
        """Compute the means of F1 and of exact match over N questions, 0 to 1.

        Raises:
            ValueError: There are no labels, or the numbers of predictions and labels differ.
        """
        del out_of_scope_id
        if not len(labels):
            raise ValueError(f"{len(predictions)} predictions for 0 labels; the number must be above 0")
        means = scoring.scores(predictions, labels).mean(axis=0)
        return {_F1: float(means[0]), _EXACT: float(means[1])}

    def metric(self, name: str, label_names: Sequence[str], out_of_scope_id: int | None = None) -> Metric:
        """Return a metric with the score of each question as its statistics."""
        mode, column = self.metric_mode(name), [_F1, _EXACT].index(name)

        def statistics(predictions: Any, labels: Any) -> np.ndarray:
            own = scoring.scores(predictions, labels)[:, column]
            return np.stack([own, np.ones(len(own))], axis=1)

        return Metric(
            name,
            mode,
            lambda predictions, labels: self.metrics(predictions, labels)[name],
            statistics=statistics,
            of_statistics=lambda sums: sums[..., 0] / sums[..., 1],
            is_accuracy=name == _EXACT,
        )

    def compute_metrics(self, evaluated: Any) -> dict[str, float]:
        """Compute the share of windows whose first and last token are both right, from padded logits[N, L, 2]."""
        logits, labels = np.asarray(evaluated.predictions), np.asarray(evaluated.label_ids)
        return {"both_ends": float((logits.argmax(axis=1) == labels).all(axis=1).mean())}


def _pairs(texts: Sequence[TextOrPair]) -> list[tuple[str, str]]:
    """Return texts as pairs.

    Raises:
        ValueError: A text is not a pair.
    """
    single = next((text for text in texts if isinstance(text, str)), None)
    if single is not None:
        raise ValueError(f"{single!r:.60} given, without a context; give pairs of a question and its context")
    return [(text[0], text[1]) for text in texts]


def _end_labels(window: Window, answers: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return the places of the first answer's first and last token; 0 and 0 if the window does not have all of it."""
    places = np.flatnonzero(window.spans[:, 0] != NO_CONTEXT)
    if not len(answers) or not len(places):
        return 0, 0
    (start, end), spans = answers[0], window.spans[places]
    first = int(np.searchsorted(spans[:, 1], start, "right"))
    last = int(np.searchsorted(spans[:, 0], end, "left")) - 1
    if (
        first > last
        or (first == 0 and spans[0, 0] > start)
        or (last + 1 == len(spans) and spans[-1, 1] < end)
    ):
        return 0, 0
    return int(places[first]), int(places[last])


def _split_of_windows(
    texts: Sequence[TextOrPair], windows: Sequence[Window], labels: Any, answers: np.ndarray | None = None
) -> TokenizedSplit:
    """Return windows as the rows of a split."""
    from ..data.tokenized import Questions, from_rows

    types = [np.asarray(each.type_ids, dtype=np.int8) for each in windows]
    tokens = from_rows(
        [np.asarray(each.ids, dtype=np.int32) for each in windows],
        np.asarray(labels, dtype=np.int64).reshape(-1, len(ENDS)),
        types if any(each.any() for each in types) else None,
    )
    kept: dict[str, str] = {}  # equal contexts are stored once
    questions = Questions(
        numbers=np.array([each.question for each in windows], dtype=np.int64),
        spans=np.concatenate([each.spans for each in windows]) if windows else np.zeros((0, 2), np.int32),
        contexts=tuple(kept.setdefault(context, context) for _, context in _pairs(texts)),
        answers=answers,
    )
    return replace(tokens, questions=questions)


def _by_end(logits: Tensor) -> Tensor:
    """Return logits[B, L, 2] as [2 B, L]: those of the first token of each window, then of its last."""
    return logits.transpose(1, 2).reshape(-1, logits.shape[1])


def _is_token(logits: Tensor) -> Tensor:
    """Return whether logits are those of a token, not of padding."""
    return logits > LEAST_LOGIT / 2


QUESTION_ANSWERING = TASKS.register(QuestionAnswering())
