"""The classification head, and the mapping of its rows to labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from ...errors import ModelError, shown
from ..models.families import family_names, find_family
from ..tasks import SINGLE_LABEL, Task
from .load import label_names, load_config, load_model

_NUM_SHOWN = 10
# Usual module paths of the head's linear layer in transformers; tried where the family is not registered.
_USUAL_PLACES = ("classifier.out_proj", "classifier")


def match_labels(
    model: PreTrainedModel, names: Sequence[str], what: str = "teacher", task: Task = SINGLE_LABEL
) -> None:
    """Reorder the rows of a classifier's head to the order of ``names``, matching labels by name.

    Afterwards ``logits[:, i]`` is the score of ``names[i]``, and the configuration is updated accordingly.

    Raises:
        ModelError: The labels of the model and ``names`` differ, or the model's have only numbers.
    """
    own = label_names(model)
    check_labels(own, names, what)
    rows = torch.tensor([own.index(name) for name in names])
    head = head_of(model, what)
    with torch.no_grad():
        head.weight.copy_(head.weight[rows])
        if head.bias is not None:
            head.bias.copy_(head.bias[rows])
    for field, value in task.model_config(names).items():
        setattr(model.config, field, value)


def check_labels(own: Sequence[str], names: Sequence[str], what: str = "teacher") -> None:
    """Check that a classifier's labels are ``names``, in any order.

    Raises:
        ModelError: The labels differ, or the classifier's have only numbers.
    """
    if len(own) == 1:
        raise ModelError(
            f"{what}: its num_labels is 1, so its head outputs one number and cannot distinguish labels; use a "
            f"classifier with the data's {len(names)} labels, or fine-tune a {what} on this data"
        )
    if sorted(own) != sorted(names):
        if all(name == f"LABEL_{number}" for number, name in enumerate(own)):
            raise ModelError(
                f"{what}: its {len(own)} labels have no names (LABEL_0, LABEL_1, …), and labels are not matched by "
                f"position; set id2label and label2id in its config.json, in the order it was "
                "trained with"
            )
        raise ModelError(
            f"{what}: its labels differ from the data's; only the {what} has: "
            f"{_listed(set(own) - set(names))}; only the data has: {_listed(set(names) - set(own))}; "
            f"rename them in id2label and label2id of its config.json, or fine-tune a {what} on this data"
        )


def load_with_labels(name: str | Path, names: Sequence[str], task: Task = SINGLE_LABEL) -> PreTrainedModel:
    """Load a checkpoint as a task's model of ``names`` in this order; seed torch first.

    A head for the same labels is kept, its rows matched by name. A head for other labels is replaced by a new one,
    even if it has the same number of rows.

    Raises:
        ModelError: The checkpoint cannot be loaded.
    """
    if has_labels(name, names):
        model = load_model(name, task=task)
        match_labels(model, names, "checkpoint", task)
        return model
    model = load_model(name, task=task, **task.model_config(names))
    head = head_of(model, "checkpoint")
    nn.init.normal_(head.weight, std=getattr(model.config, "initializer_range", 0.02))
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    return model


def has_labels(name: str | Path, names: Sequence[str]) -> bool:
    """Return whether a checkpoint has exactly these labels, in any order."""
    return sorted(label_names(load_config(name))) == sorted(names)


def head_of(model: PreTrainedModel, key: str = "teacher") -> nn.Linear:
    """Return the linear layer whose row i gives logit i.

    Args:
        model: A sequence classifier.
        key: The parameter that names the model, for the error message.

    Raises:
        ModelError: The structure of its head is not supported.
    """
    family, modules = find_family(model), dict(model.named_modules())
    for place in _USUAL_PLACES if family is None else (family.classifier,):
        if isinstance(head := modules.get(place), nn.Linear):
            return head
    raise ModelError(
        f"{key}: {shown(model.config.model_type)} given, whose classification head is not supported; supported: "
        f"{family_names()}, and models with the same structure"
    )


def _listed(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:_NUM_SHOWN]) or "none"
    return shown + (f" and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else "")
