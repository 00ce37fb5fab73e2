"""What a trial is given: the texts and logits that all trials share, and the settings of the search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

    from ..training.config import TrainingConfig
    from ..training.tokenized import TokenizedSplit


@dataclass(frozen=True)
class TrialInputs:
    """Shared by all trials through Ray's object store, without a copy a worker and therefore read-only.

    Attributes:
        student_dir: Checkpoint directory that every trial starts from; every node must see it.
        train: Tokenized training split.
        validation: Tokenized validation split, on which every choice is made.
        train_logits: The teacher's logits float32[num_train, num_labels]; None when alpha is 1 in every
            trial.
        validation_logits: The teacher's logits on the validation split; trials do not use them.
        out_of_scope_id: Label id of texts outside every intent, None where the data has no such label.
        label_names: Label names in the data's order.
        teacher_dir: The teacher's checkpoint directory, for trials whose ``hidden_loss_weight`` is above 0;
            every node must see it.
    """

    student_dir: str
    train: TokenizedSplit
    validation: TokenizedSplit
    train_logits: np.ndarray | None
    validation_logits: np.ndarray | None
    out_of_scope_id: int | None
    label_names: list[str]
    teacher_dir: str | None = None


@dataclass(frozen=True)
class TrialSettings:
    """The same for every trial of one search; directories are absolute."""

    training: TrainingConfig
    metric: str
    mode: Literal["max", "min"]
    experiment_dir: str
    tensorboard_dir: str
    num_threads: int
    use_gpu: bool
