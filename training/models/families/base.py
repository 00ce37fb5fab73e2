"""The description of a model family's parts, and the registry of families."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from ....errors import ModelError, shown

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

Capability = Literal["layers", "heads", "rows", "first_token", "masked_lm", "fused_attention"]
"""What a family may support: selection of layers; pruning of attention heads and of feed-forward rows; a last layer
that is computed for the first token only; use of the masked-language head; fused attention in an exported graph."""

CAPABILITIES: tuple[Capability, ...] = get_args(Capability)
_MISSING: dict[Capability | None, str] = {
    None: "an unknown model family",
    "layers": "a model family whose layers cannot be selected one by one",
    "heads": "a model family whose attention heads cannot be pruned",
    "rows": "a model family whose feed-forward rows cannot be pruned",
    "first_token": "a model family whose last layer cannot be computed for the first token only",
    "masked_lm": "a model family whose masked-language head is not known",
    "fused_attention": "a model family whose attention cannot be fused",
}


@dataclass(frozen=True)
class Attention:
    """The self-attention of a layer; all paths are below the layer.

    Attributes:
        module: The module that splits into heads; for a last layer of the first token it has ``attention_head_size``
            and ``dropout``.
        projections: Query, key and value, below ``module``: linear layers [A * d, D], or a single one
            [3 * A * d, D].
        output: The linear layer after ``module``.
        norm: The normalization before ``module`` or after ``output``.
        position_projections: Linear layers [A * d, D] of relative positions, below ``module``, where a model has them.
    """

    module: str
    projections: tuple[str, ...]
    output: str
    norm: str
    position_projections: tuple[str, ...] = ()


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward part of a layer; all paths are below the layer.

    Attributes:
        first: The linear layer [I, D] that computes its rows, or [2 * I, D] of rows and their gates.
        second: The linear layer [D, I] that reads them.
        norm: The normalization before ``first`` or after ``second``.
    """

    first: str
    second: str
    norm: str


@dataclass(frozen=True)
class Family:
    """The module paths of the parts of a family's models; a part that is None or empty is not supported.

    Attributes:
        model_types: As in ``config.json``; the first is the family's name.
        classifier: The linear layer of a sequence classifier whose row i gives logit i, below the model.
        token_classifier: The linear layer of a classifier of tokens, likewise.
        span_classifier: The linear layer of a model of spans, likewise.
        head_reads: What the head of a sequence classifier reads of the last layer.
        word_embeddings: The table of word pieces, below the base model.
        position_embeddings: The table of positions, below the base model; None where positions are not looked up.
        intermediate_size: Field of the configuration: feed-forward rows in each layer.
        pooler: Names, as in parameters' names, of the head's parts before ``classifier``.
        other_embeddings: Further parameters of embeddings that cannot be recognised by their names, likewise.
        layers: The list of layers, below the base model.
        shared_layers: Whether the list has one entry for several layers, which share its weights.
        own_first_layer: Whether the first layer has other parameters than the others, so that no other can be first.
        attention: The attention part of each layer.
        feed_forward: The feed-forward part of each layer.
        after_attention: The rest of a layer, ``after_attention(layer, context[B, L, A * d], hidden_states[B, L, D])``
            -> ``[B, L, D]``, where ``context`` is the heads' output and ``hidden_states`` the layer's input.
        masked_lm_head: The modules of a masked-language model's head, in order, below the model.
        takes_made_mask: Whether its models use a mask [B, 1, S, S], Boolean or additive, as it is, like all encoders of
            transformers that create masks with ``create_bidirectional_mask`` alone.
        has_position_bias: Whether a layer takes, after the mask, a bias [B, A, S, S] of its attention, and returns a
            tuple.
        unsupported: Capabilities that the architecture rules out, each with the reason, a clause.
        limits: The same for some configurations.
    """

    model_types: tuple[str, ...]
    classifier: str
    head_reads: Literal["first_token", "every_token"]
    token_classifier: str = "classifier"
    span_classifier: str = "qa_outputs"
    word_embeddings: str = "embeddings.word_embeddings"
    position_embeddings: str | None = "embeddings.position_embeddings"
    intermediate_size: str = "intermediate_size"
    pooler: tuple[str, ...] = ()
    other_embeddings: tuple[str, ...] = ()
    layers: str | None = None
    shared_layers: bool = False
    own_first_layer: bool = False
    attention: Attention | None = None
    feed_forward: FeedForward | None = None
    after_attention: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    masked_lm_head: tuple[str, ...] = ()
    takes_made_mask: bool = True
    has_position_bias: bool = False
    unsupported: Mapping[Capability, str] = field(default_factory=dict, hash=False)
    limits: Callable[[Any], Mapping[Capability, str]] | None = None

    @property
    def name(self) -> str:
        """Name of the family: the first of its model types."""
        return self.model_types[0]

    def supports(self, capability: Capability, config: PreTrainedConfig | None = None) -> bool:
        """Return whether the parts that a capability needs are known and nothing rules it out.

        Args:
            capability: The capability.
            config: Configuration of a model; None: any of the family.
        """
        if self.why_not(capability, config) is not None:
            return False
        if capability == "masked_lm":
            return bool(self.masked_lm_head)
        if self.layers is None:
            return False
        if capability == "rows":
            return self.feed_forward is not None
        if capability == "heads":
            return self.attention is not None
        if capability == "first_token":
            known = self.attention is not None and self.after_attention is not None
            return known and self.head_reads == "first_token"
        return True

    def why_not(self, capability: Capability, config: PreTrainedConfig | None = None) -> str | None:
        """Return why a capability is ruled out, a clause; None where nothing rules it out."""
        limits = self.limits(config) if self.limits is not None and config is not None else {}
        return self.unsupported.get(capability, limits.get(capability))

    def layers_of(self, model: PreTrainedModel) -> nn.ModuleList:
        """Return the list of layers of one of its models; requires ``supports("layers")``."""
        base: Any = model.base_model
        return base.get_submodule(self.layers)

    def place_of_layer(self, config: PreTrainedConfig, layer: int) -> int:
        """Return the index in the list of layers of a model's layer, both from 0."""
        if not self.shared_layers:
            return layer
        shapes: Any = config
        # As AlbertTransformer computes it, with its rounding.
        return int(layer / (shapes.num_hidden_layers / shapes.num_hidden_groups))


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


