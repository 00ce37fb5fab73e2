"""Measure how a step that makes a model smaller changes its logits, before any training recovers them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ...texts import TextOrPair
from ..data.tokenized import IGNORED_LABEL
from ..models.inference import compute_logits
from ..ragged import Ragged, Rows, flat, offsets_of
from ..tasks import SINGLE_LABEL, Task

if TYPE_CHECKING:
    from .kinds.base import StudentInputs

NUM_TEXTS = 512
NUM_TOKENS = 64
"""Tokens that texts are cut to where a student is built without a number."""


class StepParity:
    """Compare a classifier's logits before and after a step, on at most ``NUM_TEXTS`` texts.

    Args:
        texts: Training texts, of which evenly spaced ones are used; without any, nothing is compared.
        max_length: Tokens that texts are cut to.
        num_threads: Intra-op threads; None does not change them.
        use_gpu: Whether a GPU may be used; None uses one if available.
        task: The classifier's task.

    Attributes:
        steps: For each step its name ``step``, ``logits_rmse``, the root mean squared difference of the logits divided
            by their standard deviation before the step, and ``predictions_changed``, the share of texts, 0 to 1, whose
            prediction changed. Both are None if nothing is compared; the share is None if predictions are numbers.
    """

    def __init__(
        self,
        texts: Sequence[TextOrPair],
        *,
        max_length: int,
        num_threads: int | None,
        use_gpu: bool | None,
        task: Task = SINGLE_LABEL,
    ) -> None:
        spread = np.linspace(0, len(texts) - 1, num=min(len(texts), NUM_TEXTS))
        rows: list[int] = spread.round().astype(int).tolist()
        self._texts = [texts[row] for row in rows]
        self._max_length = max_length
        self._num_threads = num_threads
        self._use_gpu = use_gpu
        self._task = task
        self._before: Rows | None = None
        self.steps: list[dict[str, Any]] = []

    @classmethod
    def of_student(cls, inputs: StudentInputs, *, has_head: bool) -> StepParity:
        """Return the comparison of a student's steps; nothing is compared while its head is new."""
        return cls(
            inputs.texts if has_head else [],
            max_length=inputs.max_length or NUM_TOKENS,
            num_threads=inputs.num_threads,
            use_gpu=inputs.use_gpu,
            task=inputs.task,
        )

    def before(self, model: PreTrainedModel, tokenizer: Any) -> None:
        """Record the model's logits before a step."""
        self._before = self._logits(model, tokenizer)

    def after(self, step: str, model: PreTrainedModel, tokenizer: Any) -> None:
        """Compare the logits after a step, computed with the current tokenizer."""
        after = self._logits(model, tokenizer)
        found: dict[str, Any] = {"logits_rmse": None, "predictions_changed": None}
        if self._before is not None and after is not None:
            found = compare_logits(self._before, after, self._task)
        self.steps.append({"step": step, **found})

    def _logits(self, model: PreTrainedModel, tokenizer: Any) -> Rows | None:
        """Return the logits of the texts, or of their words, and move the model to the CPU."""
        if not self._texts:
            return None
        num_outputs = int(model.config.num_labels or 0)
        split = self._task.tokenize_texts(self._texts, tokenizer, self._max_length, num_outputs)
        logits = compute_logits(
            model,
            split,
            pad_token_id=tokenizer.pad_token_id,
            num_threads=self._num_threads or torch.get_num_threads(),
            use_gpu=self._use_gpu,
        )
        network: Any = model
        network.cpu()
        return of_labelled(logits, split.labels)


def of_labelled(logits: Rows, labels: Rows) -> Rows:
    """Return the logits of each text's labelled tokens if labels are those of tokens, otherwise all logits."""
    if not isinstance(logits, Ragged) or not isinstance(labels, Ragged):
        return logits
    known = flat(labels) != IGNORED_LABEL
    return Ragged(logits.values[known], offsets_of(known.astype(np.int64))[logits.offsets])


def compare_logits(before: Rows, after: Rows, task: Task = SINGLE_LABEL) -> dict[str, float | None]:
    """Return ``logits_rmse`` and ``predictions_changed`` of two float[N, C], as defined in :class:`StepParity`.

    With logits of words, rows of float[W, C], a text whose number of words has changed counts as changed. If the number
    of windows has changed, nothing is compared: both values are None.
    """
    num_texts = len(before)
    if len(after) != num_texts:
        return {"logits_rmse": None, "predictions_changed": None}
    if isinstance(before, Ragged) and isinstance(after, Ragged):
        alike = np.flatnonzero(before.lengths == after.lengths)
        before, after = before[alike], after[alike]
    given: tuple[Any, Any] = before, after
    old, new = (flat(each).astype(float) for each in given)
    error = np.sqrt(np.mean(np.square(new - old))) if old.size else 0.0
    spread = max(float(old.std()) if old.size else 0.0, float(np.finfo(np.float32).tiny))
    changed = task.changed(*(task.predictions(each) for each in reversed(given)))
    num_unlike = num_texts - len(before)
    return {
        "logits_rmse": float(error) / spread,
        "predictions_changed": None if changed is None else float(changed.sum() + num_unlike) / num_texts,
    }
