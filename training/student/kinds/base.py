"""Student kinds: the registry, and the section ``student`` with the keys and methods of every kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from ....progress import ReportProgress
from ....texts import TextOrPair
from ...section import Section, Seed
from ...section_registry import SectionRegistry
from ...tasks import SINGLE_LABEL, Task

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from ...checkpoints.unfinished import UnfinishedTraining
    from ..piece_states import StatesCache


@dataclass(frozen=True)
class StudentInputs:
    """What a student is built from.

    Attributes:
        teacher_dir: The prepared teacher.
        label_names: Labels in the data's order; the student's head has this order.
        max_length: Tokens that texts are cut to; None skips the check of the student's positions.
        texts: Training texts.
        more_texts: Texts without labels.
        labels: Labels of the training texts.
        validation_texts: Texts on which the coverage of a trimmed vocabulary is measured.
        num_threads: Intra-op threads; None does not change them.
        use_gpu: Whether a GPU may be used; None uses one if available.
        report: Called with the progress.
        task: The task of student and teacher.
        unfinished: Place for the last completed epoch of a pretraining.
        states: Keeps the teacher's states of word pieces for other students; None: they are not kept.
    """

    teacher_dir: Path
    label_names: list[str]
    max_length: int | None = None
    texts: Sequence[TextOrPair] = ()
    more_texts: Sequence[TextOrPair] = ()
    labels: Sequence[Any] = ()
    validation_texts: Sequence[TextOrPair] = ()
    num_threads: int | None = None
    use_gpu: bool | None = None
    report: ReportProgress | None = None
    task: Task = SINGLE_LABEL
    unfinished: UnfinishedTraining | None = None
    states: StatesCache | None = None


@dataclass(frozen=True)
class BuiltStudent:
    """A student before its training.

    Attributes:
        model: The classifier.
        tokenizer: Its tokenizer.
        record: What is recorded of it: ``family``, ``num_layers``, ``num_embeddings`` (distinct rows of the token
            embedding), ``parity`` (see :class:`~.logit_change.StepParity`), and further entries of the kind. For a
            model without layers, ``num_layers`` is None and ``shape`` describes it.
    """

    model: PreTrainedModel
    tokenizer: Any
    record: dict[str, Any]


class StudentConfig(Section):
    """The student to train, with the keys that all kinds share."""

    kind: str = Field(default="layers", description="What the student is made of.")
    seed: Seed = Field(
        default=0, description="Seed of weights that are not copied. Default: the job's `seed`."
    )

    source_key: ClassVar[str | None] = None
    """Key that names the checkpoint whose tokenizer the student has; None: it has the teacher's."""
    checkpoint_keys: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Paths within the section of keys that name a checkpoint; those in local directories are uploaded with a job."""
    searched_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that a search may vary, as ``search.space: {student.KEY: …}``."""
    job_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Values of keys of other sections that suit this kind, by section; they apply where the job gives none."""
    has_layers: ClassVar[bool] = True
    """Whether it has transformer layers, with attention and hidden states."""

    @property
    def source(self) -> str | None:
        """Name of the checkpoint whose tokenizer the student has; None: it has the teacher's."""
        return None if self.source_key is None else getattr(self, self.source_key)

    @property
    def own_tokenizer(self) -> bool:
        """Whether its tokenizer differs from the teacher's, so that texts are tokenized again for it."""
        return self.source is not None

    @property
    def is_pretrained(self) -> bool:
        """Whether building the student trains it."""
        return False

    @property
    def is_costly(self) -> bool:
        """Whether building the student trains it or runs the teacher, with the resources of a teacher's training."""
        return self.is_pretrained

    def at_low_cost(self) -> Self:
        """Return the section of a student of the same shape that is not ``is_costly``, to measure its training."""
        return self

    def checkpoints(self) -> dict[tuple[str, ...], str]:
        """Return the checkpoints that the section names, by the path of their key within it."""
        found: dict[tuple[str, ...], str] = {}
        for path in self.checkpoint_keys:
            at: Any = self
            for key in path:
                at = None if at is None else getattr(at, key)
            if at is not None:
                found[path] = at
        return found

    def why_teacher_model(self) -> str | None:
        """Return why the student needs a teacher that can be run, with the remedy; None if it does not."""
        return None

    def with_searched(self, values: Mapping[str, Any], teacher_dir: Path) -> Self:
        """Return the section with a trial's values of ``searched_keys``.

        Raises:
            ModelError: The teacher has no such student.
        """
        return self

    def pieces_read(
        self, tokenizer: Any, texts: Sequence[TextOrPair], others: Sequence[TextOrPair]
    ) -> Sequence[int]:
        """Return the ids of the word pieces that the teacher reads one by one when the student is built.

        Args:
            tokenizer: The teacher's tokenizer.
            texts: Training texts.
            others: Texts without labels.
        """
        del tokenizer, texts, others
        return ()

    def check_shapes(
        self, teacher: PreTrainedConfig, searched: Mapping[str, Sequence[Any]]
    ) -> PreTrainedConfig:
        """Reject a student that cannot be built, as far as the models' configurations show it.

        Args:
            teacher: Configuration of the teacher.
            searched: Ends of the range, or the choices, of each of ``searched_keys`` that the search varies.

        Returns:
            Configuration of the model that the student is made from.

        Raises:
            ModelError: The message has the key, its value and what is available.
        """
        return teacher

    def model_configs(
        self, source: PreTrainedConfig, searched: Mapping[str, Sequence[Any]]
    ) -> list[PreTrainedConfig]:
        """Return the configurations of the models that the section describes, as far as export variants depend on them.

        Args:
            source: Configuration of the model that the student is made from.
            searched: As for :meth:`check_shapes`.
        """
        del searched
        return [source]

    def check_pruning(self, source: PreTrainedConfig) -> None:
        """Reject the pruning of a student whose matrices cannot be pruned.

        Args:
            source: Configuration of the model that the student is made from.

        Raises:
            ModelError: The message has the key and the remedy.
        """
        from ...models.families import family_of

        family_of(source, "training.pruning", "layers")

    def check_checkpoints(
        self, teacher: str | None, task: Task = SINGLE_LABEL, max_length: int | None = None
    ) -> None:
        """Reject checkpoints that are damaged or do not fit together.

        Args:
            teacher: The teacher's checkpoint, or the one that it is fine-tuned from; None: it is trained from scratch.
            task: The task of student and teacher.
            max_length: Tokens that a checkpoint must be able to take; None: any number.

        Raises:
            ModelError: The message has the key that names the checkpoint.
        """

    def check_new_tokenizer(self, make: Callable[[], Any]) -> None:
        """Reject keys that do not fit the tokenizer that a teacher trained from scratch will have.

        Args:
            make: Trains and returns that tokenizer, which takes a moment.

        Raises:
            ModelError: The message has the key and the values accepted.
        """

    def build(self, inputs: StudentInputs) -> BuiltStudent:
        """Build the student; torch is seeded with ``seed``.

        Raises:
            ModelError: A model cannot be used; the message has the key that names it.
        """
        raise NotImplementedError


STUDENT_KINDS: SectionRegistry[StudentConfig] = SectionRegistry("kind")
