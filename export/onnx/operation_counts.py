"""Count the work of one inference of an ONNX graph: bytes of weights, and operations by number type."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from ...errors import ExportError

# Index of each node type's weight input.
_WEIGHTS = {
    "MatMul": 1,
    "FusedMatMul": 1,
    "Gemm": 1,
    "FusedGemm": 1,
    "MatMulNBits": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "QLinearMatMul": 3,
    "QGemm": 3,
    "Attention": 1,
    "QAttention": 1,
    "Conv": 1,
    "ConvInteger": 1,
    "QLinearConv": 3,
}
_INT8 = {
    "ConvInteger",
    "QLinearConv",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QLinearMatMul",
    "QGemm",
    "QAttention",
}
_INT8_ACCURACY_LEVEL = 4  # of MatMulNBits: activations in 8 bits
_TABLES = {"Gather": (0,), "GatherBlockQuantized": (0, 2, 3), "EmbedLayerNormalization": (2, 3, 4)}
_UNCHANGED = {"DequantizeLinear", "Cast", "Transpose", "Identity", "Reshape"}
# Between a stored table and the rows looked up, where ONNX Runtime expands it when it loads the graph.
_EXPANDED = {*_UNCHANGED, "Mul", "Pad", "QuantizeLinear", "Slice"}
_CONTRIB = "com.microsoft"
# ONNX Runtime's own node types without products; ONNX's types with products or subgraphs, not counted.
_NO_PRODUCT = {
    *("BiasGelu", "FastGelu", "Gelu", "QuickGelu", "SkipLayerNormalization"),
    *("NhwcMaxPool", "QLinearAdd", "QLinearMul"),
}
_UNCOUNTED = {"Attention", "Einsum", "GRU", "If", "LSTM", "Loop", "RNN", "Scan"}
_BITS: dict[int, int] = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.DOUBLE: 64,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.INT64: 64,
    onnx.TensorProto.INT32: 32,
    onnx.TensorProto.INT16: 16,
    onnx.TensorProto.UINT16: 16,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
}
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class GraphCounts:
    """Lower bounds on the work of one run; a multiplication and an addition count as two operations.

    Attributes:
        weight_bytes: bytes of the constant matrices in products, each counted once, as stored in the graph, including
            scales of blocks.
        embedding_bytes: bytes of the rows looked up in tables.
        int8_operations: products of 8-bit integers.
        float_operations: all other matrix products, including those between activations in attention.
    """

    weight_bytes: int
    embedding_bytes: int
    int8_operations: int
    float_operations: int


def count_graph(path: str | Path, *, batch_size: int, num_tokens: int) -> GraphCounts:
    """Count the work of one run over ``batch_size`` texts of ``num_tokens`` tokens.

    The shapes are those of a real run, so a last layer that computes only the first token is counted as such.

    Raises:
        ExportError: a node's products or weights cannot be counted.
    """
    model = onnx.load(str(path))
    _check_nodes(path, model)
    constants = {each.name: each for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    made_by = {name: node for node in model.graph.node for name in node.output}
    products = [node for node in model.graph.node if _is_product(node)]
    lookups = [
        node
        for node in model.graph.node
        if node.op_type in _TABLES and any(_row_bytes(each) for each in _tables(node, constants, made_by))
    ]
    wanted = {name for node in products for name in [*node.input[:2], node.output[0]]}
    wanted |= {node.output[0] for node in lookups}
    shapes = _shapes(model, sorted(wanted - {""} - set(constants)), batch_size, num_tokens)
    shapes |= {name: tuple(each.dims) for name, each in constants.items()}
    dependent = _input_dependent(model)
    weights: dict[str, int] = {}
    int8_operations = float_operations = 0
    for node in products:
        tensors = _weight_tensors(node, constants, made_by)
        if not tensors and node.op_type in _WEIGHTS and node.input[_WEIGHTS[node.op_type]] not in dependent:
            raise ExportError(f"{path}: the weights of {node.name or node.op_type} cannot be counted")
        for each in tensors:
            weights[each.name or node.name] = _bytes(each)
        operations = _operations(node, shapes)
        if _is_int8(node, made_by):
            int8_operations += operations
        else:
            float_operations += operations
    rows: dict[str, int] = {}  # bytes of the rows of each table; a second lookup finds them in the cache
    for node in lookups:
        num_rows = _num_rows(node, shapes, batch_size * num_tokens)
        for each in _tables(node, constants, made_by):
            name = each.name or node.name
            rows[name] = max(rows.get(name, 0), num_rows * _row_bytes(each))
    return GraphCounts(sum(weights.values()), sum(rows.values()), int8_operations, float_operations)


def _num_rows(lookup: onnx.NodeProto, shapes: Shapes, num_tokens: int) -> int:
    """Return how many rows a lookup reads; an EmbedLayerNormalization reads one of each table for each token."""
    if lookup.op_type == "EmbedLayerNormalization":
        return num_tokens
    return math.prod(shapes[lookup.output[0]][:-1])


def _check_nodes(path: str | Path, model: onnx.ModelProto) -> None:
    counted = {*_WEIGHTS, *_TABLES, *_NO_PRODUCT, "MultiHeadAttention"}
    unknown = {
        node.op_type
        for node in model.graph.node
        if (node.op_type not in counted if node.domain else node.op_type in _UNCOUNTED)
    }
    if unknown:
        raise ExportError(f"{path}: the operations of {', '.join(sorted(unknown))} cannot be counted")


def _input_dependent(model: onnx.ModelProto) -> set[str]:
    """Return the names of the values that depend on the graph's inputs."""
    dependent = {each.name for each in model.graph.input}
    for node in model.graph.node:  # in topological order
        if dependent & set(node.input):
            dependent |= set(node.output)
    return dependent


