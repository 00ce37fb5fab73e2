"""The classification head, and the mapping of its rows to labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ...errors import ModelError, shown
from ..models.families import family_names, find_family
from ..tasks import SINGLE_LABEL, Task
from .load import has_own_head, label_names, load_config, load_model

_NUM_SHOWN = 10
# Usual module paths of the head's linear layer in transformers; tried where the family is not registered.
_USUAL_PLACES = ("classifier.out_proj", "classifier", "qa_outputs")


@dataclass(frozen=True)
class LabelMatch:
    """The mapping of a classifier's labels to those of the data.

    Attributes:
        renamed: Names in the data by the classifier's own names, where the two differ.
        drop: Whether labels that the data lack are dropped.
        key: Path of the section that sets both, for the error message; empty where no section does.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False
    key: str = ""

    def positions(
        self, own: Sequence[str], names: Sequence[str], what: str, task: Task = SINGLE_LABEL
    ) -> list[int]:
        """Return the position of each of ``names`` among a model's own labels.

        Outputs of a task without named labels are called after the data's columns; where a checkpoint's names are
        others, its outputs are taken in order.

        Raises:
            ModelError: The labels differ, or the model's labels have no names.
        """
        if not task.has_named_labels:
            return self._positions_of_numbers(own, names, what)
        unknown = [name for name in self.renamed if name not in own]
        if unknown:
            raise ModelError(
                f"{self.key}.labels: {_listed(set(unknown))} given, but the labels of {what} are "
                f"{_listed(set(own))}; accepted: its labels"
            )
        called = [self.renamed.get(name, name) for name in own]
        twice = next((name for name in called if called.count(name) > 1), None)
        if twice is not None:
            both = ", ".join(each for each, name in zip(own, called, strict=True) if name == twice)
            raise ModelError(
                f"{what}: its labels {both} have the same name {shown(twice)}; give it to one of them"
                f"{f' in {self.key}.labels' if self.key else ''}"
            )
        if len(own) == 1 and task.has_classes:
            raise ModelError(
                f"{what}: its num_labels is 1, so its head outputs one number and cannot distinguish labels; set task: "
                f"regression if the labels are numbers, use a classifier with the data's {len(names)} labels, or "
                f"fine-tune a {what} on this data"
            )
        missing, extra = set(names) - set(called), set(called) - set(names)
        if missing or (extra and not self.drop):
            unnamed = all(name == f"LABEL_{number}" for number, name in enumerate(own))
            what_differs = (
                f"its {len(own)} labels have no names (LABEL_0, LABEL_1, …), and labels are not matched by position"
                if unnamed
                else f"its labels differ from the data's; only the {what} has: {_listed(extra)}; only the data has: "
                f"{_listed(missing)}"
            )
            raise ModelError(f"{what}: {what_differs}; {self._remedy(own, missing, extra, unnamed=unnamed)}")
        return [called.index(name) for name in names]

    def _positions_of_numbers(self, own: Sequence[str], names: Sequence[str], what: str) -> list[int]:
        if len(own) != len(names):
            raise ModelError(
                f"{what}: its head has {len(own)} outputs, but the data has {len(names)} numbers for each text "
                f"({', '.join(names)!s:.100}); use a checkpoint with as many, or fine-tune a {what} on this data"
            )
        called = [self.renamed.get(name, name) for name in own]
        return [called.index(name) for name in names] if set(called) == set(names) else list(range(len(own)))

    def _remedy(self, own: Sequence[str], missing: set[str], extra: set[str], *, unnamed: bool) -> str:
        """Return the remedy for labels that only the data has (``missing``) or only the model has (``extra``)."""
        rename = "set id2label and label2id in its config.json, in the order it was trained with"
        if unnamed and not self.key:
            return rename
        remedies = []
        if missing and extra:
            others = [name for name in own if self.renamed.get(name, name) in extra]
            alike = {name: each for name in others for each in missing if _letters(name) == _letters(each)}
            pairs = list((alike or {others[0]: min(missing)}).items())[:3]
            example = ", ".join(f"{_yaml(name)}: {_yaml(each)}" for name, each in pairs)
            rename = rename if unnamed else "rename them in id2label and label2id of its config.json"
            remedies.append(f"rename them by {self.key}.labels: {{{example}}}" if self.key else rename)
        if len(extra) > len(missing) and self.key:
            remedies.append(f"{'and ' if remedies else ''}ignore the others by {self.key}.drop_labels: true")
        return ", ".join([*remedies, f"{'or ' if remedies else ''}fine-tune a teacher on this data"])


