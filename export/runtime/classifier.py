"""The torch-free classifier that runs a sealed artifact, with only onnxruntime, tokenizers and numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from ...errors import ArtifactError, InputError
from ...texts import TextOrPair, is_blank, is_pair
from ...training.ragged import Ragged, Rows, offsets_of
from ...training.tasks.spans.windows import Window
from ..artifact.contents import Contents
from ..artifact.files import MAX_JSON_BYTES
from ..artifact.manifest import MODEL_FILE, SETTINGS_FILE, TOKENIZER_FILE
from .classifier_config import ClassifierConfig, read_config
from .fast.choose import choose_for_graph
from .profile import Stages, profile_stages
from .questions import QuestionReader
from .session.bound_graph import open_with_buffers
from .session.feeds import Feeds, runs_of
from .session.graph import Graph
from .session.providers import count_nodes
from .session.session_options import MAX_THREADS, check_session, session_options
from .tasks import DECODERS, TokenDecoder, Tokens, WindowDecoder
from .text_inputs import checked_texts
from .tokenizer import MAX_TOKENIZER_BYTES, Tokenizer

_PROBE_TEXT = "a"
TOKENIZERS = ("fast", "tokenizers")
"""Accepted values of the argument ``tokenizer`` of :meth:`TextClassifier.load`."""


class TextClassifier:
    """Classify texts as the ``transformers`` text-classification pipeline does, without torch.

    Create one with :meth:`load`. Calls are thread-safe.

    Attributes:
        task: The task it was trained for, which determines the form of its predictions.
        labels: Names of the model's outputs, in order.
        max_length: Maximum number of tokens; longer texts are truncated.
        out_of_scope_label: Label of texts outside every intent; None where there is none.
        threshold: Selects texts that get that label in addition to those predicted by their largest logit; with several
            labels a text, the threshold of each label (``LabelThresholds``); of questions, that of no answer; or None.
        temperature: Divisor of the logits in probabilities, fitted on validation texts; it changes no prediction.
        takes_pairs: Whether it classifies pairs of texts, each a tuple ``(text, text_pair)``, instead of single texts.
        of_tokens: Whether it has logits for each token.
        of_windows: Whether its pairs are questions with contexts, which it reads in windows.
        decoder: What turns its logits into predictions.
    """

    def __init__(self, graph: Graph, tokenizer: Tokenizer, config: ClassifierConfig):
        self._graph = graph
        self._tokenizer = tokenizer
        self._pad_token_id = config.pad_token_id
        self._feeds = Feeds(graph.input_types, config.pad_token_id)
        self.task = config.task
        self.decoder = DECODERS[config.task]
        self.labels = list(config.labels)
        self._num_outputs = self.decoder.num_outputs(self.labels)
        self.of_tokens, self.of_windows = self.decoder.of_tokens, self.decoder.of_windows
        self.max_length = config.max_length
        self.out_of_scope_label = config.out_of_scope_label
        self.threshold = config.threshold
        self.temperature = config.temperature
        self.takes_pairs = config.takes_pairs
        self._questions: QuestionReader | None = None
        if isinstance(self.decoder, WindowDecoder):
            self._questions = QuestionReader(
                tokenizer, self._feeds, self._run, self.decoder, self.threshold, self.temperature
            )
        if graph.num_outputs not in (None, self._num_outputs):
            raise ArtifactError(
                f"{SETTINGS_FILE} names {len(self.labels)} labels but {MODEL_FILE} has {graph.num_outputs} outputs; "
                f"pull the artifact again"
            )
        self._probe()

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        num_threads: int | None = None,
        providers: Sequence[Any] | None = None,
        session: Mapping[str, Any] | None = None,
        verify: bool = True,
        tokenizer: str | None = None,
        io_binding: bool = False,
        cuda_graphs: bool = False,
    ) -> TextClassifier:
        """Load the classifier in ``directory``.

        The files of a sealed artifact are verified against the SHA-256 of its manifest; those of an exported variant,
        which has no manifest, are used unverified. A file that has not changed since it was last hashed is not hashed
        again: its SHA-256 is cached in ``$XDG_CACHE_HOME/distiltune``. The model is run once as a check.

        Args:
            directory: an artifact, or an exported ONNX variant.
            num_threads: intra-op threads; default: ``num_threads`` of ``distiltune.json``, else 1.
            providers: ONNX Runtime execution providers, by name or as pairs of name and options, such as
                ``["CUDAExecutionProvider"]``; the first must start. Default: the CPU.
            session: session options, named as in :mod:`~distiltune.export.runtime.session.session_options`; default:
                ``session`` of ``distiltune.json``, the options measured to be faster. ``{}``: none of them.
            verify: whether to verify the files against the manifest.
            tokenizer: ``fast``: single texts are tokenized by the first package of the extra ``fast`` that is installed
                and gives the ids of ``tokenizers`` for the texts of the artifact's probes and for texts of every
                script; otherwise, and with None or ``tokenizers``, by ``tokenizers``. The verdict is cached.
            io_binding: whether inputs and logits have buffers on the provider's device, one set for each shape.
            cuda_graphs: whether each shape's kernels are captured at its first run and replayed afterwards, which
                saves the host's time for starting them; implies ``io_binding``, and needs CUDAExecutionProvider.

        Raises:
            ArtifactError: a file is missing, has the wrong format or does not match the manifest, or the model does
                not run.
            InputError: ``num_threads`` is not from 1 to 1024, a session option or ``tokenizer`` is unknown, a provider
                is not in this build of ONNX Runtime, the first one does not start, or ``cuda_graphs`` is without CUDA.
        """
        if num_threads is not None and (type(num_threads) is not int or not 1 <= num_threads <= MAX_THREADS):
            raise InputError(f"num_threads is {num_threads!r:.60}; give 1 to {MAX_THREADS}")
        if tokenizer is not None and tokenizer not in TOKENIZERS:
            raise InputError(f"tokenizer is {tokenizer!r:.60}; give {' or '.join(TOKENIZERS)}")
        try:
            check_session({} if session is None else session)
        except ValueError as error:
            raise InputError(f"session: {error}") from None
        contents = Contents(Path(directory), verify=verify)
        folder = contents.directory
        config = read_config(contents.read(SETTINGS_FILE, MAX_JSON_BYTES), folder / SETTINGS_FILE)
        content = contents.read(TOKENIZER_FILE, MAX_TOKENIZER_BYTES)
        own = Tokenizer(
            content,
            config.max_length,
            config.pad_token_id,
            folder / TOKENIZER_FILE,
            takes_pairs=config.takes_pairs,
            with_offsets=DECODERS[config.task].of_tokens,
            with_windows=DECODERS[config.task].of_windows,
        )
        options = session_options(
            num_threads or config.num_threads or 1, config.session if session is None else session
        )
        buffers = {"io_binding": io_binding, "cuda_graphs": cuda_graphs}
        graph = open_with_buffers(folder / MODEL_FILE, options, providers, config, **buffers)
        if tokenizer == "fast":
            own.use(*choose_for_graph(own, content, graph.input_types, folder))
        contents.check_unchanged()
        return cls(graph, own, config)

    @property
    def num_nodes(self) -> dict[str, int] | None:
        """Number of the graph's nodes by the provider that they run on; None on the CPU, and where it is not known."""
        return count_nodes(self._graph.session)

    @property
    def tokenizer_name(self) -> str:
        """Name of the package that tokenizes single texts: ``tokenizers``, or a fast one."""
        return self._tokenizer.name

    @property
    def tokenizer_why(self) -> str | None:
        """Why a fast tokenizer that was asked for is not used, or not the first one; None where it is."""
        return self._tokenizer.why

    @property
    def reads_token_types(self) -> bool:
        """Whether it reads pairs, and its graph the token types that distinguish the two texts."""
        return self.takes_pairs and self._feeds.has_type_ids

    def _probe(self) -> None:
        """Run the model once, so that a tokenizer, table, padding or weight that does not fit fails here, not later.

        Raises:
            ArtifactError: The model does not run, or its logits are not finite.
        """
        encoding = self._tokenizer.encode_one((_PROBE_TEXT, _PROBE_TEXT) if self.takes_pairs else _PROBE_TEXT)
        ids = encoding.ids or [self._pad_token_id]
        last = self._tokenizer.last_id()
        extremes = [self._pad_token_id] if last is None else [last, self._pad_token_id]
        rows = np.array([ids, (extremes * len(ids))[: len(ids)]])
        try:
            self._run(self._feeds.of_ids(rows, encoding.type_ids or None))
        except ArtifactError as error:
            raise ArtifactError(
                f"{error}; tried with the ids {rows.ravel().tolist()!s:.60} of {TOKENIZER_FILE} and {SETTINGS_FILE}"
            ) from error

    def _run(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        """Return the logits [B, C] of a feed, or [B, L, C] where each token has its own."""
        return self._graph.run(feed, self._num_outputs, of_tokens=self.of_tokens)

    def __call__(
        self, texts: TextOrPair | Sequence[TextOrPair], batch_size: int = 32, *, top_k: int | None = None
    ) -> Any:
        """Classify one text or several.

        Args:
            texts: a text, or a sequence of texts; for a classifier that ``takes_pairs``, a tuple of two texts, or a
                sequence of those. Texts longer than ``max_length`` tokens are truncated, the longer of a pair first;
                contexts of questions are read in windows.
            batch_size: maximum number of texts in one run of the model; fewer are run where they are long.
            top_k: number of predictions for a text, at most all labels; default: the best one alone.

        Returns:
            A dictionary for a text, a list of them in the same order for a sequence. A blank text, which says nothing,
            gets the model's prediction with ``"blank": True``, as does a pair with one. By task:

            - ``single_label``: ``{"label": str, "score": float}``; the score is the probability of the label,
              softmax(logits / temperature). A text that the threshold rejects gets the threshold's label, with the
              score 1 - the largest probability of the other labels. With ``top_k``, a list of such predictions for each
              text, the best first.
            - ``multi_label``: ``{"labels": [{"label": str, "score": float}, …]}``, every label whose score,
              sigmoid(logit / temperature), is above its threshold, possibly none. With ``top_k``, a list of the labels
              with the highest scores, whatever their thresholds.
            - ``regression``: ``{"value": float}``, or ``{"values": {name: float}}`` for several numbers.
            - ``token_classification``: a list of ``{"start": int, "end": int, "label": str, "score": float}``, whose
              characters are ``text[start:end]``; an empty one for a blank text.
            - ``question_answering``: ``{"answer": str, "score": float, "start": int, "end": int}``; the answer is
              ``context[start:end]``; with a threshold it may be ``""``, from 0 to 0.

        Raises:
            InputError: a text is no string, or no pair where those are taken; ``batch_size`` or ``top_k`` is below 1;
                or the task has no ``top_k``.
            ArtifactError: the tokenizer or the model fails, or the logits are not finite.
        """
        single = is_pair(texts) if self.takes_pairs else isinstance(texts, str)
        if single and top_k is None and type(batch_size) is int and batch_size > 0:
            return self._classify(texts)
        if top_k is not None and (type(top_k) is not int or top_k < 1):
            raise InputError(f"top_k is {top_k!r:.60}; give 1 or more")
        given = checked_texts([texts] if single else texts, self.takes_pairs)
        encodings = self._encoded(given)
        logits = self._logits(encodings, batch_size)
        answers = self._decoded(given, encodings, logits, top_k)
        return answers[0] if single else answers

    def _encoded(self, texts: Sequence[Any]) -> list[Any]:
        """Return the encodings of texts or pairs, or the windows of questions."""
        if not texts:
            return []
        return self._tokenizer.encode(texts) if self._questions is None else self._tokenizer.windows(texts)

    def _decoded(
        self,
        texts: Sequence[Any],
        encodings: Sequence[Any],
        logits: Rows,
        top_k: int | None,
    ) -> list[Any]:
        """Return the prediction, or the ``top_k`` best ones, for each text."""
        given, found = (self.labels, self.threshold), list[Any]()
        if isinstance(logits, Ragged):
            if top_k is not None:
                self.decoder.ranked(logits.values, *given, top_k)  # which raises
            if self._questions is not None:
                return self._questions.answers(texts, encodings, logits)
            found += map(self._spans, texts, encodings, logits)
        elif top_k is None:
            found += self.decoder.decode(logits, *given, self.temperature)
        else:
            found += self.decoder.ranked(logits, *given, top_k, self.temperature)
        rows = zip(texts, encodings, found, strict=True)
        return [_as_blank(own) if is_blank(text) or not len(each) else own for text, each, own in rows]

    def _spans(self, text: str, encoding: tokenizers.Encoding, logits: np.ndarray) -> list[dict[str, Any]]:
        """Return the predictions for a text of logits[L, C]."""
        assert isinstance(self.decoder, TokenDecoder)
        tokens = Tokens(text, encoding.offsets, encoding.word_ids)
        return self.decoder.decode_tokens(logits[: len(encoding)], tokens, self.labels, self.temperature)

    def _classify(self, text: Any) -> Any:
        """Classify one text, as a batch of one is, without what a batch needs."""
        if self._questions is not None:
            return self._questions.answer(text)
        ids, type_ids, encoding = self._tokenize(text)
        logits = self._run(self._feeds.of_text(ids, type_ids))
        return self._answer(text, ids, encoding, logits)

    def _tokenize(self, text: Any) -> tuple[list[int], list[int] | None, tokenizers.Encoding | None]:
        """Return the ids of a text, and their token types and places where they are read."""
        if not (self._feeds.has_type_ids or self.takes_pairs or self.of_tokens):
            return self._tokenizer.ids_of(text), None, None
        encoding = self._tokenizer.encode_one(text)
        return encoding.ids, encoding.type_ids, encoding

    def _answer(
        self, text: Any, ids: list[int], encoding: tokenizers.Encoding | None, logits: np.ndarray
    ) -> Any:
        """Return the prediction for a text of logits[1, C] or [1, L, C]."""
        row = logits[0] if self._graph.is_float32 else logits[0].astype(np.float32)
        if self.of_tokens and encoding is not None:
            return self._spans(text, encoding, row)
        answer = self.decoder.decode_one(row, self.labels, self.threshold, self.temperature)
        blank = (not text or text.isspace()) if isinstance(text, str) else is_blank(text)
        return _as_blank(answer) if blank or not ids else answer

    def profile(
        self, text: TextOrPair, *, num_runs: int = 100, num_warmups: int = 10, seconds: float = 1.0
    ) -> dict[str, float]:
        """Measure where the time of one text goes, once it is warm.

        Args:
            text: the text, or the pair.
            num_runs: timed rounds; each measures everything once, so that other load affects all of it.
            num_warmups: rounds before them.
            seconds: no round begins this long after the warm-up, except for the first five.

        Returns:
            Medians in ms: ``total``, from text to label; its stages ``tokenize``, ``feed`` (build the graph's inputs),
            ``run`` (run and check) and ``decode``; and two floors: ``tokenizer_alone``, the tokenizer's library, and
            ``session_alone``, ONNX Runtime's session on inputs that are there already.

        Raises:
            InputError: the text is not valid, ``num_runs`` is below 1 or ``num_warmups`` below 0.
            ArtifactError: the tokenizer or the model fails.
        """
        alone = partial(self._graph.outputs, num_classes=self._num_outputs)
        path = (self._classify, self._tokenize, self._feeds.of_text, self._run, self._answer)
        stages = Stages(*path, self._tokenizer.library_call(), alone)
        stages = stages if self._questions is None else self._questions.stages(alone)
        return profile_stages(stages, text, num_runs, num_warmups, seconds)

    def cut_to(self, num_tokens: int) -> TextClassifier:
        """Return the same model with texts truncated to another number of tokens; calls raise without positions."""
        other = copy(self)
        other._tokenizer, other.max_length = self._tokenizer.cut_to(num_tokens), num_tokens
        return other

    def answers(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """Return the predictions of logits[N, C] without their scores and without a threshold."""
        return self.decoder.compared(logits, self.labels)

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the tokens of texts, which the rows of ``logits`` are for; of a classifier ``of_tokens``."""
        found = self._tokenizer.encode(texts) if texts else []
        return [Tokens(text, each.offsets, each.word_ids) for text, each in zip(texts, found, strict=True)]

    def windows(self, pairs: Sequence[tuple[str, str]]) -> list[Window]:
        """Return the windows of pairs, which the rows of ``logits`` are for; of a classifier ``of_windows``."""
        return self._tokenizer.windows(pairs)

    def logits(self, texts: Sequence[TextOrPair], batch_size: int = 32) -> Any:
        """Return the model's raw outputs, float32 ``[N, C]`` in the order of ``texts``; raises like ``__call__``.

        A classifier ``of_tokens`` has rows of ``[L, C]``, a :class:`~distiltune.training.ragged.Ragged`; one
        ``of_windows`` has them for each window.
        """
        single = is_pair(texts) if self.takes_pairs else isinstance(texts, str)
        given = checked_texts([texts] if single else texts, self.takes_pairs)
        return self._logits(self._encoded(given), batch_size)

    def _logits(self, encodings: Sequence[tokenizers.Encoding | Window], batch_size: int) -> Rows:
        if not isinstance(batch_size, int | np.integer) or isinstance(batch_size, bool) or batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r:.60}; give 1 or more")
        offsets = offsets_of([len(each) for each in encodings])
        num = offsets[-1] if self.of_tokens else len(encodings)
        outputs = np.empty((num, self._num_outputs), dtype=np.float32)
        for rows in runs_of([len(each) for each in encodings], int(batch_size)):
            feed = self._feeds.of_batch([encodings[i] for i in rows])
            found = self._run(feed)
            if not self.of_tokens:
                outputs[rows] = found
                continue
            for row, own in zip(rows, found, strict=True):
                outputs[offsets[row] : offsets[row + 1]] = own[: len(encodings[row])]
        return Ragged(outputs, offsets) if self.of_tokens else outputs

    def token_ids(self) -> list[int]:
        """Return every id of the vocabulary, in ascending order."""
        return self._tokenizer.ids()

    def template(self) -> list[tuple[int | None, int]]:
        """Return the ids that the tokenizer adds, with their token types; None is the place of a text."""
        return self._tokenizer.template()

    def logits_of_ids(self, ids: Sequence[int], types: Sequence[int] | None = None) -> np.ndarray:
        """Return the model's raw outputs, float32 ``[C]`` or ``[L, C]``, for all token ids of one text.

        Args:
            ids: The ids.
            types: Their token types; None: all are of the first type.

        Raises:
            ArtifactError: The model cannot run on them.
        """
        feed = self._feeds.of_ids(np.array([ids]), types)
        return self._run(feed)[0].astype(np.float32, copy=False)


def _as_blank(answer: Any) -> Any:
    """Mark a prediction, or each of several, as that of a blank text."""
    if isinstance(answer, list):
        return [_as_blank(each) for each in answer]
    return {**answer, "blank": True}
