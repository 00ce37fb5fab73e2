"""Loss terms: the registry, the section of a term with its weight, and the tensors that terms are computed from."""

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
"""An input of a loss term that may not be available in every training.

``teacher_logits`` may be cached; for ``hidden_states`` and ``teacher`` the teacher is run on every batch.
"""

NEED_TEACHER_MODEL: frozenset[Need] = frozenset({"hidden_states", "teacher"})
"""Inputs that cached logits cannot provide."""

SECTION = "training.losses"
"""Configuration path of the terms' sections."""


@dataclass(frozen=True)
class LabelWeights:
    """Weights of C classes in the loss against the labels.

    Attributes:
        by_class: float32[C].
        total: Divisor of the weighted sum over examples: the sum of the weights of the whole optimizer step, in which
            an example without a label counts 1.
    """

    by_class: Tensor
    total: Tensor


@dataclass(frozen=True)
class LossInputs:
    """The tensors of one micro-batch of B examples, C classes, L tokens and width D.

    An example is a text, or for a task of tokens a word; the masks and states are those of texts.

    Attributes:
        logits: [B, C] of the student.
        num_items: Divisor of a sum over examples: the number of examples of the whole optimizer step.
        num_texts: Divisor of a sum over texts, likewise; None: the examples are the texts.
        label_weights: Weights of the labels in the loss against them; None: all examples have equal weight.
        labels: [B], -100 for an example without a label; None where the batch has none.
        teacher_logits: [B, C]; None where no term needs them.
        attention_mask: [B, L], 1 for a token, 0 for padding; None where nothing is padded.
        outputs: All outputs of the student, by name.
        teacher_outputs: All outputs of the teacher, without gradient; None where it was not run.
        task: The task, which provides the losses against labels and against the teacher's logits.
    """

    logits: Tensor
    num_items: Tensor | int
    labels: Tensor | None = None
    teacher_logits: Tensor | None = None
    attention_mask: Tensor | None = None
    outputs: Mapping[str, Any] | None = None
    teacher_outputs: Mapping[str, Any] | None = None
    task: Task = SINGLE_LABEL
    label_weights: LabelWeights | None = None
    num_texts: Tensor | int | None = None

    @property
    def text_divisor(self) -> Tensor | int:
        """Divisor of a sum over texts."""
        return self.num_items if self.num_texts is None else self.num_texts

    def missing(self, needs: frozenset[Need]) -> list[Need]:
        """Return the needed inputs that this batch lacks, sorted by name."""
        values = {
            "labels": self.labels,
            "teacher_logits": self.teacher_logits,
            "hidden_states": (self.teacher_outputs or {}).get("hidden_states"),
            "teacher": self.teacher_outputs,
        }
        return [need for need in sorted(needs) if values[need] is None]

    @property
    def states(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the hidden states of student and teacher: of the embeddings, then of each layer, each [B, L, D]."""
        assert self.outputs is not None and self.teacher_outputs is not None
        return self.outputs["hidden_states"], self.teacher_outputs["hidden_states"]


class LossTerm(Section):
    """A term of the loss with its weight and other keys.

    The loss is the sum of ``weight * value(inputs)`` over the terms that have weight. A term without ``argument`` is
    configured by its section ``training.losses.NAME``, and its keys may be searched under that path.
    """

    weight: Weight = Field(default=1.0, description="Weight of this term in the loss; 0 omits it.")

    name: ClassVar[str]
    """Name under which the unweighted value is logged."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """Inputs required to compute the value."""
    argument: ClassVar[str | None] = None
    """Training argument that sets the weight; None: the section sets it."""
    off: ClassVar[float] = 0
    """Value of that argument at which the weight is 0."""
    always_logged: ClassVar[bool] = False
    """Whether the value is computed, without gradient, even if the weight is 0, provided its inputs are available."""

    @classmethod
    def path(cls) -> str:
        """Return the name of the weight in a search space."""
        return f"{SECTION}.{cls.name}.weight" if cls.argument is None else cls.argument

    @classmethod
    def of_arguments(cls, args: Any) -> Self:
        """Build the term from ``DistillationTrainingArguments``; without a section its weight is 0."""
        given = (args.losses or {}).get(cls.name)
        return cls.model_construct(weight=0.0) if given is None else cls.model_validate(given)

    def setting(self, args: Any) -> str:
        """Describe the setting of the term's weight for an error message, such as ``alpha is 0.5``."""
        if self.argument is None:
            return f"losses.{self.name}.weight is {self.weight:g}"
        return f"{self.argument} is {getattr(args, self.argument)}"

    def remedy(self) -> str:
        """Describe how to remove the term from the loss for an error message, such as ``set alpha to 1``."""
        name = f"losses.{self.name}.weight" if self.argument is None else self.argument
        return f"set {name} to {self.off:g}"

    def check(self, student_config: Any, teacher_config: Any) -> None:
        """Reject models that the term cannot compare; called before training if the term has weight.

        Args:
            student_config: transformers configuration of the student.
            teacher_config: transformers configuration of the teacher; None if only its logits are available.

        Raises:
            InputError: They cannot be compared; gives the parameter, the models' values and the remedy.
        """

    def value(self, inputs: LossInputs) -> Tensor:
        """Return the unweighted value, a scalar: a sum over the examples, divided by ``inputs.num_items``.

        Raises:
            ValueError: The inputs are inconsistent.
        """
        raise NotImplementedError


LOSS_TERMS: Registry[type[LossTerm]] = Registry()


def with_sections() -> dict[str, type[LossTerm]]:
    """Return the terms configured by a section of ``training.losses``, by name."""
    return {term.name: term for term in LOSS_TERMS if term.argument is None}


def section_paths() -> dict[str, tuple[str, str]]:
    """Map the path ``training.losses.NAME.KEY`` of every key of these sections to NAME and KEY."""
    return {
        f"{SECTION}.{name}.{key}": (name, key)
        for name, term in with_sections().items()
        for key in term.model_fields
    }


def terms_of(args: Any) -> list[LossTerm]:
    """Build every registered term from ``DistillationTrainingArguments``."""
    return [term.of_arguments(args) for term in LOSS_TERMS]


def needs_of(terms: list[LossTerm]) -> frozenset[Need]:
    """Return the inputs needed by the terms that have weight."""
    return frozenset(need for term in terms if term.weight > 0 for need in term.needs)