def match_labels(
    model: PreTrainedModel,
    names: Sequence[str],
    what: str = "teacher",
    task: Task = SINGLE_LABEL,
    match: LabelMatch | None = None,
) -> None:
    """Reorder the rows of a classifier's head to the order of ``names``, matching labels by name.

    Afterwards ``logits[:, i]`` is the score of ``names[i]``, rows of other labels are dropped, and the configuration
    is updated accordingly.

    Raises:
        ModelError: The labels of the model and ``names`` differ, or the model's labels have no names.
    """
    positions = (match or LabelMatch()).positions(label_names(model), names, what, task)
    head, rows = head_of(model, what), torch.tensor(positions)
    with torch.no_grad():
        head.weight = nn.Parameter(head.weight[rows], requires_grad=head.weight.requires_grad)
        if head.bias is not None:
            head.bias = nn.Parameter(head.bias[rows], requires_grad=head.bias.requires_grad)
    head.out_features = len(positions)
    for name, value in task.model_config(names).items():
        setattr(model.config, name, value)
    attributes: Any = model
    if hasattr(model, "num_labels"):
        attributes.num_labels = len(names)  # the losses of transformers read it


def load_with_labels(
    name: str | Path, names: Sequence[str], task: Task = SINGLE_LABEL, labels: np.ndarray | None = None
) -> PreTrainedModel:
    """Load a checkpoint as a task's model of ``names`` in this order; seed torch first.

    A head for the same labels is kept, its rows matched by name. A head for other labels is replaced by a new one,
    even if it has the same number of rows; the new head is adapted to ``labels``, those of the training texts.

    Raises:
        ModelError: The checkpoint cannot be loaded.
    """
    if has_labels(name, names, task):
        model = load_model(name, task=task)
        match_labels(model, names, "checkpoint", task)
        return model
    model = load_model(name, task=task, **task.model_config(names))
    head = head_of(model, "checkpoint")
    nn.init.normal_(head.weight, std=getattr(model.config, "initializer_range", 0.02))
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    if task.starts_head and labels is not None and len(labels):
        task.start_head(head, labels)
    return model


def has_labels(name: str | Path, names: Sequence[str], task: Task = SINGLE_LABEL) -> bool:
    """Return whether a checkpoint has exactly these labels, in any order.

    A head of a task with ``fixed_outputs`` always has them, whatever their names.
    """
    config = load_config(name)
    if task.fixed_outputs:
        return (model_class := task.model_class(config)) is not None and has_own_head(model_class, config)
    return sorted(label_names(config)) == sorted(names)


def head_of(model: PreTrainedModel, key: str = "teacher") -> nn.Linear:
    """Return the linear layer whose row i gives logit i.

    In a family that is not registered, it is looked for at the usual places; failing that, it is the only layer
    outside of the encoder with as many outputs as the model.

    Args:
        model: A classifier of texts, of tokens or of spans.
        key: The parameter that names the model, for the error message.

    Raises:
        ModelError: The structure of its head is not supported.
    """
    family, modules = find_family(model), dict(model.named_modules())
    places = (
        _USUAL_PLACES
        if family is None
        else (family.classifier, family.token_classifier, family.span_classifier)
    )
    for place in places:
        if isinstance(head := modules.get(place), nn.Linear):
            return head
    if family is None and len(found := _with_outputs(model)) == 1:
        return found[0]
    raise ModelError(
        f"{key}: {shown(model.config.model_type)} given, whose classification head is not supported; supported: "
        f"{family_names()}, and models with the same structure"
    )


def _with_outputs(model: PreTrainedModel) -> list[nn.Linear]:
    """Return the linear layers outside of a model's encoder that have as many outputs as the model."""
    encoder = f"{model.base_model_prefix}."
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and not name.startswith(encoder)
        and module.out_features == model.config.num_labels
    ]


def _listed(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:_NUM_SHOWN]) or "none"
    return shown + (f" and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else "")


def _yaml(name: str) -> str:
    """Return a name as it is written in a YAML mapping."""
    return name if name.replace("_", "").isalnum() and name.isascii() and not name.isdigit() else shown(name)


def _letters(name: str) -> str:
    return "".join(each for each in name.casefold() if each.isalnum())