def find_family(model: PreTrainedModel | PreTrainedConfig | str) -> Family | None:
    """Return the family of a model, of its configuration or of a model type, or None where it is not registered."""
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
    config: Any = getattr(model, "config", model)
    if family is not None and (needs is None or family.supports(needs, config)):
        return family
    missing = _MISSING[None if family is None else needs]
    reason = family.why_not(needs, config) if family is not None and needs is not None else None
    raise ModelError(
        f"{key}: {shown(_model_type(model))} given, {missing}{f' ({reason})' if reason else ''}; supported: "
        f"{family_names(needs)}; use a model of one of these"
    )


def with_layers(config: PreTrainedConfig, layers: Sequence[int]) -> PreTrainedConfig:
    """Return a copy of a configuration with some of its layers, and every field that describes them one by one.

    Args:
        config: Configuration of a model of any family.
        layers: The layers, from 0, ascending.
    """
    shapes: Any = copy.deepcopy(config)
    family = find_family(config)
    num_before = getattr(shapes, "num_hidden_layers", None)  # None: a student without attention
    types = getattr(shapes, "layer_types", None)
    if family is not None and family.shared_layers:
        places = {family.place_of_layer(config, layer) for layer in layers}
        # Layers of several groups get a group each: groups are of equal size.
        shapes.num_hidden_groups = 1 if len(places) == 1 else len(layers)
    shapes.num_hidden_layers = len(layers)
    if isinstance(types, list) and len(types) == num_before:
        shapes.layer_types = [types[layer] for layer in layers]
    return shapes


def first_position(model: PreTrainedModel) -> int:
    """Return the row of the position table for a text's first token.

    RoBERTa and similar models count from the padding id + 1; their position table has a row for padding.
    """
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            return padding + 1
    return 0


def _model_type(model: PreTrainedModel | PreTrainedConfig | str) -> str:
    if isinstance(model, str):
        return model
    config: Any = getattr(model, "config", model)
    return config.model_type
