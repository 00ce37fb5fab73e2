"""The base of the student kinds with transformer layers: their keys, and how they are built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from ...pretraining.config import PretrainingConfig
from ...section import Layers
from ...tasks import SINGLE_LABEL, Task
from ..size_config import WidthConfig
from .base import BuiltStudent, StudentInputs
from .trimmed import TrimmedStudent

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class TransformerStudent(TrimmedStudent):
    """A student with layers of a transformer: of the teacher, or of a checkpoint."""

    layers: Layers | None = Field(default=None, description="Which layers to keep.")
    width: WidthConfig | None = Field(
        default=None,
        description="Keep only the most important attention heads and feed-forward rows of each layer, before "
        "training.",
    )
    pretraining: PretrainingConfig | None = Field(
        default=None,
        description="Train the encoder on train and data.unlabelled, without labels, before its vocabulary is trimmed.",
    )

    checkpoint_keys: ClassVar[tuple[tuple[str, ...], ...]] = (("pretraining", "checkpoint"),)
    searched_keys: ClassVar[tuple[str, ...]] = ("num_attention_heads", "intermediate_size")
    layers_of: ClassVar[str]
    """Model that ``layers`` are taken from, for messages."""

    @property
    def is_pretrained(self) -> bool:
        """Whether building the student trains it."""
        return self.pretraining is not None

    def at_low_cost(self) -> Self:
        """Return the section without ``pretraining``."""
        return self.model_copy(update={"pretraining": None})

    def why_teacher_model(self) -> str | None:
        """Return that the pretraining learns from the teacher, if it does."""
        own = self.pretraining
        if own is None or own.checkpoint is not None or not (own.beta or own.gamma):
            return None
        return "student.pretraining: it learns from the teacher (set its checkpoint, or beta and gamma to 0)"

    def with_searched(self, values: Mapping[str, Any], teacher_dir: Path) -> Self:
        """Return the section with a trial's numbers of heads and rows instead of its own."""
        counts = {name: values[name] for name in WidthConfig.model_fields if name in values}
        if not counts:
            return self
        width = WidthConfig.model_validate({**dict(self.width or {}), **counts})
        return self.model_copy(update={"width": width})

    def check_shapes(
        self, teacher: PreTrainedConfig, searched: Mapping[str, Sequence[Any]]
    ) -> PreTrainedConfig:
        """Reject layers, attention heads and feed-forward rows that do not exist."""
        from ..layers import check_layers
        from ..width import check_width

        source = self.source_config(teacher)
        counts = {name: max(searched[name]) for name in WidthConfig.model_fields if name in searched}
        widest = WidthConfig.model_validate(counts) if counts else None
        for width, where in ((self.width, "student.width"), (widest, "search.space.student")):
            if width is not None:
                check_width(width, source, where)
        for layers in searched.get("layers", [] if "num_layers" in searched else [self.layers]):
            if layers is not None:
                check_layers(layers, source, self.layers_of)
        return source

    def check_checkpoints(
        self, teacher: str | None, task: Task = SINGLE_LABEL, max_length: int | None = None
    ) -> None:
        """Reject a vocabulary too small to spell every text, and models that it cannot be pretrained with."""
        from ...checkpoints.inspection import inspect_checkpoint
        from ...checkpoints.load import resolve_checkpoint
        from ...checkpoints.loading import naming
        from ...pretraining.pretrain_student import check_pretraining

        super().check_checkpoints(teacher, task, max_length)
        if self.pretraining is not None:
            with naming("student.pretraining.checkpoint"):
                check_pretraining(self.pretraining, self.source, teacher)
                if self.pretraining.checkpoint is not None:
                    name = resolve_checkpoint(self.pretraining.checkpoint)
                    inspect_checkpoint(name, task=task, max_length=max_length)

    def source_config(self, teacher: PreTrainedConfig) -> PreTrainedConfig:
        """Return the configuration of the model whose layers the student has.

        Raises:
            ModelError: It cannot be read, or its family is unknown.
        """
        raise NotImplementedError

    def load_source(self, inputs: StudentInputs) -> tuple[PreTrainedModel, Any, bool]:
        """Load the model whose layers the student has, with the labels of the data.

        Returns:
            The model, its tokenizer, and whether its head was trained for these labels.

        Raises:
            ModelError: It cannot be used.
        """
        raise NotImplementedError

    def build(self, inputs: StudentInputs) -> BuiltStudent:
        """Narrow the source, select its layers, pretrain them and trim their vocabulary, as far as configured.

        The record has ``num_attention_heads`` and ``intermediate_size`` of each layer, ``layers`` (None: all), the
        change of the logits by ``width`` and ``vocabulary`` under ``parity`` (nothing is compared if the head is new,
        or without training texts), and, if configured, ``pretraining``, the result of ``pretrain_student``, and
        ``vocabulary``, whose ``covered_share`` is the share of validation texts, 0 to 1, all of whose pieces are kept
        (None without such texts).

        Raises:
            ModelError: The source cannot be used, its family is unknown, a layer does not exist, texts may exceed
                its positions or have characters that its tokenizer does not cover, it cannot be pretrained, or more
                heads or rows are to be kept than it has.
        """
        from ...checkpoints.load import check_max_length
        from ...models.families import first_position
        from ...models.tied_embedding_rows import num_distinct_rows
        from ..logit_change import StepParity
        from ..vocabulary import pieces_of, with_pieces
        from ..width import narrow

        model, tokenizer, has_head = self.load_source(inputs)
        if inputs.max_length is not None:
            check_max_length(model, inputs.max_length, "student")
        parity = StepParity.of_student(inputs, has_head=has_head)
        # Importance is more accurate in the whole model than in selected layers that were never trained together.
        if self.width is not None:
            parity.before(model, tokenizer)
            lengths: dict[str, Any] = {"max_length": inputs.max_length, "task": inputs.task}
            narrow(model, tokenizer, self.width, inputs.texts, inputs.labels, **lengths)
            parity.after("width", model, tokenizer)
        model = self._with_chosen_layers(model, inputs.task)
        more = {}
        if self.pretraining is not None:  # before trimming, since the teacher has all the pieces
            more["pretraining"] = _pretrain(model, tokenizer, self.pretraining, inputs)
        if self.vocabulary is None:
            num_embeddings = num_distinct_rows(model)
        else:
            parity.before(model, tokenizer)
            # Some models count positions from the padding id, so it must keep its place.
            fixed = range(first_position(model))
            kept = pieces_of(tokenizer, self.vocabulary, inputs.texts, inputs.more_texts, fixed)
            trimmed = with_pieces(model, tokenizer, self.vocabulary, kept, inputs.validation_texts)
            tokenizer, num_embeddings, more["vocabulary"] = trimmed
            parity.after("vocabulary", model, tokenizer)
        return BuiltStudent(
            model,
            tokenizer,
            {**self._shape(model), "num_embeddings": num_embeddings, "parity": parity.steps, **more},
        )

    def _with_chosen_layers(self, source: PreTrainedModel, task: Task) -> PreTrainedModel:
        from ..layers import student_from_layers

        if self.layers is None:
            return source
        return student_from_layers(source, self.layers, self.layers_of, task)

    def _shape(self, model: PreTrainedModel) -> dict[str, Any]:
        from ...models.families import family_of
        from ...models.structured_pruning import num_heads, num_rows

        return {
            "family": family_of(model).name,
            "num_layers": model.config.num_hidden_layers,
            "layers": self.layers,
            "num_attention_heads": num_heads(model.config),
            "intermediate_size": num_rows(model.config),
        }


def _pretrain(
    model: PreTrainedModel, tokenizer: Any, config: PretrainingConfig, inputs: StudentInputs
) -> dict[str, Any]:
    from ...pretraining.pretrain_student import pretrain_student
    from ..logit_change import NUM_TOKENS

    return pretrain_student(
        model,
        tokenizer,
        inputs.teacher_dir,
        [*inputs.texts, *inputs.more_texts],
        config,
        max_length=inputs.max_length or NUM_TOKENS,
        num_threads=inputs.num_threads,
        use_gpu=inputs.use_gpu,
        report=inputs.report,
        unfinished=inputs.unfinished,
    )