def _is_product(node: onnx.NodeProto) -> bool:
    # ONNX's own Attention takes projected queries; the one with weights is ONNX Runtime's.
    if node.op_type in ("Attention", "MultiHeadAttention"):
        return node.domain == _CONTRIB
    return node.op_type in _WEIGHTS


def _operations(node: onnx.NodeProto, shapes: Shapes) -> int:
    first = shapes[node.input[0]]
    if node.op_type == "MultiHeadAttention":
        key_length = shapes[node.input[1]][1]
        return 4 * math.prod(first) * key_length
    if node.op_type in ("Attention", "QAttention"):
        batch, length, width = first
        columns = shapes[node.input[1]][-1]
        output_width = shapes[node.output[0]][-1]
        return 2 * batch * length * width * columns + 4 * batch * length * length * output_width
    if node.op_type in ("Conv", "ConvInteger", "QLinearConv"):  # a filter [C / groups, K] for each output
        weight = shapes[node.input[_WEIGHTS[node.op_type]]]
        return 2 * math.prod(shapes[node.output[0]]) * math.prod(weight[1:])
    is_transposed = any(each.name == "transA" and each.i for each in node.attribute)
    inner = first[-2] if is_transposed else first[-1]
    return 2 * math.prod(shapes[node.output[0]]) * inner


def _is_int8(node: onnx.NodeProto, made_by: dict[str, onnx.NodeProto]) -> bool:
    if node.op_type == "MatMulNBits":
        return any(
            each.name == "accuracy_level" and each.i == _INT8_ACCURACY_LEVEL for each in node.attribute
        )
    if node.op_type in ("MatMul", "Gemm"):
        # With two dequantized inputs, ONNX Runtime computes on the integers directly.
        sources = [made_by.get(name) for name in node.input[:2]]
        return all(each is not None and each.op_type == "DequantizeLinear" for each in sources)
    return node.op_type in _INT8


def _weight_tensors(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], made_by: dict[str, onnx.NodeProto]
) -> list[onnx.TensorProto]:
    if node.op_type not in _WEIGHTS:
        return []
    place = _WEIGHTS[node.op_type]
    places = (place, 2, 3) if node.op_type == "MatMulNBits" else (place,)
    return _constants(node, places, constants, made_by)


def _tables(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], made_by: dict[str, onnx.NodeProto]
) -> list[onnx.TensorProto]:
    """Return the tables that a lookup reads rows from; empty where it reads from a shape or an activation."""
    found = _constants(node, _TABLES[node.op_type], constants, made_by, _EXPANDED)
    axis = next((each.i for each in node.attribute if each.name in ("axis", "gather_axis")), 0)
    if axis != 0:
        return []
    return [each for each in found if len(each.dims) > 1]  # [rows, columns], or [rows, blocks, columns]


def _constants(
    node: onnx.NodeProto,
    places: Iterable[int],
    constants: dict[str, onnx.TensorProto],
    made_by: dict[str, onnx.NodeProto],
    through: Collection[str] = _UNCHANGED,
) -> list[onnx.TensorProto]:
    """Return the constants behind some inputs of a node.

    Nodes of the types ``through`` are followed to their first input, those of Concat to all of theirs.
    """
    found = []
    for place in places:
        name = node.input[place] if place < len(node.input) else ""
        while name not in constants and name in made_by and made_by[name].op_type in through:
            name = made_by[name].input[0]
        source = made_by.get(name)
        if name in constants:
            found.append(constants[name])
        elif source is not None and source.op_type == "Concat":
            parts = _constants(source, range(len(source.input)), constants, made_by, through)
            found += parts if len(parts) == len(source.input) else []
    return found


def _bytes(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims) * _BITS.get(tensor.data_type, 8) // 8


def _row_bytes(tensor: onnx.TensorProto) -> int:
    return _bytes(tensor) // max(1, tensor.dims[0])


def _shapes(model: onnx.ModelProto, names: list[str], batch_size: int, num_tokens: int) -> Shapes:
    """Return the shapes of inner values, from a run that outputs them."""
    declared = {each.name for each in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in declared)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ones = np.ones((batch_size, num_tokens), np.int64)
    feed = {
        each.name: ones.astype(np.int32 if each.type == "tensor(int32)" else np.int64)
        for each in session.get_inputs()
    }
    if "token_type_ids" in feed:
        feed["token_type_ids"][:] = 0
    outputs: Any = session.run(names, feed)
    return {name: each.shape for name, each in zip(names, outputs, strict=True)}
