"""Inputs of a trial: the texts and logits that all trials share, and the settings of the search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ...training import tasks
from ..space.space import SPARSITY, TEXT_COUNTS
from ..space.students import Student, student_name
from ..student_arguments import STUDENT_KIND

if TYPE_CHECKING:
    import numpy as np

    from ...storage.store import Store
    from ...training.compression.config import PruningConfig
    from ...training.data.tokenized import LabelledSplit, TokenizedSplit
    from ...training.distillation.config import TrainingConfig


@dataclass(frozen=True)
class StudentTexts:
    """The texts in the word pieces of one kind of student.

    Attributes:
        train: Training texts by kind, as in ``TrialInputs``.
        validation: Tokenized validation split.
    """

    train: dict[str, LabelledSplit]
    validation: TokenizedSplit

    @classmethod
    def of(cls, splits: Mapping[str, LabelledSplit]) -> StudentTexts:
        """Return the texts from all splits by name."""
        train = {kind: split for kind, split in splits.items() if kind != "validation"}
        return cls(train, splits["validation"].tokens)


@dataclass(frozen=True)
class TrialInputs:
    """Inputs that all trials share through Ray's object store, without a copy per worker and therefore read-only.

    Attributes:
        students: The published checkpoints that trials start from, by ``student_name``; each node fetches them.
        train: Training texts by kind: ``train``, then the transfer set's kinds. Without logits if alpha is 1 in every
            trial.
        validation: Tokenized validation split, on which all trials are evaluated.
        out_of_scope_id: Label id of texts outside every intent; None if the data has no such label.
        label_names: Label names, in the data's order.
        teacher: Key of the teacher's published checkpoint, for trials whose ``hidden_loss_weight`` is above 0.
        task: Name of the task.
        metric: Metric of the job, in which the best epoch is shown; None for the task's first metric.
        accuracy_with_threshold: Function of logits[N, C] and labels of the validation split, for ``THRESHOLD_METRIC``;
            None if the job has no out-of-scope threshold.
        respelled: If the kind of student is searched, the texts for each kind with a tokenizer of its own.
    """

    students: dict[str, Student]
    train: dict[str, LabelledSplit]
    validation: TokenizedSplit
    out_of_scope_id: int | None
    label_names: list[str]
    teacher: str | None = None
    task: str = "single_label"
    metric: str | None = None
    accuracy_with_threshold: Callable[[np.ndarray, np.ndarray], float] | None = None
    respelled: dict[str, StudentTexts] = field(default_factory=dict)

    @property
    def has_threshold(self) -> bool:
        """Whether every epoch reports ``THRESHOLD_METRIC``."""
        return self.accuracy_with_threshold is not None

    @property
    def goal(self) -> str:
        """The metric in which the best epoch is shown."""
        return self.metric or tasks.get(self.task).goal[0]

    def of(self, arguments: Mapping[str, Any]) -> TrialInputs:
        """Return the inputs of a trial with these arguments, whose texts are in the word pieces of its student."""
        own = self.respelled.get(arguments.get(STUDENT_KIND, ""))
        return self if own is None else replace(self, train=own.train, validation=own.validation)

    def trained_on(self, arguments: Mapping[str, Any]) -> list[LabelledSplit]:
        """Return the training texts of a trial; if the count of a kind is searched, only its first texts."""
        counts = {kind: arguments[name] for name, kind in TEXT_COUNTS.items() if name in arguments}
        return [split.first(counts[kind]) if kind in counts else split for kind, split in self.train.items()]

    def student_of(self, arguments: Mapping[str, Any]) -> Student:
        """Return the student that a trial with these arguments starts from."""
        return self.students[student_name(arguments)]


@dataclass(frozen=True)
class TrialSettings:
    """Settings that all trials of a search share.

    Attributes:
        training: Arguments that are not searched.
        metric: Metric to optimise.
        mode: ``max`` or ``min``.
        store: The run store.
        experiment: Key of Tune's folder; each trial has a folder below it, named after the trial.
        tensorboard: Key of the event files, likewise with one folder per trial.
        logs: Key of the trials' logs, likewise.
        num_threads: Threads of a trial.
        use_gpu: Whether a trial trains on a GPU.
        num_processes: Data-parallel processes of a trial.
        gpu_share: A trial's share of the memory of a GPU that several trials share. A trial that exceeds it fails
            without affecting the others.
        also: Further metrics of the task that the search names, measured after every epoch.
        checkpoint_every_s: Seconds after which an epoch gets a checkpoint even if it is not the best; 0: every epoch.
        mps: Directory of the Multi-Process Service of each node that has one, by the node's id.
    """

    training: TrainingConfig
    metric: str
    mode: Literal["max", "min"]
    store: Store
    experiment: str
    tensorboard: str
    logs: str
    num_threads: int
    use_gpu: bool
    num_processes: int = 1
    gpu_share: float = 1.0
    also: tuple[str, ...] = ()
    checkpoint_every_s: float = 0.0
    mps: Mapping[str, str] = field(default_factory=dict)

    def training_of(self, arguments: Mapping[str, Any]) -> TrainingConfig:
        """Return the ``training`` section of a trial with these arguments: that of its kind of student."""
        return self.training.of_kind(arguments.get(STUDENT_KIND))

    def pruning_of(self, arguments: Mapping[str, Any]) -> PruningConfig | None:
        """Return the pruning configuration of a trial with these arguments."""
        pruning = self.training.pruning
        if pruning is None or SPARSITY not in arguments:
            return pruning
        return pruning.model_copy(update={"sparsity": arguments[SPARSITY]})

    def counts_from(self, num_steps: int) -> float:
        """Return the fraction of a trial's steps after which pruning is complete; 0 without pruning."""
        pruning = self.training.pruning
        return 0.0 if pruning is None else pruning.mask_steps(num_steps)[-1] / num_steps
