"""Labels with few training texts: how many there are, and the remedies."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..config import DataConfig
    from ..text_data import TextData

FEW_TEXTS = 16
"""A label has few training texts below this number; contrastive fine-tuning gains most there (arXiv 2209.11055)."""


@dataclass(frozen=True)
class FewLabels:
    """Labels with fewer than ``FEW_TEXTS`` training texts, at least one; the out-of-scope label is not counted.

    Attributes:
        num_few: Number of these labels.
        num_labels: Number of all labels.
        median: Median number of training texts of a label.
    """

    num_few: int
    num_labels: int
    median: float

    @property
    def are_most(self) -> bool:
        """Whether the median label has few texts; if not, only a tail of rare labels does."""
        return self.median < FEW_TEXTS

    def in_words(self) -> str:
        """Describe the numbers in one phrase."""
        have = "has" if self.num_few == 1 else "have"
        return (
            f"{self.num_few:,} of {self.num_labels:,} labels {have} fewer than {FEW_TEXTS} training texts (the median "
            f"has {self.median:g})"
        )

    def advice(self, data: DataConfig, teacher_remedy: str | None, *, has_classes: bool = True) -> str:
        """Return the remedies that a job has.

        Args:
            data: The section ``data``.
            teacher_remedy: What the teacher can do, ``TeacherConfig.remedy_for_few_texts``; None: nothing.
            has_classes: Whether each text has one class, which can be balanced.
        """
        if not self.are_most:
            rare = (
                "rare ones alone: data.min_examples_per_label with data.rare: drop or other leaves them out or merges "
                "them"
            )
            return f"{rare}, training.balance gives them more weight" if has_classes else rare
        has_more = data.unlabelled is not None or any(each is not None for _, each in data.augmentation)
        texts = "let the teacher label more texts for the student (data.unlabelled, data.augmentation)"
        remedies = [teacher_remedy, None if has_more else texts]
        return "; ".join(filter(None, remedies)) or "more labelled texts would help most"

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return {**asdict(self), "are_most": self.are_most}


def few_labels(data: TextData) -> FewLabels | None:
    """Count the labels (or types of entities) with few training texts; None if none has, or they have no names."""
    counts = data.label_kind.counts(data.splits["train"]["label"][:], data.label_names) or {}
    in_scope = [count for name, count in counts.items() if name != data.out_of_scope_label]
    num_few = sum(count < FEW_TEXTS for count in in_scope)
    return FewLabels(num_few, len(in_scope), float(median(in_scope))) if num_few else None
