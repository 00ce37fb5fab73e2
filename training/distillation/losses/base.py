"""Loss terms: the registry, the section of a term with its weight, and the tensors that a term is computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from ...registry import Registry
from ...section import Section, Weight
from ...tasks import SINGLE_LABEL, Task

if TYPE_CHECKING:
    from torch import Tensor

Need = Literal["labels", "teacher_logits", "hidden_states", "teacher"]
"""An input that not every training has.

``teacher_logits`` may be cached; for ``hidden_states`` and ``teacher`` the teacher is run on every batch.
"""

NEED_TEACHER_MODEL: frozenset[Need] = frozenset({"hidden_states", "teacher"})
"""Needs that cached logits cannot meet."""

SECTION = "training.losses"
"""Path of the sections of the terms that have one."""


@dataclass(frozen=True)
class LossInputs:
    """The tensors of one micro-batch of B examples, C classes, L tokens and width D.

    Attributes:
        logits: [B, C] of the student.
        num_items: Divisor of a sum over examples: the number of examples of the whole optimizer step.
        labels: [B], -100 for an example without label; None where the batch has none.
        teacher_logits: [B, C]; None where no term needs them.
        attention_mask: [B, L], 1 for a token, 0 for padding; None where nothing is padded.
        outputs: All outputs of the student, by name.
        teacher_outputs: All outputs of the teacher, without gradient; None where it was not run.
        task: What is learned; it has the losses against labels and against the teacher's logits.
    """

    logits: Tensor
    num_items: Tensor | int
    labels: Tensor | None = None
    teacher_logits: Tensor | None = None
    attention_mask: Tensor | None = None
    outputs: Mapping[str, Any] | None = None
    teacher_outputs: Mapping[str, Any] | None = None
    task: Task = SINGLE_LABEL

    def missing(self, needs: frozenset[Need]) -> list[Need]:
        """Return those of the needs that this batch does not meet, in the order of their names."""
        values = {
            "labels": self.labels,
            "teacher_logits": self.teacher_logits,
            "hidden_states": (self.teacher_outputs or {}).get("hidden_states"),
            "teacher": self.teacher_outputs,
        }
        return [need for need in sorted(needs) if values[need] is None]

    @property
    def states(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Hidden states of student and teacher: of the embeddings and then of each layer, each [B, L, D]."""
        assert self.outputs is not None and self.teacher_outputs is not None
        return self.outputs["hidden_states"], self.teacher_outputs["hidden_states"]


class LossTerm(Section):
    """A term of the loss with its weight and its other keys; registered as a class.

    The loss is the sum of ``weight * value(inputs)`` over the terms that have weight. A term without ``argument`` is
    configured by its section ``training.losses.NAME``, and its keys may be searched under that path.
    """

    weight: Weight = Field(default=1.0, description="Weight of this term in the loss; 0 leaves it out.")

    name: ClassVar[str]
    """Name under which the unweighted value is logged."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """Inputs without which the value cannot be computed."""
    argument: ClassVar[str | None] = None
    """Training argument that sets the weight; None: the section does."""
    off: ClassVar[float] = 0
    """Value of that argument at which the weight is 0."""
    always_logged: ClassVar[bool] = False
    """Whether the value is computed, without gradient, where the weight is 0 and the needs are met."""

    @classmethod
    def path(cls) -> str:
        """Return the name of the weight in a search space."""
        return f"{SECTION}.{cls.name}.weight" if cls.argument is None else cls.argument

    @classmethod
    def of_arguments(cls, args: Any) -> Self:
        """Return the term as ``DistillationTrainingArguments`` configure it; without a section its weight is 0."""
        given = (args.losses or {}).get(cls.name)
        return cls.model_construct(weight=0.0) if given is None else cls.model_validate(given)

    def setting(self, args: Any) -> str:
        """Return what gives the term its weight, for an error: ``alpha is 0.5``."""
        if self.argument is None:
            return f"losses.{self.name}.weight is {self.weight:g}"
        return f"{self.argument} is {getattr(args, self.argument)}"

    def remedy(self) -> str:
        """Return how to take the term out of the loss, for an error: ``set alpha to 1``."""
        name = f"losses.{self.name}.weight" if self.argument is None else self.argument
        return f"set {name} to {self.off:g}"

    def check(self, student_config: Any, teacher_config: Any) -> None:
        """Refuse models that the term cannot compare; called before training where it has weight.

        Args:
            student_config: transformers configuration of the student.
            teacher_config: That of the teacher; None where there are only its logits.

        Raises:
            InputError: The parameter, what the models have, and the remedy.
        """

    def value(self, inputs: LossInputs) -> Tensor:
        """Return the unweighted value, a scalar: a sum over the examples, divided by ``inputs.num_items``.

        Raises:
            ValueError: The inputs do not fit one another.
        """
        raise NotImplementedError


LOSS_TERMS: Registry[type[LossTerm]] = Registry()


def with_sections() -> dict[str, type[LossTerm]]:
    """Return the terms that are configured by a section of ``training.losses``, by name."""
    return {term.name: term for term in LOSS_TERMS if term.argument is None}


def section_paths() -> dict[str, tuple[str, str]]:
    """Return ``training.losses.NAME.KEY`` of every key of such a section -> NAME and KEY."""
    return {
        f"{SECTION}.{name}.{key}": (name, key)
        for name, term in with_sections().items()
        for key in term.model_fields
    }


def terms_of(args: Any) -> list[LossTerm]:
    """Return every registered term as ``DistillationTrainingArguments`` configure it."""
    return [term.of_arguments(args) for term in LOSS_TERMS]


def needs_of(terms: list[LossTerm]) -> frozenset[Need]:
    """Return the needs of the terms that have weight."""
    return frozenset(need for term in terms if term.weight > 0 for need in term.needs)
