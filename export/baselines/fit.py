"""Train a baseline, write it to a folder, and open that folder."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...texts import TextOrPair, joined
from ..temperature import fit_temperature
from . import BASELINES
from .base import Fitted, TrainingTexts

TEXTS_FILE = "texts.json"
MODEL_FILE = "model"
_SETTINGS_FILE = "baseline.json"
_BATCH = 1024  # texts whose features are in memory at a time


@dataclass(frozen=True)
class BaselineTexts:
    """Labelled texts of a job that a baseline is trained and scaled on; labels are indices into ``label_names``.

    Attributes:
        train_texts, train_labels: N training texts.
        validation_texts, validation_labels: Validation split, on which the temperature is fitted.
        label_names: All labels of the data.
        out_of_scope_label: Label whose texts the temperature is not fitted on, if there is one.
        is_balanced, seed, model: As in :class:`~distiltune.export.baselines.base.TrainingTexts`.
    """

    train_texts: Sequence[str]
    train_labels: Sequence[int]
    validation_texts: Sequence[str]
    validation_labels: Sequence[int]
    label_names: Sequence[str]
    out_of_scope_label: str | None = None
    is_balanced: bool = False
    seed: int = 0
    model: str | None = None


class OpenedBaseline:
    """A trained baseline with its labels; the texts of a pair are joined, which makes it one text.

    Args:
        fitted: The baseline.
        labels: Names of its C labels, those of the training texts.
        temperature: Number that its scores are divided by.
    """

    def __init__(self, fitted: Fitted, labels: list[str], temperature: float) -> None:
        self.labels = labels
        self._fitted = fitted
        self._temperature = np.float32(temperature)

    def logits(self, texts: Sequence[TextOrPair]) -> np.ndarray:
        """Return the scaled scores of the classes, float32[N, C]; those of a text do not depend on the others."""
        whole = [joined(text) for text in texts]
        parts = [whole[start : start + _BATCH] for start in range(0, len(whole), _BATCH)]
        return np.concatenate([self._fitted.logits(part) / self._temperature for part in parts])

    def __call__(self, texts: Any, batch_size: int = 1) -> Any:
        """Classify one text or several, as a pipeline of transformers does: label and probability of each."""
        if not isinstance(texts, list):
            return self._answers([texts])[0]
        parts = (texts[start : start + batch_size] for start in range(0, len(texts), batch_size))
        return [answer for part in parts for answer in self._answers(part)]

    def _answers(self, texts: Sequence[TextOrPair]) -> list[dict[str, Any]]:
        logits = self._fitted.logits([joined(text) for text in texts]) / self._temperature
        best = logits.argmax(axis=1)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = 1 / weights.sum(axis=1)
        return [
            {"label": self.labels[i], "score": float(score)} for i, score in zip(best, scores, strict=True)
        ]


def fit_baseline(name: str, given: BaselineTexts, folder: Path) -> dict[str, Any]:
    """Train a baseline and write it to a folder.

    Its scores are divided by the temperature that fits the validation split, so that their energy and probabilities are
    those of logits: the margins of an SVM have no scale of their own.

    Args:
        name: Name of the baseline.
        given: The texts.
        folder: Folder to create.

    Returns:
        ``seconds`` of the training, ``num_texts``, ``num_classes``, ``features`` (their kinds and numbers, in words)
        and ``bytes``, the size of the file.

    Raises:
        InputError: The training texts have only one label, or no features.
    """
    labels = np.asarray(given.train_labels)
    present, classes = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        raise InputError(f"the training texts have {len(present)} labels; at least 2 are needed")
    texts = TrainingTexts(given.train_texts, classes, given.is_balanced, given.seed, given.model)
    baseline, began = BASELINES[name], time.perf_counter()
    fitted = baseline.fit(texts)
    seconds = time.perf_counter() - began
    names = [str(given.label_names[number]) for number in present.tolist()]
    temperature = _temperature(OpenedBaseline(fitted, names, 1.0), given)
    folder.mkdir()
    fitted.save(folder / MODEL_FILE)
    settings = {"name": name, "labels": names, "temperature": temperature}
    (folder / _SETTINGS_FILE).write_text(json.dumps(settings), encoding="utf-8")
    return {
        "seconds": seconds,
        "num_texts": len(labels),
        "num_classes": len(present),
        "features": fitted.features,
        "bytes": (folder / MODEL_FILE).stat().st_size,
    }


def _temperature(opened: OpenedBaseline, given: BaselineTexts) -> float:
    number_of = {
        name: number for number, name in enumerate(opened.labels) if name != given.out_of_scope_label
    }
    numbers = [number_of.get(given.label_names[label]) for label in given.validation_labels]
    rows = [row for row, number in enumerate(numbers) if number is not None]
    if not rows:
        return 1.0
    logits = opened.logits([given.validation_texts[row] for row in rows])
    return fit_temperature(logits, np.array([numbers[row] for row in rows]))


def open_baseline(folder: Path) -> OpenedBaseline:
    """Open a folder that ``fit_baseline`` has written; never one from elsewhere, since it may be unpickled."""
    settings = json.loads((folder / _SETTINGS_FILE).read_text(encoding="utf-8"))
    fitted = BASELINES[settings["name"]].load(folder / MODEL_FILE)
    return OpenedBaseline(fitted, settings["labels"], settings["temperature"])


def train(name: str, texts: str, folder: str) -> dict[str, Any]:
    """Train a baseline with ``fit_baseline``, on the texts in a file that ``write_texts`` has written."""
    given = BaselineTexts(**json.loads(Path(texts).read_text(encoding="utf-8")))
    return fit_baseline(name, given, Path(folder))


def write_texts(given: BaselineTexts, path: Path) -> None:
    """Write texts to a file, for another process; the caller deletes it."""
    path.write_text(json.dumps(asdict(given)), encoding="utf-8")
