"""The description of a model family's parts, and the registry of families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ....errors import ModelError, shown

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

Capability = Literal["layers", "width", "first_token", "masked_lm"]
_MISSING: dict[Capability | None, str] = {
    None: "an unknown model family",
    "layers": "a model family whose layers cannot be selected one by one",
    "width": "a model family whose attention heads and feed-forward rows cannot be pruned",
    "first_token": "a model family whose last layer cannot be computed for the first token only",
    "masked_lm": "a model family whose masked-language head is not known",
}


@dataclass(frozen=True)
class Attention:
    """The self-attention of a layer; all paths are below the layer.

    Attributes:
        module: The module that splits into heads; it has ``attention_head_size``, ``scaling`` and ``dropout``.
        projections: Query, key and value, below ``module``.
        output: The linear layer after ``module``.
        norm: The normalization after ``output``.
    """

    module: str
    projections: tuple[str, str, str]
    output: str
    norm: str


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward part of a layer; all paths are below the layer.

    Attributes:
        first: The linear layer [I, D] that computes its rows.
        second: The linear layer [D, I] that reads them.
        norm: The normalization after ``second``.
    """

    first: str
    second: str
    norm: str


@dataclass(frozen=True)
class Family:
    """The module paths of the parts of a family's models; a part that is None or empty is not supported.

    Its models must accept an additive attention mask [B, 1, S, S] unchanged, as all of transformers' encoders do that
    use ``create_bidirectional_mask``.

    Attributes:
        model_types: As in ``config.json``; the first is the family's name.
        classifier: The linear layer of a sequence classifier whose row i gives logit i, below the model.
        token_classifier: The linear layer of a classifier of tokens, likewise.
        span_classifier: The linear layer of a model of spans, likewise.
        head_reads: What the head of a sequence classifier reads of the last layer.
        word_embeddings: The table of word pieces, below the base model.
        position_embeddings: The table of positions, below the base model.
        intermediate_size: Field of the configuration: feed-forward rows in each layer.
        pooler: Name, as in parameters' names, of the head's part before ``classifier``.
        positions_after_padding: Whether a text's first token has the position after the padding id, not 0.
        layers: The list of layers, which do not share weights, below the base model.
        attention: The attention part of each layer.
        feed_forward: The feed-forward part of each layer.
        after_attention: The rest of a layer, ``after_attention(layer, context[B, L, A * d], hidden_states[B, L, D])``
            -> ``[B, L, D]``, where ``context`` is the heads' output and ``hidden_states`` the layer's input.
        masked_lm_head: The modules of a masked-language model's head, in order, below the model.
    """

    model_types: tuple[str, ...]
    classifier: str
    head_reads: Literal["first_token", "every_token"]
    token_classifier: str = "classifier"
    span_classifier: str = "qa_outputs"
    word_embeddings: str = "embeddings.word_embeddings"
    position_embeddings: str = "embeddings.position_embeddings"
    intermediate_size: str = "intermediate_size"
    pooler: str | None = None
    positions_after_padding: bool = False
    layers: str | None = None
    attention: Attention | None = None
    feed_forward: FeedForward | None = None
    after_attention: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    masked_lm_head: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the family: the first of its model types."""
        return self.model_types[0]

    def supports(self, capability: Capability) -> bool:
        """Return whether the parts that a capability needs are known.

        Args:
            capability: ``layers``: select layers; ``width``: prune heads and feed-forward rows; ``first_token``:
                compute the last layer for the first token only; ``masked_lm``: use the masked-language head.
        """
        if capability == "masked_lm":
            return bool(self.masked_lm_head)
        if capability == "layers":
            return self.layers is not None
        if self.layers is None or self.attention is None:
            return False
        if capability == "width":
            return self.feed_forward is not None
        return self.after_attention is not None and self.head_reads == "first_token"

    def layers_of(self, model: PreTrainedModel) -> nn.ModuleList:
        """Return the layers of one of its models; requires ``supports("layers")``."""
        base: Any = model.base_model
        return base.get_submodule(self.layers)


_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Register a family and return it.

    Raises:
        ValueError: One of its model types is registered already.
    """
    if taken := sorted({*family.model_types} & set(_FAMILIES)):
        raise ValueError(f"model_types: {taken[0]!r} is registered already; register each model type once")
    _FAMILIES.update(dict.fromkeys(family.model_types, family))
    return family


def families() -> list[Family]:
    """Return the registered families, sorted by name."""
    return sorted(set(_FAMILIES.values()), key=lambda family: family.name)


def family_names(capability: Capability | None = None) -> str:
    """List the registered model types of families that support a capability, for a message."""
    return ", ".join(
        name
        for name, family in sorted(_FAMILIES.items())
        if capability is None or family.supports(capability)
    )


def find_family(model: PreTrainedModel | PreTrainedConfig) -> Family | None:
    """Return the family of a model or of its configuration, or None where it is not registered."""
    return _FAMILIES.get(_model_type(model))


def family_of(
    model: PreTrainedModel | PreTrainedConfig, key: str = "student", needs: Capability | None = None
) -> Family:
    """Return the family of a model or of its configuration.

    Args:
        model: A model or its configuration.
        key: The parameter that names the model or requires the capability, for the error message.
        needs: What the family must support.

    Raises:
        ModelError: It is not registered, or does not support what is needed.
    """
    family = find_family(model)
    if family is not None and (needs is None or family.supports(needs)):
        return family
    missing = _MISSING[None if family is None else needs]
    raise ModelError(
        f"{key}: {shown(_model_type(model))} given, {missing}; supported: {family_names(needs)}; "
        "use a model of one of these"
    )


def first_position(model: PreTrainedModel) -> int:
    """Return the row of the position table for a text's first token.

    RoBERTa and similar models count from the padding id + 1. If the family is not registered, this is recognised by a
    position table with a row for padding.
    """
    family = find_family(model)
    if family is not None:
        config: Any = model.config
        return (config.pad_token_id or 0) + 1 if family.positions_after_padding else 0
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            return padding + 1
    return 0


def _model_type(model: PreTrainedModel | PreTrainedConfig) -> str:
    config: Any = getattr(model, "config", model)
    return config.model_type
