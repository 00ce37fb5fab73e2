"""The teacher's outputs for the loss: cached logits, or a teacher that is run on the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ...errors import InputError, ModelError
from ..data.tokenized import EXAMPLES, TOKEN_TYPES
from ..models.attention_mask import PADDED, with_known_padding
from ..models.token_types import forward_names, reads_token_types
from .arguments import DistillationTrainingArguments
from .losses.base import NEED_TEACHER_MODEL, Need, needs_of, terms_of

TEACHER_COLUMN = "teacher_logits"


class TeacherTargets:
    """Provide the teacher's outputs for a batch's loss; the constructor checks that they fit the student.

    Args:
        student: The student without wrappers.
        teacher: The teacher, or ``None`` if only a ``teacher_logits`` column is available.
        args: The training arguments, read at every batch, so that a search may change alpha later.

    Raises:
        InputError: A term of the loss needs the teacher itself, and it is missing or does not fit.
        ModelError: Teacher and student have the same labels in different orders.
    """

    def __init__(self, student: Any, teacher: Any, args: DistillationTrainingArguments) -> None:
        self.teacher = teacher
        self.args = args
        self.student_columns = _columns_of(student)
        self.teacher_columns = _columns_of(teacher) if teacher is not None else set()
        self._student = student
        self._configs = (getattr(student, "config", None), getattr(teacher, "config", None))
        self._placed = False
        self._check_labels()
        self._check_terms()

    def check_dataset(self, dataset: Any) -> None:
        """Raise ``InputError`` before the first step where a term needs teacher logits and nothing provides them."""
        if (
            "teacher_logits" not in needs_of(terms_of(self.args))
            or self.teacher is not None
            or dataset is None
        ):
            return
        names = getattr(dataset, "column_names", None)
        if names is None and not isinstance(dataset, IterableDataset) and len(dataset):
            first = dataset[0]
            names = list(first) if isinstance(first, Mapping) else None
        if names is not None and TEACHER_COLUMN not in names:
            raise self._missing_teacher_error()

    def student_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of the student's forward, without labels, from which it would compute its own loss."""
        features = _inputs_for(self.student_columns, self.teacher_columns, inputs)
        return with_known_padding(self._student, features, inputs.get(PADDED))

    def of_batch(
        self, inputs: Mapping[str, Any], device: torch.device, needs: frozenset[Need]
    ) -> tuple[Tensor | None, Mapping[str, Any] | None]:
        """Return the teacher's logits[B, C] and all its outputs, each None where no term of the loss needs it."""
        cached = inputs.get(TEACHER_COLUMN)
        if needs & NEED_TEACHER_MODEL:
            outputs = self._run(inputs, device, with_states="hidden_states" in needs)
            return (outputs["logits"] if cached is None else cached), outputs
        return (self.logits(inputs, device) if "teacher_logits" in needs else None), None

    def logits(self, inputs: Mapping[str, Any], device: torch.device) -> Tensor:
        """Return the teacher's logits[B, C] from the batch, or by running the teacher on it."""
        cached = inputs.get(TEACHER_COLUMN)
        return self._run(inputs, device)["logits"] if cached is None else cached

    def _run(self, inputs: Mapping[str, Any], device: torch.device, *, with_states: bool = False) -> Any:
        if self.teacher is None:
            raise self._missing_teacher_error()
        if not self._placed:
            self.teacher.to(device)
            self._placed = True
        self.teacher.eval()
        features = _inputs_for(self.teacher_columns, self.student_columns, inputs)
        features = with_known_padding(self.teacher, features, inputs.get(PADDED))
        if with_states:
            features["output_hidden_states"] = True
        # Not under the student's autocast: online logits must equal the cached ones.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self.teacher(**features)

    def _missing_teacher_error(self) -> InputError:
        needs = [each for each in terms_of(self.args) if each.weight > 0 and "teacher_logits" in each.needs]
        setting, remedy = (
            (needs[0].setting(self.args), needs[0].remedy())
            if needs
            else ("eval_with_teacher is true", "set eval_with_teacher to false")
        )
        return InputError(
            f"{setting}, so a teacher is needed, but there is neither a teacher_model nor a {TEACHER_COLUMN!r} "
            f"column in the data; pass one of them, or {remedy}"
        )

    def _check_labels(self) -> None:
        student, teacher = (_label_names(config) for config in self._configs)
        # The same names in another order would silently train the wrong classes.
        if student and teacher and student != teacher and sorted(student) == sorted(teacher):
            raise ModelError(
                "teacher and student have the same labels in different orders (id2label of their configs); reorder "
                "the rows of one head to match the other"
            )

    def _check_terms(self) -> None:
        student, teacher = self._configs
        for term in terms_of(self.args):
            if term.weight == 0:
                continue
            if self.teacher is None and term.needs & NEED_TEACHER_MODEL:
                raise InputError(
                    f"{term.setting(self.args)} but there is no teacher_model, and cached logits contain no hidden "
                    f"states; pass teacher_model, or {term.remedy()}"
                )
            term.check(student, teacher)


def _inputs_for(columns: set[str], other_columns: set[str], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch's inputs for a model, without those that only the other model reads."""
    left_out = {"labels", TEACHER_COLUMN, PADDED, EXAMPLES, *({*other_columns, TOKEN_TYPES} - columns)}
    return {name: value for name, value in inputs.items() if name not in left_out}


def _columns_of(model: Any) -> set[str]:
    """Return the inputs that a model reads; token types among them where they change its result."""
    names = forward_names(model)
    return names if reads_token_types(model) else names - {TOKEN_TYPES}


def _label_names(config: Any) -> list[str]:
    """Return the label names in the order of their ids, or an empty list for default names."""
    names = getattr(config, "id2label", None) or {}
    ordered = [str(names[index]) for index in sorted(names)]
    return [] if all(name.startswith("LABEL_") for name in ordered) else ordered
