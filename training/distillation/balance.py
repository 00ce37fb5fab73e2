"""Balance labels with different numbers of training texts, by weights in the loss or by a sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ..data.collator import LABEL_NAMES
from ..data.sampling import dataset_labels
from ..data.tokenized import IGNORED_LABEL
from ..tasks import Task
from .arguments import DistillationTrainingArguments
from .losses.base import LabelWeights


class ClassBalance:
    """The classes of the training texts, by which a loss or a sampler is balanced.

    Args:
        classes: int64[N], class of each training text; ``IGNORED_LABEL`` for a text that only a teacher labels.
        num_classes: C, the number of the model's classes.
        mode: ``class_weights`` or ``sampler``.
        device: Device of the loss.
    """

    def __init__(self, classes: np.ndarray, num_classes: int, mode: str, device: torch.device) -> None:
        self.drawn = classes if mode == "sampler" else None
        """Classes for a sampler, int64[N]; None where the loss is weighted."""
        self._weights: Tensor | None = None
        if mode == "class_weights":
            self._weights = torch.from_numpy(class_weights(classes, num_classes)).to(device)

    def total_weight(self, batches: Sequence[Mapping[str, Any]]) -> Tensor | None:
        """Return the sum of the weights of some micro-batches; None if the loss is not weighted.

        An example without a label counts 1, the mean weight of the labelled training texts, so that weighing changes
        neither the size of the loss nor its ratio to the other terms.
        """
        if self._weights is None:
            return None
        total = self._weights.new_zeros(())
        for batch in batches:
            labels = batch.get("labels")
            if labels is None:
                total = total + len(next(iter(batch.values())))
                continue
            known = labels != IGNORED_LABEL
            weights = self._weights.to(labels.device)[labels.long().where(known, 0)]
            total = total + weights.where(known, 1).sum().to(total.device)
        return total

    def label_weights(self, total: Tensor | None) -> LabelWeights | None:
        """Return the weights for the loss with their sum over the optimizer step; None where it is not weighted."""
        return None if self._weights is None or total is None else LabelWeights(self._weights, total)


def class_weights(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Return N / (K · n_c) for each class c, float32[C].

    N is the number of labelled texts, K the number of classes among them and n_c the number of texts of c, as
    scikit-learn's ``class_weight="balanced"`` (King and Zeng, "Logistic Regression in Rare Events Data", 2001). The
    mean weight of the labelled texts is 1, which is also the weight of a class without texts.

    Args:
        classes: int64[N], ``IGNORED_LABEL`` for a text without a label.
        num_classes: C, the length of the result; C >= K.
    """
    counts = np.bincount(classes[classes != IGNORED_LABEL], minlength=num_classes)
    weights = np.ones(len(counts))
    present = counts > 0
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights.astype(np.float32)


def class_balance(
    args: DistillationTrainingArguments, task: Task, dataset: Any, num_classes: int
) -> ClassBalance | None:
    """Return the balance that ``args.balance`` requests; None if it is ``none``, or there is no training dataset.

    Raises:
        InputError: The task or the dataset does not allow it.
    """
    if args.balance == "none" or dataset is None:
        return None
    given = f"balance is {args.balance!r}"
    if not hasattr(dataset, "__len__"):
        raise InputError(
            f"{given}, but a stream of rows has no known number of texts per label; set it to 'none'"
        )
    labels = dataset_labels(dataset, LABEL_NAMES)
    if labels is None:
        raise InputError(f"{given}, but no training text has a label; set it to 'none'")
    classes = task.text_classes(labels)
    if classes is None:
        raise InputError(f"{given}, but a text has no single class in the task {task.name}; accepted: 'none'")
    classes = np.asarray(classes, dtype=np.int64)
    if not (classes != IGNORED_LABEL).any():
        raise InputError(f"{given}, but no training text has a label; set it to 'none'")
    return ClassBalance(classes, num_classes, args.balance, args.device)
