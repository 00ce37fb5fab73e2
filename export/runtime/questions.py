"""Answer questions from their contexts with a graph that reads windows of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...texts import is_blank
from ...training.ragged import Ragged
from ...training.tasks.spans.windows import Window
from .profile import Stages
from .session.feeds import Feeds
from .tokenizer import Tokenizer

Run = Callable[[dict[str, np.ndarray]], np.ndarray]
Decode = Callable[[Sequence[str], Sequence[Window], Ragged], list[dict[str, Any]]]


class QuestionReader:
    """Read one pair of a question and its context, window by window.

    Each window is run alone, since with dynamically quantized activations its logits depend on the rest of a batch.

    Args:
        tokenizer: Makes the windows.
        feeds: Builds the graph's inputs.
        run: Returns the logits [B, L, 2] of a feed.
        decode: Turns contexts, windows and their logits, rows of [L, 2], into answers.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        feeds: Feeds,
        run: Run,
        decode: Decode,
    ) -> None:
        self._tokenizer = tokenizer
        self._feeds = feeds
        self._run = run
        self._decode = decode

    def answer(self, pair: tuple[str, str]) -> dict[str, Any]:
        """Return the answer to one question."""
        windows = self._tokenizer.windows([pair])
        return self._decoded(pair, windows, self._run_each(self._feeds_of(windows)))

    def answers(
        self, pairs: Sequence[tuple[str, str]], windows: Sequence[Window], logits: Ragged
    ) -> list[dict[str, Any]]:
        """Return the answers to several questions from the logits of their windows, rows of [L, 2]."""
        contexts = [context for _, context in pairs]
        found = self._decode(contexts, windows, logits)
        return [
            {**answer, "blank": True} if is_blank(pair) else answer
            for pair, answer in zip(pairs, found, strict=True)
        ]

    def stages(self, session_alone: Callable[[dict[str, np.ndarray]], Any]) -> Stages:
        """Return the steps of answering one question; ``session_alone`` runs ONNX Runtime's session for one window."""
        return Stages(
            classify=self.answer,
            tokenize=self._tokenize,
            feed=lambda windows, _: self._feeds_of(windows),
            run=self._run_each,
            answer=lambda pair, windows, _, logits: self._decoded(pair, windows, logits),
            tokenizer_alone=self._tokenizer.library_call(),
            session_alone=lambda feeds: [*map(session_alone, feeds)],
        )

    def _tokenize(self, pair: tuple[str, str]) -> tuple[list[Window], None, None]:
        return self._tokenizer.windows([pair]), None, None

    def _feeds_of(self, windows: Sequence[Window]) -> list[dict[str, np.ndarray]]:
        return [self._feeds.of_text(each.ids, each.type_ids) for each in windows]

    def _run_each(self, feeds: Sequence[dict[str, np.ndarray]]) -> list[np.ndarray]:
        return [self._run(feed)[0] for feed in feeds]

    def _decoded(
        self, pair: tuple[str, str], windows: Sequence[Window], logits: Sequence[np.ndarray]
    ) -> dict[str, Any]:
        return self.answers([pair], windows, Ragged.of(logits, np.float32, (2,)))[0]
