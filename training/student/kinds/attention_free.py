"""The base of the student kinds without attention: their keys, their table of word pieces, and how they are built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ....errors import ModelError
from ....texts import TextOrPair
from ...section import ShareBelowOne, Width
from .base import BuiltStudent, StudentInputs
from .trimmed import TrimmedStudent

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_SIZES = ("hidden_size", "classifier_size", "dropout")


class AttentionFreeStudent(TrimmedStudent):
    """A student made of a table of word pieces, with the teacher's tokenizer."""

    hidden_size: Width = Field(default=128, description="Columns of the table of word pieces.")
    classifier_size: Width = Field(default=256, description="Columns of the hidden layer before the head.")
    dropout: ShareBelowOne = Field(
        default=0.1, description="Share of the pooled and of the hidden values that are dropped in training."
    )
    table: Literal["teacher", "random"] = Field(
        default="teacher",
        description="The table before training. teacher: the teacher's hidden states of each word piece alone, "
        "projected to their principal components; random: initialized at random.",
    )

    has_layers: ClassVar[bool] = False
    job_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "training": {"learning_rate": 3e-3, "batch_size": 128},
        "export": {"variants": ["student-pytorch-int8", "onnx", "onnx-int8", "onnx-int8-per-channel"]},
    }

    @model_validator(mode="after")
    def _table_has_directions(self) -> Self:
        if self.vocabulary is not None and self.vocabulary.others == "nearest" and self.table == "random":
            raise ValueError(
                "vocabulary.others: 'nearest' given, but with table 'random' no two word pieces are similar; set "
                "table to 'teacher', or vocabulary.others to 'spelled'"
            )
        return self

    @property
    def is_costly(self) -> bool:
        """Whether the teacher is run on each word piece to build the student."""
        return self.table == "teacher"

    def why_teacher_model(self) -> str | None:
        """Return that the table is made from the teacher's states, if it is."""
        if self.table == "random":
            return None
        return "student.table: it is made from the teacher's hidden states (set it to random)"

    def at_low_cost(self) -> Self:
        """Return the section with a random table."""
        return self.model_copy(update={"table": "random"})

    def pieces_read(
        self, tokenizer: Any, texts: Sequence[TextOrPair], others: Sequence[TextOrPair]
    ) -> Sequence[int]:
        """Return the ids of the word pieces whose rows are made from the teacher's states."""
        from ..vocabulary import pieces_of

        if self.table == "random":
            return ()
        if self.vocabulary is not None and self.loses_pieces:
            return pieces_of(tokenizer, self.vocabulary, texts, others)
        return range(_num_pieces(tokenizer))

    def with_searched(self, values: Mapping[str, Any], teacher_dir: Path) -> Self:
        """Return the section with a trial's values in place of its own."""
        return self.model_copy(update={key: values[key] for key in self.searched_keys if key in values})

    def check_shapes(
        self, teacher: PreTrainedConfig, searched: Mapping[str, Sequence[Any]]
    ) -> PreTrainedConfig:
        """Reject a table from a teacher without hidden states, or with more columns than these have."""
        if self.table == "random":
            return teacher
        if not hasattr(teacher, "num_hidden_layers"):
            raise ModelError(
                f"student.table: 'teacher' given, but the teacher, of type {teacher.model_type!r}, has no layers whose "
                "hidden states the table could be made from; set it to random, or use a transformer as teacher"
            )
        where, columns = "student.hidden_size", self.hidden_size
        if "hidden_size" in searched:
            where, columns = f"search.space.{where}", max(searched["hidden_size"])
        most: int = teacher.hidden_size
        if columns > most:
            raise ModelError(
                f"{where}: {columns} given, but the teacher's hidden states, from which the table is made, have {most} "
                f"columns; accepted: 1 to {most}; or set student.table to random"
            )
        return teacher

    def model_configs(
        self, source: PreTrainedConfig, searched: Mapping[str, Sequence[Any]]
    ) -> list[PreTrainedConfig]:
        """Return a configuration for each pooling."""
        del source
        if "pooling" not in searched:
            return [self.new_config({})]
        return [self.model_copy(update={"pooling": each}).new_config({}) for each in searched["pooling"]]

    def check_pruning(self, source: PreTrainedConfig) -> None:
        """Accept pruning: the matrices before the pooling are pruned."""

    def new_config(self, shapes: Mapping[str, Any]) -> PreTrainedConfig:
        """Return the model's configuration.

        Args:
            shapes: Fields that do not depend on the section: word pieces, padding, labels; those left out have their
                defaults.
        """
        raise NotImplementedError

    def common_sizes(self) -> dict[str, Any]:
        """Return the keys of every kind that are fields of its model's configuration."""
        return {name: getattr(self, name) for name in _SIZES}

    def shape_in_words(self) -> str:
        """Describe the model in a few words, such as ``384 filters``."""
        raise NotImplementedError

    def build(self, inputs: StudentInputs) -> BuiltStudent:
        """Create the model, fill its table, and trim its vocabulary, as far as configured.

        The record has ``num_layers`` None, ``shape``, ``vocabulary`` as for other kinds, and ``pieces``, the name of
        the teacher's states in the cache, None if the table is random.

        Raises:
            ModelError: The teacher cannot be used, or the vocabulary cannot be trimmed.
        """
        from ...checkpoints.heads import head_of
        from ...checkpoints.load import load_tokenizer, new_classifier
        from ..vocabulary import pieces_of, with_pieces

        tokenizer = load_tokenizer(inputs.teacher_dir)
        num_pieces = _num_pieces(tokenizer)
        shapes = {"vocab_size": num_pieces, "pad_token_id": tokenizer.pad_token_id}
        model = new_classifier(self.new_config(shapes | inputs.task.model_config(inputs.label_names)))
        kept: list[int] = []
        if self.vocabulary is not None:
            kept = pieces_of(tokenizer, self.vocabulary, inputs.texts, inputs.more_texts)
        pieces = kept if self.loses_pieces else range(num_pieces)
        name = self._fill_table(model, pieces, inputs) if self.table == "teacher" else None
        if inputs.task.starts_head and len(inputs.labels):
            labels = inputs.task.labels_of_head(inputs.labels)
            inputs.task.start_head(head_of(model, "student"), labels)
        record: dict[str, Any] = {
            "family": model.config.model_type,
            "num_layers": None,
            "shape": self.shape_in_words(),
            "num_embeddings": num_pieces,
            "parity": [],
            "pieces": name,
        }
        if self.vocabulary is not None:
            trimmed = with_pieces(model, tokenizer, self.vocabulary, kept, inputs.validation_texts)
            tokenizer, record["num_embeddings"], record["vocabulary"] = trimmed
        return BuiltStudent(model.eval(), tokenizer, record)

    def _fill_table(self, model: PreTrainedModel, pieces: Sequence[int], inputs: StudentInputs) -> str:
        """Set the rows of these pieces from the teacher's states; return the name of the states in the cache."""
        import torch

        from ..piece_states import states_of_pieces
        from ..piece_table import table_of_states

        states, name = states_of_pieces(
            inputs.teacher_dir,
            pieces,
            cache=inputs.states,
            num_threads=inputs.num_threads,
            use_gpu=inputs.use_gpu,
            task=inputs.task,
            report=inputs.report,
        )
        table: Any = model.get_input_embeddings()
        with torch.no_grad():
            rows = torch.from_numpy(table_of_states(states, self.hidden_size))
            table.weight[: model.config.vocab_size] = 0
            table.weight[torch.tensor(pieces), : self.hidden_size] = rows
            table.weight[table.padding_idx] = 0
        return name


def _num_pieces(tokenizer: Any) -> int:
    """Return the number of rows that a tokenizer's ids need."""
    return max(tokenizer.get_vocab().values()) + 1
