"""Map the parameters and nodes of a classifier's ONNX graph to parts of the model, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import onnx

from ...training.models.families import Family, families
from .graphs import written_graphs
from .parts import (
    ATTENTION,
    ATTENTION_PRODUCTS,
    FEED_FORWARD,
    GROUPS,
    HEAD,
    OTHER,
    OTHER_EMBEDDINGS,
    WORD_EMBEDDINGS,
    Part,
)
from .writer import TOKEN_TYPES

_ATTENTION_NODES = ("Attention", "MultiHeadAttention", "PackedAttention", "DecoderMaskedSelfAttention")
_PRODUCTS = ("MatMul", "Gemm")
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
_PROJECTIONS, _ATTENTION_OUTPUT = ("query, key, value", ATTENTION), ("attention output", ATTENTION)
_FEED_FORWARD_IN, _FEED_FORWARD_OUT = ("feed-forward in", FEED_FORWARD), ("feed-forward out", FEED_FORWARD)
_POOLER, _CLASSIFIER = ("pooler", HEAD), ("classifier", HEAD)
# Plain graphs are also exported for unregistered families, whose parts are recognized by words in a parameter's path
# inside a layer; the first match counts.
_IN_A_LAYER = (
    (r"\b(q|k|v|query|key|value|in)(_lin|_proj)?\b", *_PROJECTIONS),
    (r"\b(attention|attn|self_attn|sa_layer_norm|out_lin|o_proj)\b", *_ATTENTION_OUTPUT),
    (r"\b(intermediate|lin1|fc1|wi|up_proj|gate_proj)\b", *_FEED_FORWARD_IN),
    (r"\b(output|output_layer_norm|lin2|fc2|wo|down_proj|ffn)\b", *_FEED_FORWARD_OUT),
)


def part_of(name: str) -> Part | None:
    """Return the part of a parameter, or of its quantized values and scales; None for any other tensor."""
    for graph in written_graphs():
        if (found := graph.part_of(name)) is not None:
            return found
    for family in families():
        for path, (part, group) in _parts_of(family):
            if found := path.search(name):
                return Part(part, group, int(found["layer"]) if "layer" in path.groupindex else None)
    return _part_by_words(name.lower())


@cache
def _parts_of(family: Family) -> list[tuple[re.Pattern[str], tuple[str, str]]]:
    """Return patterns of a family's parameter names, each with the name and group of its part."""
    attention, feed_forward = family.attention, family.feed_forward
    inside: list[tuple[str, tuple[str, str]]] = []
    if attention is not None:
        own = (*attention.projections, *attention.position_projections)
        inside += [(f"{attention.module}.{name}", _PROJECTIONS) for name in own]
        inside += [(name, _ATTENTION_OUTPUT) for name in (attention.output, attention.norm)]
    if feed_forward is not None:
        inside.append((feed_forward.first, _FEED_FORWARD_IN))
        inside += [(name, _FEED_FORWARD_OUT) for name in (feed_forward.second, feed_forward.norm)]
    outside = [(family.word_embeddings, (WORD_EMBEDDINGS, WORD_EMBEDDINGS))]
    outside += [(name, _POOLER) for name in family.pooler]
    outside += [(name, (OTHER_EMBEDDINGS, OTHER_EMBEDDINGS)) for name in family.other_embeddings]
    # The last layer, if it computes only the first token, is nested one module deeper.
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
    head = re.search(r"\b(pooler|pre_classifier|classifier|score|qa_outputs)\b", path)
    if head is None:
        return None
    return Part(*(_POOLER if head[1] in ("pooler", "pre_classifier") else _CLASSIFIER))


def products_by_part(graph: onnx.GraphProto) -> dict[Part, list[str]]:
    """Return the names of a plain graph's matrix products by part, in the graph's order.

    A product of two activations counts as ``attention products`` of the layer that it follows; outside of layers it is
    pooling, which belongs to no part. An unknown product is a part of its own, named after its node.
    """
    found: dict[Part, list[str]] = {}
    previous: Part | None = None
    weights = {each.name for each in graph.initializer}
    for node in graph.node:
        if node.op_type not in _PRODUCTS:
            continue
        part = part_of(node.input[1])
        if part is not None:
            previous = part
        elif node.input[1] not in weights:
            if previous is None or previous.layer is None:
                continue
            part = Part(ATTENTION_PRODUCTS, ATTENTION, previous.layer)
        found.setdefault(part or Part(node.name, OTHER), []).append(node.name)
    return found


def pooling_products(graph: onnx.GraphProto) -> list[str]:
    """Return the names of a plain graph's matrix products that pool positions, and so belong to no part."""
    named = {name for names in products_by_part(graph).values() for name in names}
    return [node.name for node in graph.node if node.op_type in _PRODUCTS and node.name not in named]


def token_type_lookups(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes that look up token types: two rows, which quantization leaves in 32 bits."""
    return [node.name for node in graph.node if node.op_type == "Gather" and TOKEN_TYPES in node.input]


def tables_by_part(graph: onnx.GraphProto) -> dict[Part, list[str]]:
    """Return the names of a plain graph's nodes that look up rows of a float table, by part."""
    tables = {each.name for each in graph.initializer if len(each.dims) == 2 and each.data_type in _FLOATS}
    found: dict[Part, list[str]] = {}
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in tables:
            found.setdefault(part_of(node.input[0]) or Part(node.name, OTHER), []).append(node.name)
    return found


def bytes_by_group(model: onnx.ModelProto) -> dict[str, int]:
    """Compute the bytes of a graph's constants, quantized or not, by group of model parts.

    Returns:
        Bytes for each of ``GROUPS``; ``other`` contains shapes, scales of activations and everything unnamed.
    """
    totals: dict[str, int] = dict.fromkeys(GROUPS, 0)
    users = {name: node for node in model.graph.node for name in node.input}
    for tensor, name in _constants(model.graph):
        part, user = part_of(name), users.get(name)
        group = part.group if part else OTHER
        # Fused attention joins the biases of its projections into one unnamed constant.
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
