"""Which part of a classifier the parameters and nodes of its ONNX graph belong to, told by their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import onnx

from ...training.models.families import Family, families

WORD_EMBEDDINGS, OTHER_EMBEDDINGS = "word embeddings", "other embeddings"
ATTENTION, FEED_FORWARD, HEAD, OTHER = "attention", "feed-forward", "head", "other"
ATTENTION_PRODUCTS = "attention products"
GROUPS = (WORD_EMBEDDINGS, OTHER_EMBEDDINGS, ATTENTION, FEED_FORWARD, HEAD, OTHER)

_ATTENTION_NODES = ("Attention", "MultiHeadAttention", "PackedAttention", "DecoderMaskedSelfAttention")
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
_PROJECTIONS, _ATTENTION_OUTPUT = ("query, key, value", ATTENTION), ("attention output", ATTENTION)
_FEED_FORWARD_IN, _FEED_FORWARD_OUT = ("feed-forward in", FEED_FORWARD), ("feed-forward out", FEED_FORWARD)
_POOLER, _CLASSIFIER = ("pooler", HEAD), ("classifier", HEAD)
# A plain graph is made of families that are not registered too, and its names are all that is known then: by the
# words of a parameter's path inside a layer, the first that fits, and behind the layers.
_IN_A_LAYER = (
    (r"\b(q|k|v|query|key|value|in)(_lin|_proj)?\b", *_PROJECTIONS),
    (r"\b(attention|attn|self_attn|sa_layer_norm|out_lin|o_proj)\b", *_ATTENTION_OUTPUT),
    (r"\b(intermediate|lin1|fc1|wi|up_proj|gate_proj)\b", *_FEED_FORWARD_IN),
    (r"\b(output|output_layer_norm|lin2|fc2|wo|down_proj|ffn)\b", *_FEED_FORWARD_OUT),
)


@dataclass(frozen=True)
class Part:
    """A part of a classifier.

    Attributes:
        name: As ``feed-forward in``.
        group: One of ``GROUPS``.
        layer: Of the encoder, from 0; None outside of it.
    """

    name: str
    group: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.name if self.layer is None else f"layer {self.layer} {self.name}"


def part_of(name: str) -> Part | None:
    """The part that a parameter belongs to, its quantized values and scales too; None for any other tensor."""
    for family in families():
        for path, (part, group) in _parts_of(family):
            if found := path.search(name):
                return Part(part, group, int(found["layer"]) if "layer" in path.groupindex else None)
    return _part_by_words(name.lower())


@cache
def _parts_of(family: Family) -> list[tuple[re.Pattern[str], tuple[str, str]]]:
    """What the names of a family's parameters hold, and the name and group of the part."""
    attention, feed_forward = family.attention, family.feed_forward
    inside: list[tuple[str, tuple[str, str]]] = []
    if attention is not None:
        inside += [(f"{attention.module}.{name}", _PROJECTIONS) for name in attention.projections]
        inside += [(name, _ATTENTION_OUTPUT) for name in (attention.output, attention.norm)]
    if feed_forward is not None:
        inside.append((feed_forward.first, _FEED_FORWARD_IN))
        inside += [(name, _FEED_FORWARD_OUT) for name in (feed_forward.second, feed_forward.norm)]
    outside = [(family.word_embeddings, (WORD_EMBEDDINGS, WORD_EMBEDDINGS))]
    if family.pooler is not None:
        outside.append((family.pooler, _POOLER))
    # The last layer, for the first token alone, is one module further down.
    return [
        (
            re.compile(rf"\b{re.escape(family.layers or '')}\.(?P<layer>\d+)\.(layer\.)?{re.escape(name)}\."),
            part,
        )
        for name, part in inside
    ] + [(re.compile(rf"\b{re.escape(name)}\."), part) for name, part in outside]


def _part_by_words(path: str) -> Part | None:
    if "embed" in path:
        word = re.search(r"\b(word_embeddings|embed_tokens|wte)\b", path)
        return Part(WORD_EMBEDDINGS, WORD_EMBEDDINGS) if word else Part(OTHER_EMBEDDINGS, OTHER_EMBEDDINGS)
    layer = re.search(r"\.(\d+)\.(.*)", path)
    if layer is not None:
        for words, part, group in _IN_A_LAYER:
            if re.search(words, layer[2]):
                return Part(part, group, int(layer[1]))
        return None
    head = re.search(r"\b(pooler|pre_classifier|classifier|score)\b", path)
    if head is None:
        return None
    return Part(*(_POOLER if head[1] in ("pooler", "pre_classifier") else _CLASSIFIER))


def products_by_part(graph: onnx.GraphProto) -> dict[Part, list[str]]:
    """Names of the matrix products of a plain graph, by part, in the graph's order.

    A product of two activations counts as ``attention products`` of the layer that it follows. A product of which
    nothing is known is a part of its own, named after its node.
    """
    found: dict[Part, list[str]] = {}
    layer = None
    weights = {each.name for each in graph.initializer}
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        part = part_of(node.input[1])
        if part is not None:
            layer = part.layer
        elif layer is not None and node.input[1] not in weights:
            part = Part(ATTENTION_PRODUCTS, ATTENTION, layer)
        found.setdefault(part or Part(node.name, OTHER), []).append(node.name)
    return found


def tables_by_part(graph: onnx.GraphProto) -> dict[Part, list[str]]:
    """Names of the nodes of a plain graph that look rows of a float table up, by part."""
    tables = {each.name for each in graph.initializer if len(each.dims) == 2 and each.data_type in _FLOATS}
    found: dict[Part, list[str]] = {}
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in tables:
            found.setdefault(part_of(node.input[0]) or Part(node.name, OTHER), []).append(node.name)
    return found


def bytes_by_group(model: onnx.ModelProto) -> dict[str, int]:
    """Bytes of all constants of a graph, quantized or not, by the part of the model that they belong to.

    Returns:
        By ``GROUPS``, all of them; ``other`` holds shapes, scales of activations and whatever else has no name.
    """
    totals: dict[str, int] = dict.fromkeys(GROUPS, 0)
    users = {name: node for node in model.graph.node for name in node.input}
    for tensor, name in _constants(model.graph):
        part, user = part_of(name), users.get(name)
        group = part.group if part else OTHER
        # Fused attention joins the biases of its projections to one constant without a name.
        if part is None and user is not None and user.op_type in _ATTENTION_NODES:
            group = ATTENTION
        totals[group] += len(tensor.raw_data) or onnx.numpy_helper.to_array(tensor).nbytes
    return totals


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[onnx.TensorProto, str]]:
    for tensor in graph.initializer:
        yield tensor, tensor.name
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t, node.output[0]
