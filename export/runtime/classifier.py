"""The torch-free classifier that loads a sealed artifact and classifies texts with it.

It needs only onnxruntime, tokenizers and numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...texts import TextOrPair, is_pair
from ...training.tasks.spans.windows import Window
from .classifier_config import ClassifierConfig
from .loading import open_files
from .prediction import Predictor
from .profile import profile_stages
from .session.graph import Graph
from .session.providers import count_nodes
from .tasks import Tokens
from .text_inputs import checked_texts
from .tokenizer import Tokenizer


class TextClassifier:
    """Classify texts as the ``transformers`` text-classification pipeline does, without torch.

    Create one with :meth:`load`. Calls are thread-safe.

    Attributes:
        task: The task it was trained for, which determines the form of its predictions.
        labels: Names of the model's outputs, in order.
        max_length: Maximum number of tokens; longer texts are truncated.
        out_of_scope_label: Label of texts outside every intent; None where there is none.
        takes_pairs: Whether it classifies pairs of texts, each a tuple ``(text, text_pair)``, instead of single texts.
        of_tokens: Whether it has logits for each token.
        of_windows: Whether its pairs are questions with contexts, which it reads in windows.
        decoder: Turns its logits into predictions.
    """

    def __init__(self, graph: Graph, tokenizer: Tokenizer, config: ClassifierConfig):
        self._predictor = Predictor(graph, tokenizer, config)
        self.task = config.task
        self.decoder = self._predictor.decoder
        self.labels = self._predictor.labels
        self.of_tokens, self.of_windows = self.decoder.of_tokens, self.decoder.of_windows
        self.max_length = config.max_length
        self.out_of_scope_label = config.out_of_scope_label
        self.takes_pairs = config.takes_pairs
        self._predictor.check()

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
            tokenizer: ``fast``: tokenize single texts with the first installed package of the extra ``fast`` whose ids
                equal those of ``tokenizers``, for the artifact's probes and for texts of every script (the result of
                the comparison is cached), else with ``tokenizers``. Default: ``tokenizers``.
            io_binding: whether to keep inputs and logits in buffers on the provider's device, one set for each shape.
            cuda_graphs: whether to capture each shape's kernels at its first run and replay them afterwards, which
                saves the host the launch of each; implies ``io_binding``, and needs CUDAExecutionProvider.

        Raises:
            ArtifactError: a file is missing, has the wrong format or does not match the manifest, or the model does
                not run.
            InputError: ``num_threads`` is not from 1 to 1024, a session option or ``tokenizer`` is unknown, a provider
                is not in this build of ONNX Runtime, the first one does not start, or CUDA is not first although
                ``cuda_graphs`` is set.
        """
        opened = open_files(
            Path(directory),
            num_threads=num_threads,
            providers=providers,
            session=session,
            verify=verify,
            tokenizer=tokenizer,
            io_binding=io_binding,
            cuda_graphs=cuda_graphs,
        )
        return cls(*opened)

    @property
    def threshold(self) -> Any:
        """Threshold of the predictions; None where there is none.

        With one label a text, a ``Threshold``: texts with a lower score get its label, besides those predicted by
        their largest logit. With several labels a text, the ``LabelThresholds``. Of questions, that of no answer.
        """
        return self._predictor.threshold

    @threshold.setter
    def threshold(self, threshold: Any) -> None:
        self._predictor.threshold = threshold

    @property
    def temperature(self) -> float:
        """Divisor of the logits in probabilities, fitted on validation texts; it changes no prediction."""
        return self._predictor.temperature

    @temperature.setter
    def temperature(self, temperature: float) -> None:
        self._predictor.temperature = temperature

    @property
    def num_nodes(self) -> dict[str, int] | None:
        """Number of the graph's nodes by the provider that they run on; None on the CPU, and where it is not known."""
        return count_nodes(self._predictor.graph.session)

    @property
    def tokenizer_name(self) -> str:
        """Name of the package that tokenizes single texts: ``tokenizers``, or a fast one."""
        return self._predictor.tokenizer.name

    @property
    def tokenizer_why(self) -> str | None:
        """Why no fast tokenizer, or not the first one, is used although one was requested; None otherwise."""
        return self._predictor.tokenizer.why

    @property
    def reads_token_types(self) -> bool:
        """Whether it takes pairs, and its graph reads the token types that distinguish their two texts."""
        return self.takes_pairs and self._predictor.feeds.has_type_ids

    def __call__(
        self, texts: TextOrPair | Sequence[TextOrPair], batch_size: int = 32, *, top_k: int | None = None
    ) -> Any:
        """Classify one text or several.

        Args:
            texts: a text, or a sequence of texts; for a classifier that ``takes_pairs``, a tuple of two texts, or a
                sequence of those. Texts longer than ``max_length`` tokens are truncated, the longer of a pair first;
                contexts of questions are read in windows.
            batch_size: maximum number of texts in one run of the model; fewer are run where they are long.
            top_k: number of predictions for a text, at most all labels; default: only the best one.

        Returns:
            A dictionary for a text, a list of them in the same order for a sequence. A blank text, or a pair with one,
            gets the model's prediction with ``"blank": True``. By task:

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
            InputError: a text is not a string, or not a pair where pairs are taken; ``batch_size`` or ``top_k`` is
                below 1; or the task has no ``top_k``.
            ArtifactError: the tokenizer or the model fails, or the logits are not finite.
        """
        single = is_pair(texts) if self.takes_pairs else isinstance(texts, str)
        if single and top_k is None and type(batch_size) is int and batch_size > 0:
            return self._predictor.classify(texts)
        if top_k is not None and (type(top_k) is not int or top_k < 1):
            raise InputError(f"top_k is {top_k!r:.60}; give 1 or more")
        given = checked_texts([texts] if single else texts, self.takes_pairs)
        answers = self._predictor.classify_all(given, batch_size, top_k)
        return answers[0] if single else answers

    def profile(
        self, text: TextOrPair, *, num_runs: int = 100, num_warmups: int = 10, seconds: float = 1.0
    ) -> dict[str, float]:
        """Time the stages of classifying one text, after a warm-up.

        Args:
            text: the text, or the pair.
            num_runs: maximum number of timed rounds; each times every stage once, so that other load affects all alike.
            num_warmups: rounds before them.
            seconds: time after which no further round begins, unless fewer than five were timed.

        Returns:
            Medians in ms: ``total``, from text to label; its stages ``tokenize``, ``feed`` (build the graph's inputs),
            ``run`` (run and check) and ``decode``; and two floors: ``tokenizer_alone``, the tokenizer's library, and
            ``session_alone``, ONNX Runtime's session on prepared inputs.

        Raises:
            InputError: the text is not valid, ``num_runs`` is below 1 or ``num_warmups`` below 0.
            ArtifactError: the tokenizer or the model fails.
        """
        return profile_stages(self._predictor.stages(), text, num_runs, num_warmups, seconds)

    def cut_to(self, num_tokens: int) -> TextClassifier:
        """Return the same model with texts truncated to another number of tokens.

        A context is truncated so that it has that many tokens together with its question, and is read in windows as
        before. Calls of other tasks raise ``ArtifactError`` for texts that are longer than the graph has positions for.
        """
        other = copy(self)
        other._predictor, other.max_length = self._predictor.with_max_length(num_tokens), num_tokens
        return other

    def answers(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """Return the predictions for logits[N, C], without scores and without a threshold."""
        return self.decoder.compared(logits, self.labels)

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the tokens of texts, one for each row of ``logits``; only for a classifier ``of_tokens``."""
        encodings = self._predictor.tokenizer.encode(texts) if texts else []
        return [
            Tokens(text, each.offsets, each.word_ids) for text, each in zip(texts, encodings, strict=True)
        ]

    def windows(self, pairs: Sequence[tuple[str, str]]) -> list[Window]:
        """Return the windows of pairs, one for each row of ``logits``; only for a classifier ``of_windows``."""
        return self._predictor.tokenizer.windows(pairs)

    def logits(self, texts: Sequence[TextOrPair], batch_size: int = 32) -> Any:
        """Return the model's raw outputs, float32 ``[N, C]`` in the order of ``texts``; raises like ``__call__``.

        A classifier ``of_tokens`` has rows of ``[L, C]``, a :class:`~distiltune.training.ragged.Ragged`; one
        ``of_windows`` has them for each window.
        """
        single = is_pair(texts) if self.takes_pairs else isinstance(texts, str)
        given = checked_texts([texts] if single else texts, self.takes_pairs)
        return self._predictor.logits(given, batch_size)

    def token_ids(self) -> list[int]:
        """Return every id of the vocabulary, in ascending order."""
        return self._predictor.tokenizer.ids()

    def template(self) -> list[tuple[int | None, int]]:
        """Return the ids that the tokenizer adds, with their token types; None marks the place of a text."""
        return self._predictor.tokenizer.template()

    def logits_of_ids(self, ids: Sequence[int], types: Sequence[int] | None = None) -> np.ndarray:
        """Return the model's raw outputs, float32 ``[C]`` or ``[L, C]``, for all token ids of one text.

        Args:
            ids: The ids.
            types: Their token types; None: all are of the first type.

        Raises:
            ArtifactError: The model cannot run on them.
        """
        feed = self._predictor.feeds.of_ids(np.array([ids]), types)
        return self._predictor.run(feed)[0].astype(np.float32, copy=False)
