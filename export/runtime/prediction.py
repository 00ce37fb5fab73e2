"""Predict with an opened classifier: texts to token ids, token ids to logits, logits to answers."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import tokenizers

from ...errors import ArtifactError, InputError
from ...texts import TextOrPair, is_blank
from ...training.ragged import Ragged, Rows, offsets_of
from ...training.tasks.spans.windows import Window
from ..artifact.manifest import MODEL_FILE, SETTINGS_FILE, TOKENIZER_FILE
from .classifier_config import ClassifierConfig
from .profile import Stages
from .questions import QuestionReader
from .session.feeds import Feeds, runs_of
from .session.graph import Graph
from .tasks import DECODERS, TokenDecoder, Tokens, WindowDecoder
from .tokenizer import Tokenizer

_PROBE_TEXT = "a"


class Predictor:
    """Classify texts or pairs that were checked before; calls are thread-safe.

    Args:
        graph: The opened graph.
        tokenizer: Tokenizer of the texts.
        config: Configuration of the classifier.

    Attributes:
        graph, tokenizer: As given.
        feeds: Builds the graph's inputs.
        decoder: Decoder of the task.
        num_outputs: C, the number of outputs for a text, or for a token.
        labels, threshold, temperature: As in :class:`~distiltune.export.runtime.classifier.TextClassifier`.
    """

    def __init__(self, graph: Graph, tokenizer: Tokenizer, config: ClassifierConfig):
        self.graph = graph
        self.tokenizer = tokenizer
        self.feeds = Feeds(graph.input_types, config.pad_token_id)
        self.decoder = DECODERS[config.task]
        self.labels = list(config.labels)
        self.num_outputs = self.decoder.num_outputs(self.labels)
        self.threshold = config.threshold
        self.temperature = config.temperature
        self._pad_token_id = config.pad_token_id
        self._takes_pairs = config.takes_pairs
        self._of_tokens = self.decoder.of_tokens
        self._questions = self._question_reader()

    def _question_reader(self) -> QuestionReader | None:
        if not isinstance(self.decoder, WindowDecoder):
            return None
        return QuestionReader(self.tokenizer, self.feeds, self.run, self._answers)

    def check(self) -> None:
        """Run the model once, so that labels, tokens, padding or weights that do not fit fail here, not later.

        Raises:
            ArtifactError: The number of labels is not that of the outputs, the model does not run, or its logits are
                not finite.
        """
        if self.graph.num_outputs not in (None, self.num_outputs):
            raise ArtifactError(
                f"{SETTINGS_FILE} names {len(self.labels)} labels but {MODEL_FILE} has {self.graph.num_outputs} "
                "outputs; pull the artifact again"
            )
        encoding = self.tokenizer.encode_one((_PROBE_TEXT, _PROBE_TEXT) if self._takes_pairs else _PROBE_TEXT)
        ids = encoding.ids or [self._pad_token_id]
        last = self.tokenizer.last_id()
        extremes = [self._pad_token_id] if last is None else [last, self._pad_token_id]
        rows = np.array([ids, (extremes * len(ids))[: len(ids)]])
        try:
            self.run(self.feeds.of_ids(rows, encoding.type_ids or None))
        except ArtifactError as error:
            raise ArtifactError(
                f"{error}; tried with the ids {rows.ravel().tolist()!s:.60} of {TOKENIZER_FILE} and {SETTINGS_FILE}"
            ) from error

    def with_max_length(self, num_tokens: int) -> Predictor:
        """Return the same predictor, with texts truncated to another number of tokens."""
        other = copy(self)
        other.tokenizer = self.tokenizer.cut_to(num_tokens)
        other._questions = other._question_reader()
        return other

    def run(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        """Return the logits [B, C] of a feed, or [B, L, C] where each token has its own."""
        return self.graph.run(feed, self.num_outputs, of_tokens=self._of_tokens)

    def classify(self, text: Any) -> Any:
        """Return the prediction for one text, which is that of a batch of one, without the overhead of batches."""
        if self._questions is not None:
            return self._questions.answer(text)
        ids, type_ids, encoding = self._tokenize(text)
        logits = self.run(self.feeds.of_text(ids, type_ids))
        return self._answer(text, ids, encoding, logits)

    def classify_all(self, texts: Sequence[Any], batch_size: int, top_k: int | None) -> list[Any]:
        """Return the prediction, or the ``top_k`` best ones, for each text."""
        encodings = self._encoded(texts)
        return self._decoded(texts, encodings, self._logits(encodings, batch_size), top_k)

    def logits(self, texts: Sequence[TextOrPair], batch_size: int) -> Rows:
        """Return the logits [N, C] of texts, or rows of [L, C] where each token has its own."""
        return self._logits(self._encoded(texts), batch_size)

    def stages(self) -> Stages:
        """Return the steps of classifying one text, to be timed one by one."""
        session_alone = partial(self.graph.outputs, num_classes=self.num_outputs)
        if self._questions is not None:
            return self._questions.stages(session_alone)
        return Stages(
            classify=self.classify,
            tokenize=self._tokenize,
            feed=self.feeds.of_text,
            run=self.run,
            answer=self._answer,
            tokenizer_alone=self.tokenizer.library_call(),
            session_alone=session_alone,
        )

    def _tokenize(self, text: Any) -> tuple[list[int], list[int] | None, tokenizers.Encoding | None]:
        """Return the ids of a text, and its token types and encoding where the graph or the decoder needs them."""
        if not (self.feeds.has_type_ids or self._takes_pairs or self._of_tokens):
            return self.tokenizer.ids_of(text), None, None
        encoding = self.tokenizer.encode_one(text)
        return encoding.ids, encoding.type_ids, encoding

    def _answer(
        self, text: Any, ids: list[int], encoding: tokenizers.Encoding | None, logits: np.ndarray
    ) -> Any:
        """Return the prediction for a text from logits[1, C] or [1, L, C]."""
        row = logits[0] if self.graph.is_float32 else logits[0].astype(np.float32)
        if self._of_tokens and encoding is not None:
            return self._spans(text, encoding, row)
        answer = self.decoder.decode_one(row, self.labels, self.threshold, self.temperature)
        blank = (not text or text.isspace()) if isinstance(text, str) else is_blank(text)
        return _as_blank(answer) if blank or not ids else answer

    def _encoded(self, texts: Sequence[Any]) -> list[Any]:
        """Return the encodings of texts or pairs, or the windows of questions."""
        if not texts:
            return []
        return self.tokenizer.encode(texts) if self._questions is None else self.tokenizer.windows(texts)

    def _logits(self, encodings: Sequence[tokenizers.Encoding | Window], batch_size: int) -> Rows:
        if not isinstance(batch_size, int | np.integer) or isinstance(batch_size, bool) or batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r:.60}; give 1 or more")
        offsets = offsets_of([len(each) for each in encodings])
        num_rows = offsets[-1] if self._of_tokens else len(encodings)
        outputs = np.empty((num_rows, self.num_outputs), dtype=np.float32)
        for places in runs_of([len(each) for each in encodings], int(batch_size)):
            logits = self.run(self.feeds.of_batch([encodings[place] for place in places]))
            if not self._of_tokens:
                outputs[places] = logits
                continue
            for place, own in zip(places, logits, strict=True):
                outputs[offsets[place] : offsets[place + 1]] = own[: len(encodings[place])]
        return Ragged(outputs, offsets) if self._of_tokens else outputs

    def _decoded(
        self, texts: Sequence[Any], encodings: Sequence[Any], logits: Rows, top_k: int | None
    ) -> list[Any]:
        """Return the prediction, or the ``top_k`` best ones, for each text, from all logits."""
        settings, answers = (self.labels, self.threshold), list[Any]()
        if isinstance(logits, Ragged):
            if top_k is not None:
                self.decoder.ranked(logits.values, *settings, top_k)  # which raises
            if self._questions is not None:
                return self._questions.answers(texts, encodings, logits)
            answers += map(self._spans, texts, encodings, logits)
        elif top_k is None:
            answers += self.decoder.decode(logits, *settings, self.temperature)
        else:
            answers += self.decoder.ranked(logits, *settings, top_k, self.temperature)
        rows = zip(texts, encodings, answers, strict=True)
        return [
            _as_blank(answer) if is_blank(text) or not len(encoding) else answer
            for text, encoding, answer in rows
        ]

    def _answers(
        self, contexts: Sequence[str], windows: Sequence[Window], logits: Ragged
    ) -> list[dict[str, Any]]:
        """Return the answers to questions from the logits of their windows, rows of [L, 2]."""
        assert isinstance(self.decoder, WindowDecoder)
        return self.decoder.decode_windows(contexts, windows, logits, self.threshold, self.temperature)

    def _spans(self, text: str, encoding: tokenizers.Encoding, logits: np.ndarray) -> list[dict[str, Any]]:
        """Return the predictions for a text from logits[L, C]."""
        assert isinstance(self.decoder, TokenDecoder)
        tokens = Tokens(text, encoding.offsets, encoding.word_ids)
        return self.decoder.decode_tokens(logits[: len(encoding)], tokens, self.labels, self.temperature)


def _as_blank(answer: Any) -> Any:
    """Mark a prediction, or each of several, as that of a blank text."""
    if isinstance(answer, list):
        return [_as_blank(each) for each in answer]
    return {**answer, "blank": True}
