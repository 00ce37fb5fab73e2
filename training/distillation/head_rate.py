"""The learning rate of a head whose weights are as large as the numbers that it predicts."""

from __future__ import annotations

from typing import Any

import torch

from ..checkpoints.heads import head_of
from ..data.collator import LABEL_NAMES
from ..data.sampling import dataset_labels
from ..tasks import Task


def scale_head(optimizer: torch.optim.Optimizer, model: Any, task: Task, dataset: Any) -> None:
    """Let the head learn as many times faster as the task says; the decay of its weights stays the same.

    Args:
        optimizer: Its groups are divided, in place.
        model: The model without wrappers.
        task: The task; one without ``scales_head`` changes nothing.
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
