"""Label texts with a checkpoint or an artifact, for the command ``label``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError
from ...export.artifact.manifest import SETTINGS_FILE
from ...progress import Progress, ReportProgress
from ...texts import PAIR_COLUMN, TextOrPair
from ...training.ragged import flat

if TYPE_CHECKING:
    import numpy as np

_MOST_TOKENS = 512
_BATCH = 256  # texts between two reports of an artifact's progress
Compute = Callable[[Sequence[TextOrPair], ReportProgress], "np.ndarray"]


@dataclass(frozen=True)
class LabellingModel:
    """A classifier that labels texts.

    Attributes:
        labels: Names of its C labels.
        takes_pairs: Whether it takes pairs of texts; None if it takes both single texts and pairs.
        logits: Function from N texts and a callback for progress to their logits float32[N, C].
    """

    labels: list[str]
    takes_pairs: bool | None
    logits: Compute

    @classmethod
    def load(cls, name: str, max_length: int | None) -> LabellingModel:
        """Open an artifact, or a checkpoint of any of the tasks.

        Args:
            name: Directory of an artifact or a checkpoint, or a hub id.
            max_length: Tokens to which texts are truncated; None: as many as the model takes, at most 512.

        Raises:
            ModelError: The checkpoint is not a classifier, or does not accept ``max_length`` tokens.
            ArtifactError: The artifact is damaged.
            InputError: ``max_length`` is given for an artifact, or the model labels single tokens.
        """
        if (Path(name) / SETTINGS_FILE).is_file():
            if max_length is not None:
                raise InputError(
                    f"--max-length: {max_length} given, but an artifact truncates texts to its own length; remove it"
                )
            return _artifact(name)
        return _checkpoint(name, max_length)

    def pair_column(self, given: str | None) -> str | None:
        """Return the column of the second texts; None for single texts.

        Raises:
            InputError: It is given for an artifact of single texts.
        """
        if self.takes_pairs is False and given is not None:
            raise InputError(
                f"--text-pair-column: {given!r:.60} given, but this artifact takes single texts; remove it"
            )
        return given if self.takes_pairs is None else (given or PAIR_COLUMN) if self.takes_pairs else None


def _artifact(name: str) -> LabellingModel:
    import numpy as np

    from ...export.runtime.classifier import TextClassifier

    classifier = TextClassifier.load(name)
    _refuse_tokens(name, of_tokens=classifier.of_tokens)

    def compute(texts: Sequence[TextOrPair], report: ReportProgress) -> np.ndarray:
        parts = []
        for start in range(0, len(texts), _BATCH):
            # Run one text at a time, since 8-bit results depend on the batch.
            parts.append(classifier.logits(texts[start : start + _BATCH], batch_size=1))
            done = min(start + _BATCH, len(texts))
            report(Progress(f"{done:,} of {len(texts):,} texts", {"done": done, "total": len(texts)}))
        return np.concatenate(parts)

    return LabellingModel(classifier.labels, classifier.takes_pairs, compute)


def _refuse_tokens(name: str, *, of_tokens: bool) -> None:
    if of_tokens:
        raise InputError(
            f"--teacher: {name!r:.100} given, which labels the tokens of a text, but a file of logits has a row for "
            "each text; use a checkpoint of it as teacher.checkpoint"
        )


def _checkpoint(name: str, max_length: int | None) -> LabellingModel:
    import torch

    from ...training import tasks
    from ...training.checkpoints.load import (
        check_max_length,
        label_names,
        load_classifier,
        most_tokens,
        resolve_checkpoint,
    )
    from ...training.checkpoints.loading import naming
    from ...training.data.tokenized import tokenize_split
    from ...training.models.inference import compute_logits
    from ...training.tasks.config import task_of_checkpoint

    with naming("--teacher"):
        directory = resolve_checkpoint(name)
        task = tasks.TASKS[task_of_checkpoint(directory) or tasks.SINGLE_LABEL.name]
        _refuse_tokens(name, of_tokens=task.of_tokens)
        model, tokenizer = load_classifier(directory, task)
        length = max_length or min(_MOST_TOKENS, most_tokens(model) or _MOST_TOKENS)
    if max_length is not None:
        check_max_length(model, max_length, "teacher")

    def compute(texts: Sequence[TextOrPair], report: ReportProgress) -> np.ndarray:
        split = tokenize_split(texts, None, tokenizer, length)
        threads = torch.get_num_threads()
        found = compute_logits(
            model, split, pad_token_id=tokenizer.pad_token_id, num_threads=threads, report=report
        )
        return flat(found)

    return LabellingModel(label_names(model), None, compute)
