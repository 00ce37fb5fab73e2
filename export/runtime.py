"""The torch-free classifier that a sealed artifact runs on: onnxruntime, tokenizers and numpy alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import onnxruntime as ort
import tokenizers

from ..errors import ArtifactError, InputError, first_line
from .out_of_scope import Threshold
from .session import check_session, session_options

MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "config.json"

_INTEGER_TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


class TextClassifier:
    """Classifies texts as the ``transformers`` text-classification pipeline does, without torch.

    Make one with :meth:`load`. Calling it is safe from several threads.

    Attributes:
        labels: Names of the model's outputs, in their order.
        max_length: Tokens after which a text is cut.
        out_of_scope_label: The label of texts outside every intent; None where there is none.
        threshold: Decides which texts get that label besides those whose largest logit says so; None: no others.
    """

    def __init__(
        self, session: ort.InferenceSession, tokenizer: tokenizers.Tokenizer, config: dict[str, Any]
    ):
        self._session = session
        self._tokenizer = tokenizer
        self._pad_token_id: int = config["pad_token_id"]
        self.labels: list[str] = list(config["labels"])
        self.max_length: int = config["max_length"]
        self.out_of_scope_label: str | None = config.get("out_of_scope_label")
        threshold = config.get("threshold")
        self.threshold = None if threshold is None else Threshold.from_json(threshold)
        self._inputs = _input_types(session)
        num_outputs = session.get_outputs()[0].shape[-1]  # a name where the graph leaves it open
        if isinstance(num_outputs, int) and num_outputs != len(self.labels):
            raise ArtifactError(
                f"{CONFIG_FILE} names {len(self.labels)} labels but {MODEL_FILE} has {num_outputs} outputs; "
                "pull the artifact again"
            )
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_length)

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        num_threads: int | None = None,
        providers: Sequence[Any] | None = None,
        session: Mapping[str, Any] | None = None,
    ) -> TextClassifier:
        """Load the classifier in ``directory``.

        Args:
            directory: an artifact, or an exported ONNX variant.
            num_threads: intra-op threads; default: ``num_threads`` of ``config.json``, else 1.
            providers: ONNX Runtime execution providers; default: the CPU.
            session: session options as :mod:`~distiltune.export.session` names them; default: ``session`` of
                ``config.json``, the ones that were measured to be faster. ``{}``: none of them.

        Raises:
            ArtifactError: a file is missing or is not what its name says.
            InputError: ``num_threads`` is below 1, a session option is unknown, or a provider is not in this
                build of ONNX Runtime.
        """
        directory = Path(directory)
        for name in (MODEL_FILE, TOKENIZER_FILE, CONFIG_FILE):
            if not (directory / name).is_file():
                raise ArtifactError(
                    f"{directory}: {name} is missing; give an artifact's folder (`distiltune pull` makes one)"
                )
        config = _read_config(directory / CONFIG_FILE)
        threads = (config.get("num_threads") or 1) if num_threads is None else num_threads
        if not isinstance(threads, int) or threads < 1:
            raise InputError(f"num_threads is {threads!r}; give 1 or more")
        try:
            check_session(session or {})
        except ValueError as error:
            raise InputError(f"session: {error}") from None
        options = session_options(threads, (config.get("session") or {}) if session is None else session)
        opened = _open_session(directory / MODEL_FILE, options, list(providers or ["CPUExecutionProvider"]))
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(directory / TOKENIZER_FILE))
        except Exception as error:  # tokenizers raises bare Exception
            raise ArtifactError(f"{directory / TOKENIZER_FILE}: not a tokenizer ({error})") from error
        return cls(opened, tokenizer, config)

    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, texts: str, batch_size: int = 32
    ) -> dict[str, Any]: ...
    @overload
    def __call__(self, texts: Sequence[str], batch_size: int = 32) -> list[dict[str, Any]]: ...

    def __call__(
        self, texts: str | Sequence[str], batch_size: int = 32
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Classify one text, or many.

        Args:
            texts: a text, or a sequence of texts. A text longer than ``max_length`` tokens is cut.
            batch_size: most texts in one run of the model.

        Returns:
            ``{"label": str, "score": float}`` for a text, a list of them in the same order for a sequence;
            the score is the softmax probability of the label. A text that the threshold refuses gets the
            threshold's label, and as its score what no other label has: 1 - their largest probability.

        Raises:
            InputError: a text is empty or not a string, or ``batch_size`` is below 1.
        """
        single = isinstance(texts, str)
        logits = self.logits([texts] if single else texts, batch_size=batch_size)
        answers = self._answers(logits)
        return answers[0] if single else answers

    def _answers(self, logits: np.ndarray) -> list[dict[str, Any]]:
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
        best = probabilities.argmax(axis=-1)
        answers = [
            {"label": self.labels[i], "score": float(probabilities[row, i])} for row, i in enumerate(best)
        ]
        if self.threshold is None:
            return answers
        label = self.threshold.label
        for row in np.flatnonzero(self.threshold.refuses(logits)):
            if answers[row]["label"] != label:
                answers[row] = {"label": label, "score": 1 - answers[row]["score"]}
        return answers

    def logits(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """The model's raw outputs, float32 ``[N, C]`` in the order of ``texts``; raises as a call does."""
        if isinstance(texts, str):
            texts = [texts]
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; give 1 or more")
        encodings = self._encode(texts)
        outputs = np.empty((len(encodings), len(self.labels)), dtype=np.float32)
        # Texts of like length share a batch, so that little of it is padding.
        order = sorted(range(len(encodings)), key=lambda i: len(encodings[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            outputs[rows] = self._run([encodings[i] for i in rows])
        return outputs

    def _encode(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        if not isinstance(texts, Iterable):
            raise InputError(f"texts is {type(texts).__name__}; give a string or a sequence of strings")
        texts = list(texts)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"text {i} is {type(text).__name__} {text!r:.60}; give a string")
            if not text.strip():
                raise InputError(f"text {i} is empty; give a text with at least one word")
        try:
            if len(texts) == 1:
                return [self._tokenizer.encode(texts[0])]
            return self._tokenizer.encode_batch_fast(texts)
        except (UnicodeError, TypeError) as error:
            raise InputError(f"a text is not valid Unicode ({error}); remove its lone surrogates") from error

    def _run(self, encodings: list[tokenizers.Encoding]) -> np.ndarray:
        """Logits ``[B, C]`` of one batch, padded to its longest text ``L``."""
        shape = (len(encodings), max(len(encoding) for encoding in encodings))
        feed = {name: np.zeros(shape, dtype) for name, dtype in self._inputs.items()}
        feed["input_ids"].fill(self._pad_token_id)
        for row, encoding in enumerate(encodings):
            ids = encoding.ids
            feed["input_ids"][row, : len(ids)] = ids
            if "attention_mask" in feed:
                feed["attention_mask"][row, : len(ids)] = 1
            if "token_type_ids" in feed:
                feed["token_type_ids"][row, : len(ids)] = encoding.type_ids
        return np.asarray(self._session.run(None, feed)[0])


def _input_types(session: ort.InferenceSession) -> dict[str, Any]:
    """The graph's inputs and their NumPy types; only those that it declares are fed."""
    types = {}
    for node in session.get_inputs():
        if (
            node.name not in ("input_ids", "attention_mask", "token_type_ids")
            or node.type not in _INTEGER_TYPES
        ):
            raise ArtifactError(
                f"{MODEL_FILE} asks for input {node.name!r} of type {node.type}; "
                "this runtime feeds integer input_ids, attention_mask and token_type_ids"
            )
        types[node.name] = _INTEGER_TYPES[node.type]
    if "input_ids" not in types:
        raise ArtifactError(f"{MODEL_FILE} has no input 'input_ids'; export it with distiltune")
    return types


def _open_session(path: Path, options: ort.SessionOptions, providers: list[Any]) -> ort.InferenceSession:
    names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
    available = ort.get_available_providers()
    unknown = [name for name in names if name not in available]
    if unknown:
        raise InputError(
            f"providers: {', '.join(unknown)} is not in this ONNX Runtime; it has {', '.join(available)}"
        )
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's own classes share no public base
        raise ArtifactError(f"{path}: ONNX Runtime cannot load it ({first_line(error)})") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(config, dict):
        raise ArtifactError(f"{path}: holds {type(config).__name__}; it must hold an object")
    labels = config.get("labels")
    if not isinstance(labels, list) or not labels or not all(isinstance(name, str) for name in labels):
        raise ArtifactError(f"{path}: labels is {labels!r:.60}; it must be a list of names")
    for name, least in (("max_length", 1), ("pad_token_id", 0)):
        value = config.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ArtifactError(f"{path}: {name} is {value!r}; it must be an integer of {least} or more")
    if config.get("threshold") is not None:
        try:
            Threshold.from_json(config["threshold"])
        except ValueError as error:
            raise ArtifactError(f"{path}: threshold is {config['threshold']!r:.80}; {error}") from None
    if config.get("session") is not None:
        try:
            check_session(config["session"])
        except ValueError as error:
            raise ArtifactError(f"{path}: session: {error}; pull the artifact again") from None
    return config
