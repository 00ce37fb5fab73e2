"""The base class of tasks, which relate texts, labels and logits, and the registry of tasks.

Shapes: N texts, B texts of a batch, C outputs of the model for a text. Importing this loads neither torch nor
transformers, because reading a specification imports it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import InputError, shown
from ...texts import TextOrPair, texts_of
from ..data.label_kinds import NAMES, LabelKind
from ..ragged import Ragged, Rows, flat
from ..registry import Registry
from .measured import Measured
from .metrics import LabelCounts

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ..data.tokenized import LabelledSplit, TokenizedSplit


LEAST_PROBABILITY = 1e-6
"""Lower bound of another model's probabilities before their logarithm is taken."""


@dataclass(frozen=True)
class OutOfScope:
    """Support for a threshold for out-of-scope texts, in tasks where a text has one class.

    Attributes:
        predictions: Function from logits[N, C] to the class of each text without a threshold, int[N].
    """

    predictions: Callable[[np.ndarray], np.ndarray]


class Task(Measured):
    """The training losses, metrics and decoding of a model's logits.

    Predictions, labels and logits are arrays whose first axis is texts, or ``Ragged`` rows of tokens. The entry of the
    same name in ``export/runtime/tasks`` decodes logits where torch is not installed.

    Attributes:
        name: The value of the job's key ``task``.
        description: One phrase, for the documentation.
        title, does, answer: For a model card: the kind of model, what it does (with ``{num}`` outputs), and the form of
            its answer.
        example: For a model card: the argument of an example call, as Python source; empty for a text or a pair.
        pipeline: What transformers and the model hub call the task.
        text_columns: Columns of the data that the model reads.
        columns: Key of a source with columns -> default name of the column; empty: the defaults of every source.
        fixed_outputs: Names of the model's outputs if they are the same for all data; otherwise empty.
        label_column: Column of the data that holds the labels.
        label_kind: How labels are read, from a file's values to the numbers in that column.
        label_dtype: NumPy name of the labels' type.
        auto_class: Name of the transformers class that selects each family's model and head.
        problem_type: What transformers calls the task in a model's configuration; None if it has no name for it.
        of_tokens: Whether the head reads the state of every token, so that labels, logits and predictions are
            ``Ragged`` rows of [L] and [L, C]. Otherwise outputs are those of texts, computed from the first token's
            state alone if the family's head reads no other.
        of_windows: Whether a text is a pair of a question and a context, read in windows, which are the rows of a
            tokenized split. Predictions and metrics are still those of questions, with one answer each.
        padding_logit: Logit of padding in padded logits [B, L, C] that a loss receives as they are.
        has_label_sets: Whether a text may have any number of labels, each predicted by a logit above 0.
        starts_head: Whether a new head is adapted to the labels of the training texts, see ``start_head``.
        scales_head: Whether the learning rate of the head depends on the labels, see ``head_scale``.
        has_temperature: Whether the soft loss depends on the temperature.
        has_label_smoothing: Whether the hard loss has label smoothing.
        out_of_scope: None if the task cannot predict out-of-scope texts.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    title: ClassVar[str] = "Text classifier"
    does: ClassVar[str] = "Classifies a text as one of {num} labels."
    answer: ClassVar[str] = '{"label": …, "score": …}'
    example: ClassVar[str] = ""
    pipeline: ClassVar[str] = "text-classification"
    text_columns: ClassVar[tuple[str, ...]] = ("text",)
    columns: ClassVar[Mapping[str, str]] = {}
    fixed_outputs: ClassVar[tuple[str, ...]] = ()
    label_column: ClassVar[str] = "label"
    label_kind: ClassVar[LabelKind] = NAMES
    label_dtype: ClassVar[str]
    auto_class: ClassVar[str]
    problem_type: ClassVar[str | None] = None
    of_tokens: ClassVar[bool] = False
    of_windows: ClassVar[bool] = False
    padding_logit: ClassVar[float] = 0.0
    has_label_sets: ClassVar[bool] = False
    starts_head: ClassVar[bool] = False
    scales_head: ClassVar[bool] = False
    has_temperature: ClassVar[bool] = True
    has_label_smoothing: ClassVar[bool] = True
    out_of_scope: OutOfScope | None = None

    def tokenize(self, rows: Any, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenizedSplit:
        """Tokenize the columns of N rows, cut to ``max_length`` tokens, with their labels."""
        return self.tokenize_labelled(texts_of(rows), rows[self.label_column][:], tokenizer, max_length)

    def tokenize_labelled(
        self,
        texts: Sequence[TextOrPair],
        labels: Sequence[Any],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
    ) -> TokenizedSplit:
        """Tokenize N texts, cut to ``max_length`` tokens, with labels as the data's column holds them."""
        from ..data.tokenized import tokenize_split

        return tokenize_split(texts, np.asarray(labels, dtype=self.label_dtype), tokenizer, max_length)

    def tokenize_texts(
        self,
        texts: Sequence[TextOrPair],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        num_outputs: int,
    ) -> TokenizedSplit:
        """Tokenize N texts that only a teacher labels, cut to ``max_length`` tokens.

        Args:
            texts: The texts.
            tokenizer: Tokenizer of the model that reads them.
            max_length: Tokens that texts are cut to.
            num_outputs: C, the number of the head's outputs.
        """
        from ..data.tokenized import tokenize_split

        return tokenize_split(texts, self.missing_labels(len(texts), num_outputs), tokenizer, max_length)

    def with_logits_of(
        self, split: LabelledSplit, texts: Sequence[TextOrPair], old: Any, new: Any, max_length: int
    ) -> LabelledSplit:
        """Return a split with the teacher's logits moved to its own tokens.

        Args:
            split: N texts in the tokens of ``new``, with the teacher's logits on them in the tokens of ``old``.
            texts: The same texts.
            old: The teacher's tokenizer.
            new: The student's tokenizer.
            max_length: Tokens that texts are cut to.
        """
        del texts, old, new, max_length
        return split

    @abstractmethod
    def missing_labels(self, num_texts: int, num_outputs: int) -> np.ndarray:
        """Return the labels of N texts that only a teacher labels; of the type and shape of other labels."""

    # ---- Model ------------------------------------------------------------------------------------------

    @abstractmethod
    def num_outputs(self, label_names: Sequence[str]) -> int:
        """Return C, the number of the head's outputs for these labels."""

    def model_class(self, config: PreTrainedConfig) -> type[PreTrainedModel] | None:
        """Return the class of transformers for models of this family, or None if the family has none."""
        import transformers

        return getattr(transformers, self.auto_class)._model_mapping.get(type(config), None)

    def model_config(self, label_names: Sequence[str]) -> dict[str, Any]:
        """Return the fields of a model's configuration that define its head, with C entries of ``id2label``."""
        return {
            "id2label": dict(enumerate(label_names)),
            "label2id": {name: number for number, name in enumerate(label_names)},
            "problem_type": self.problem_type,
        }

    def head_scale(self, labels: Any) -> float:
        """Return the ratio of the head's learning rate to that of the other weights; called only if ``scales_head``.

        A head whose outputs have the labels' unit, such as thousands of euros, must learn proportionally faster.

        Args:
            labels: Labels of the training texts; missing ones are ignored.
        """
        del labels
        return 1.0

    def labels_of_head(self, labels: Sequence[Any]) -> np.ndarray:
        """Return the labels for ``start_head``, or an empty array if it reads none."""
        return np.asarray(labels if self.starts_head else [], dtype=self.label_dtype)

    def start_head(self, head: Any, labels: np.ndarray) -> None:
        """Adapt a new head, a ``torch.nn.Linear``, to the labels of the training texts, in place."""
        del head, labels

    # ---- Losses -----------------------------------------------------------------------------------------

    def examples(self, batch: Mapping[str, Any]) -> Tensor | None:
        """Return the tokens of a batch that a loss is averaged over, or None if it is averaged over the B texts.

        Tokens are ascending indices into the flattened batch [B · L], int64[W]. The losses receive the logits, labels
        and teacher's logits of these tokens only, so that B below is their number.
        """
        del batch
        return None

    @abstractmethod
    def hard_loss(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        num_items: Tensor | int | None = None,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss against the labels, a scalar in float32; texts without a label are ignored.

        Args:
            logits: [B, C].
            labels: Labels of the same texts.
            num_items: Divisor of the sum over texts; by default the number of labelled ones, or the sum of their
                weights.
            label_smoothing: Weight of the uniform distribution, 0 to 1.
            class_weights: [C], weight of the texts of each class; given only to a task that has ``text_classes``.
        """

    @abstractmethod
    def soft_loss(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        *,
        temperature: float,
        num_items: Tensor | int | None = None,
    ) -> Tensor:
        """Compute the loss against the teacher's logits, a scalar in float32, without gradient to the teacher.

        Args:
            student_logits: [B, C].
            teacher_logits: [B, C].
            temperature: T, above 0.
            num_items: Divisor of the sum over texts; default B.
        """

    @abstractmethod
    def with_own_labels(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return the labels of B texts, missing ones replaced by the predictions of logits[B, C]."""

    @abstractmethod
    def known_labels(self, labels: Any, num_outputs: int) -> Any:
        """Return a copy of the labels of N texts, without those that a head of ``num_outputs`` cannot predict."""

    def validation_loss(self, logits: Rows, labels: Rows) -> float:
        """Compute the hard loss of all logits of a split, as ``compute_logits`` returns them."""
        import torch

        values = flat(logits)
        known = flat(self.known_labels(labels, values.shape[-1]))
        return float(self.hard_loss(torch.from_numpy(values), torch.from_numpy(known)))

    def text_classes(self, labels: Any) -> np.ndarray | None:
        """Return the class of each text, int[N], -100 for none; None for a task whose texts have no single class."""
        del labels
        return None

    def label_sets(self, labels: Tensor, num_outputs: int) -> Tensor:
        """Return which labels each of N texts has, bool[N, C].

        Args:
            labels: Labels of N texts.
            num_outputs: C.

        Raises:
            NotImplementedError: Texts of this task cannot share labels.
        """
        raise NotImplementedError

    @property
    def shares_labels(self) -> bool:
        """Whether texts can share labels, so that ``label_sets`` is implemented."""
        return type(self).label_sets is not Task.label_sets

    # ---- Predictions ------------------------------------------------------------------------------------

    def class_probabilities(self, logits: Any) -> np.ndarray | None:
        """Return the probabilities of the classes, float[N, C]; None for a task whose texts have no single class."""
        del logits
        return None

    def logits_of_probabilities(self, probabilities: np.ndarray) -> np.ndarray | None:
        """Return logits float[N, C] of another model's probabilities; None for a task without probabilities."""
        del probabilities
        return None

    def warnings(
        self, texts: Sequence[TextOrPair], labels: Sequence[Any], label_names: Sequence[str]
    ) -> list[str]:
        """Return what of the labels of N texts cannot be learned; labels are as the data's column holds them."""
        del texts, labels, label_names
        return []

    def measured_labels(self, texts: Sequence[TextOrPair], labels: Sequence[Any]) -> np.ndarray:
        """Return the labels of N texts in the form of ``predictions``, [N, ...], independent of any tokenizer.

        Args:
            texts: The texts.
            labels: Their labels, as the data's column holds them.
        """
        del texts
        return np.asarray(labels, dtype=self.label_dtype)

    def predictions_of_words(self, texts: Sequence[TextOrPair], spans: Ragged, logits: Ragged) -> np.ndarray:
        """Return the predictions for N texts, [N, ...], from the logits of their words.

        Args:
            texts: The texts.
            spans: Rows of int64[W, 2]: first character of each word that the model reads, and the one after its last.
            logits: Rows of float32[W, C].

        Raises:
            NotImplementedError: The task is not ``of_tokens``.
        """
        raise NotImplementedError

    def measured_on(
        self,
        split: TokenizedSplit,
        logits: Rows,
        out_of_scope_id: int | None = None,
        *,
        also: Iterable[str] = (),
        label_names: Sequence[str] = (),
    ) -> dict[str, float | None]:
        """Measure the predictions of a split's logits, as ``compute_logits`` returns them; else like ``measured``."""
        return self.measured(
            self.predictions(logits), split.labels, out_of_scope_id, also=also, label_names=label_names
        )

    def counted_names(self, label_names: Sequence[str]) -> list[str]:
        """Return the names of what ``label_counts`` counts."""
        return list(label_names)

    @property
    def has_classes(self) -> bool:
        """Whether each text has one class, so that ``class_probabilities`` returns probabilities."""
        return type(self).class_probabilities is not Task.class_probabilities

    @abstractmethod
    def correct(self, predictions: Any, labels: Any) -> np.ndarray | None:
        """Return whether each prediction is correct, bool[N], for the paired comparison of models.

        None for a task whose predictions are neither right nor wrong.
        """

    def changed(self, predictions: np.ndarray, others: np.ndarray) -> np.ndarray | None:
        """Return whether each of N predictions differs from another model's, bool[N].

        None for a task whose predictions are neither right nor wrong.
        """
        same = self.correct(predictions, others)
        return None if same is None else ~same

    def label_counts(
        self, predictions: np.ndarray, labels: np.ndarray, num_labels: int
    ) -> LabelCounts | None:
        """Count the texts of each label, [C]; None for a task without named labels."""
        del predictions, labels, num_labels
        return None

    @property
    def has_named_labels(self) -> bool:
        """Whether labels have names, as the model's outputs then do too; otherwise labels are numbers."""
        return self.label_kind.strata_are_labels


TASKS: Registry[Task] = Registry()
"""Registered tasks by name; importing the package registers them."""


def get(name: str) -> Task:
    """Return the task with this name.

    Raises:
        InputError: No task has this name.
    """
    if name not in TASKS:
        raise InputError(f"task: {shown(name)} given; accepted: {', '.join(TASKS.names)}")
    return TASKS[name]
