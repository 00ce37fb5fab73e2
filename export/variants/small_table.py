"""Store the table of an 8-bit graph in 4 bits; ONNX Runtime expands it to 8 bits once, when it loads the graph."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper, version_converter

from ...errors import ExportError
from ...training.compression.fake_quantization import block_steps
from ..onnx.convert import save_onnx
from ..onnx.writer import tensor_of_4_bits

INT4_OPSET = 21  # as in .base, which cannot be imported here without a circle
Made = TypeVar("Made")


def with_small_table(source: Path, target: Path, quantize: Callable[[Path, Path], Made]) -> Made:
    """Write a copy of the graph ``source`` with its largest embedding table in 4 bits and ``quantize`` applied.

    The rows have the values that 4 bits can hold, rounded once more to the 8 bits of the table. The nodes that compute
    the 8-bit table read constants alone, so ONNX Runtime replaces them by their result before the first text: one
    text costs what it costs with a table stored in 8 bits, where looking up 4-bit rows would take longer than the rest
    of a small graph.

    Args:
        source: Graph in 32 bits.
        target: Graph to write.
        quantize: Writes an 8-bit copy of a graph, in which the table ``NAME`` has become ``NAME_quantized``, with
            ``NAME_scale`` and ``NAME_zero_point``.

    Returns:
        What ``quantize`` returns.

    Raises:
        ExportError: The graph has no embedding table, or ``quantize`` does not store it in 8 bits.
    """
    graph = onnx.load(str(source))
    opset = next(each.version for each in graph.opset_import if not each.domain)
    graph = version_converter.convert_version(graph, max(opset, INT4_OPSET))
    table = largest_table(graph.graph)
    if table is None:
        raise ExportError(
            "no embedding table of the graph could be quantized to 4 bits; remove that variant from export.variants"
        )
    steps, scales = block_steps(torch.from_numpy(numpy_helper.to_array(table).copy()))
    rows = (steps * scales).flatten(-2)[:, : table.dims[1]].numpy()
    table.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(rows), table.name))
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        half_way = Path(folder) / target.name
        save_onnx(graph, half_way)
        made = quantize(half_way, target)
    quantized = onnx.load(str(target))
    _expand_at_loading(quantized.graph, table.name, table.dims[1], steps.numpy(), scales.numpy())
    save_onnx(quantized, target)
    return made


def largest_table(graph: onnx.GraphProto) -> TensorProto | None:
    """Return the matrix with the most rows of those that a Gather looks up rows of, or None."""
    looked_up = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    tables = [each for each in graph.initializer if each.name in looked_up and len(each.dims) == 2]
    return max(tables, key=lambda table: table.dims[0], default=None)


def _expand_at_loading(
    graph: onnx.GraphProto, name: str, width: int, steps: np.ndarray, scales: np.ndarray
) -> None:
    """Replace the 8-bit table by nodes that compute it from steps float32[V, N, B] and scales float32[V, N, 1]."""
    constants = {each.name: each for each in graph.initializer}
    eight = constants.get(f"{name}_quantized")
    if eight is None:
        raise ExportError(
            f"{name} is not stored in 8 bits, so it cannot be stored in 4; remove that variant from export.variants"
        )
    graph.initializer.remove(eight)
    graph.initializer.append(tensor_of_4_bits(f"{name}_4bit", steps))
    before = list[onnx.NodeProto]()

    def constant(suffix: str, value: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(value, f"{name}_4bit_{suffix}"))
        return f"{name}_4bit_{suffix}"

    def add(operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"{name}_4bit_{operator}"
        before.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    values = add("Mul", add("Cast", f"{name}_4bit", to=TensorProto.FLOAT), constant("scales", scales))
    blocks = add("QuantizeLinear", values, f"{name}_scale", f"{name}_zero_point")
    rows = add("Reshape", blocks, constant("shape", np.array([len(steps), -1])))
    if steps.shape[1] * steps.shape[2] > width:  # the last block is longer than the row
        begin, end, axis = (
            constant(key, np.array([at])) for key, at in (("begin", 0), ("end", width), ("axis", 1))
        )
        add("Slice", rows, begin, end, axis)
    before[-1].output[:] = [eight.name]
    nodes = [*before, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
