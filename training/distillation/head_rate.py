"""The learning rate of a head whose weights grow with the numbers that it predicts."""

from __future__ import annotations

from typing import Any

import torch

from ..checkpoints.heads import head_of
from ..data.collator import LABEL_NAMES
from ..data.sampling import dataset_labels
from ..tasks import Task


def scale_head(optimizer: torch.optim.Optimizer, model: Any, task: Task, dataset: Any) -> None:
    """Multiply the head's learning rate by the task's ``head_scale``; the decay of its weights stays the same.

    Args:
        optimizer: Its parameter groups are divided, in place.
        model: The model without wrappers.
        task: The task; without ``scales_head``, nothing is changed.
        dataset: The training set, whose labels determine the factor.
    """
    if not task.scales_head or not hasattr(dataset, "__len__"):
        return
    labels = dataset_labels(dataset, LABEL_NAMES)
    scale = 1.0 if labels is None else task.head_scale(labels)
    own = {id(parameter) for parameter in head_of(model, "model").parameters()}
    for group in list(optimizer.param_groups):
        head = [parameter for parameter in group["params"] if id(parameter) in own]
        if not head:
            continue
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
        faster = {"lr": group["lr"] * scale, "weight_decay": group["weight_decay"] / scale}
        optimizer.add_param_group({**group, "params": head, **faster})
