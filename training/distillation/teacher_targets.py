"""What the student listens to: cached logits, or a teacher that is run on the batch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ...errors import InputError, ModelError
from .arguments import DistillationTrainingArguments

TEACHER_COLUMN = "teacher_logits"


class TeacherSignal:
    """The teacher's part in a batch's loss, checked against the student when it is made.

    Args:
        student: the student without wrappers.
        teacher: the teacher, or ``None`` where only a ``teacher_logits`` column can speak for it.
        args: read at every batch, so that a search may change alpha afterwards.

    Raises:
        InputError: ``hidden_loss_weight`` is above 0 and the teacher is missing or does not fit.
        ModelError: teacher and student order the same labels differently.
    """

    def __init__(self, student: Any, teacher: Any, args: DistillationTrainingArguments) -> None:
        self.teacher = teacher
        self.args = args
        self.student_columns = _forward_names(student)
        self.teacher_columns = _forward_names(teacher) if teacher is not None else set()
        self._configs = (getattr(student, "config", None), getattr(teacher, "config", None))
        self._matched: list[int] | None = None
        self._placed = False
        self._check_labels()
        if self.uses_hidden_states:
            self._hidden_layers()

    @property
    def uses_hidden_states(self) -> bool:
        """Whether matched layers have weight in the loss."""
        return self.args.hidden_loss_weight > 0

    def check_dataset(self, dataset: Any) -> None:
        """Say before the first step that nothing can play the teacher; raises ``InputError``."""
        if self.args.alpha >= 1 or self.teacher is not None or dataset is None:
            return
        names = getattr(dataset, "column_names", None)
        if names is None and not isinstance(dataset, IterableDataset) and len(dataset):
            first = dataset[0]
            names = list(first) if isinstance(first, Mapping) else None
        if names is not None and TEACHER_COLUMN not in names:
            raise self._nothing_to_listen_to()

    def student_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What the student's forward is given: never the labels, or it would compute a loss of its own."""
        return _inputs_for(self.student_columns, self.teacher_columns, inputs)

    def of_batch(self, inputs: Mapping[str, Any], device: torch.device) -> tuple[Tensor | None, list[Tensor]]:
        """Teacher logits[B, C] (``None``: no weight) and the matched hidden states, each [B, L, D]."""
        cached = inputs.get(TEACHER_COLUMN)
        if self.uses_hidden_states:
            outputs = self._run(inputs, device)
            states = [outputs["hidden_states"][index] for index in self._hidden_layers()]
            return (outputs["logits"] if cached is None else cached), states
        return (None if self.args.alpha >= 1 else self.logits(inputs, device)), []

    def logits(self, inputs: Mapping[str, Any], device: torch.device) -> Tensor:
        """Teacher logits[B, C]: those in the batch, else those of the teacher, run on it."""
        cached = inputs.get(TEACHER_COLUMN)
        return self._run(inputs, device)["logits"] if cached is None else cached

    def _run(self, inputs: Mapping[str, Any], device: torch.device) -> Any:
        if self.teacher is None:
            raise self._nothing_to_listen_to()
        if not self._placed:
            self.teacher.to(device)
            self._placed = True
        self.teacher.eval()
        features = _inputs_for(self.teacher_columns, self.student_columns, inputs)
        if self.uses_hidden_states:
            features["output_hidden_states"] = True
        # Not under the student's autocast: online logits must equal the cached ones.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self.teacher(**features)

    def _nothing_to_listen_to(self) -> InputError:
        return InputError(
            f"alpha is {self.args.alpha}, so the teacher has weight, and there is neither a teacher_model "
            f"nor a {TEACHER_COLUMN!r} column in the data; pass one of them, or set alpha to 1"
        )

    def _check_labels(self) -> None:
        student, teacher = (_label_names(config) for config in self._configs)
        # The same names in another order would silently teach the wrong classes.
        if student and teacher and student != teacher and sorted(student) == sorted(teacher):
            raise ModelError(
                "teacher and student have the same labels in different order (id2label of their configs); "
                "reorder the rows of one head to the other's order"
            )

    def _hidden_layers(self) -> list[int]:
        """Index into the teacher's hidden_states for each layer of the student."""
        if self._matched is None:
            if self.teacher is None:
                raise InputError(
                    f"hidden_loss_weight is {self.args.hidden_loss_weight} and there is no teacher_model: "
                    "cached logits hold no hidden states; pass teacher_model, or set hidden_loss_weight to 0"
                )
            # hidden_states[0] is the embeddings' output.
            layers = matched_layers(*self._configs, self.args.hidden_layers)
            self._matched = [layer + 1 for layer in layers]
        return self._matched


def matched_layers(student_config: Any, teacher_config: Any, layers: list[int] | None) -> list[int]:
    """The teacher's layer (from 0) for each layer of the student.

    Args:
        student_config: transformers configuration of the student.
        teacher_config: the same of the teacher.
        layers: the choice of the person; ``None`` spaces them evenly, the last matched with the last.

    Raises:
        InputError: widths differ, or ``layers`` does not name one existing layer for each of the student's.
    """
    own, others = student_config.num_hidden_layers, teacher_config.num_hidden_layers
    if student_config.hidden_size != teacher_config.hidden_size:
        raise InputError(
            f"hidden_loss_weight needs equal widths: the student's is {student_config.hidden_size}, the "
            f"teacher's {teacher_config.hidden_size}; set hidden_loss_weight to 0, or make the student from "
            "the teacher's layers"
        )
    if layers is None:
        return [max(0, (index + 1) * others // own - 1) for index in range(own)]
    if len(layers) != own or not all(0 <= layer < others for layer in layers):
        raise InputError(
            f"hidden_layers is {layers}; accepted: {own} numbers, one for each student layer, "
            f"each from 0 to {others - 1}"
        )
    return layers


def _inputs_for(columns: set[str], other_columns: set[str], inputs: Mapping[str, Any]) -> dict[str, Any]:
    left_out = {"labels", TEACHER_COLUMN, *(other_columns - columns)}
    return {name: value for name, value in inputs.items() if name not in left_out}


def _forward_names(model: Any) -> set[str]:
    # accelerate keeps the forward that it wrapped for mixed precision.
    forward = getattr(model, "_original_forward", None) or model.forward
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(forward).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind not in kinds}


def _label_names(config: Any) -> list[str]:
    """Label names in order of their ids; empty where they are only the default ones."""
    names = getattr(config, "id2label", None) or {}
    ordered = [str(names[index]) for index in sorted(names)]
    return [] if all(name.startswith("LABEL_") for name in ordered) else ordered
