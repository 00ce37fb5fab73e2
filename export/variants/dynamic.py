"""Reduce the precision of ONNX graphs with ONNX Runtime's tools: 8-bit products, 4-/8-bit weights, 16-bit floats."""

from __future__ import annotations

import contextlib
import io
import logging
import platform
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import version_converter
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from ...errors import ExportError
from ..machine import describe_machine
from ..onnx.components import token_type_lookups
from ..onnx.convert import save_onnx
from ..onnx.integer_rows import feed_integer_rows
from .small_table import INT4_OPSET, largest_table

BLOCK_SIZE = 32  # weights that share a scale in 4 and 8 bits; ONNX Runtime's kernels need 16 or more
EXTRA_OPTIONS = {"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True}
_INT8_PRODUCTS = 4  # ONNX Runtime's accuracy level: activations are quantized dynamically, which is faster
_X86 = {"x86_64", "amd64", "i386", "i686"}
_VNNI = {"avx_vnni", "avx512_vnni", "amx_int8"}


def quantize_onnx(
    source: Path,
    target: Path,
    *,
    per_channel: bool = False,
    reduce_range: bool | None = None,
    operators: Sequence[str] | None = None,
    nodes: Sequence[str] = (),
) -> bool:
    """Write a dynamically quantized copy of the 32-bit graph ``source`` to ``target``.

    Matrix multiplications with constant weights get int8 weights and dynamically quantized activations. Embedding
    tables, which take most of the size, are also stored in 8 bits; a product whose input is nothing but looked-up rows
    reads these 8 bits as they are. In a fused graph the attention's projections stay in 32 bits.

    Args:
        source: a graph of :func:`~distiltune.export.onnx.convert.export_onnx`, or made from one.
        target: the file, written atomically.
        per_channel: use one scale per column of a weight instead of one per weight.
        reduce_range: limit weights to 7 bits; default: only if this machine's 8-bit products may overflow.
        operators: node types to quantize; default: all that are supported.
        nodes: names of the only nodes to quantize; default: all.

    Returns:
        Whether weights were limited to 7 bits.
    """
    reduce_range = int8_products_saturate() if reduce_range is None else reduce_range
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, quiet():
        raw = Path(folder) / target.name
        plain = prepared(source)
        quantize_dynamic(
            plain,
            raw,
            op_types_to_quantize=None if operators is None else list(operators),
            # Before quantization, a Gemm becomes a MatMul with this name, and an Add.
            nodes_to_quantize=[each for name in nodes for each in (name, f"{name}_MatMul")],
            nodes_to_exclude=token_type_lookups(plain.graph),
            per_channel=per_channel,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            extra_options=EXTRA_OPTIONS,
        )
        graph = onnx.load(str(raw))
        feed_integer_rows(graph)
        save_onnx(graph, target)
    return reduce_range


def prepared(source: Path) -> onnx.ModelProto:
    """Load the graph ``source`` in the form that ONNX Runtime's quantizers expect."""
    graph = onnx.load(str(source))
    del graph.graph.value_info[:]  # a single stale shape makes the quantizer fail
    # Marks the graph as preprocessed; without it the quantizer warns through the root logger.
    graph.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    return graph


def int8_products_saturate() -> bool:
    """Return whether 8-bit products may overflow: an x86 processor without VNNI adds them in 16 bits."""
    instruction_sets = set(describe_machine()["instruction_sets"])
    return platform.machine().lower() in _X86 and not instruction_sets & _VNNI


def quantize_weights(source: Path, target: Path, *, bits: int) -> None:
    """Write a copy of the graph ``source`` whose weight matrices have 4 or 8 bits, in blocks with scales.

    Args:
        source: as for :func:`quantize_onnx`.
        target: as for :func:`quantize_onnx`.
        bits: bits per weight; each block of ``BLOCK_SIZE`` weights along the input shares a scale.

    Raises:
        ExportError: no matrix could be quantized.
    """
    _quantize_blocks(source, target, bits=bits, operator="MatMul", made="MatMulNBits")


def quantize_embeddings(source: Path, target: Path) -> None:
    """Write a copy of the graph ``source`` whose largest embedding table has 4 bits.

    Args:
        source: as for :func:`quantize_onnx`.
        target: as for :func:`quantize_onnx`.

    Raises:
        ExportError: there is no such table.
    """
    _quantize_blocks(source, target, bits=4, operator="Gather", made="GatherBlockQuantized")


def to_half(source: Path, target: Path, *, keep: Sequence[str] = ()) -> None:
    """Write a copy of the graph ``source`` in 16-bit floats, half the size; logits and CPU arithmetic stay in 32 bits.

    Args:
        source: as for :func:`quantize_onnx`.
        target: as for :func:`quantize_onnx`.
        keep: types of nodes that stay in 32 bits on every device.
    """
    graph, blocked = onnx.load(str(source)), [*DEFAULT_OP_BLOCK_LIST, *keep]
    with quiet():
        half: Any = convert_float_to_float16(
            graph, keep_io_types=True, disable_shape_infer=False, op_block_list=blocked
        )
    _order_casts(half)
    save_onnx(half, target)


def _order_casts(model: onnx.ModelProto) -> None:
    """Sort the nodes, in place: the converter appends its casts, and one for each reader of a shared constant."""
    made: set[tuple[str, ...]] = set()
    again = []
    for place, node in enumerate(model.graph.node):
        if tuple(node.output) in made:
            again.append(place)
        made.add(tuple(node.output))
    for place in reversed(again):
        del model.graph.node[place]
    ONNXModel(model).topological_sort()


def _quantize_blocks(source: Path, target: Path, *, bits: int, operator: str, made: str) -> None:
    graph = onnx.load(str(source))
    table = largest_table(graph.graph)
    lookups = [node for node in graph.graph.node if node.op_type == "Gather"]
    others = [node for node in lookups if table is None or node.input[0] != table.name]
    for number, node in enumerate(others):
        node.name = node.name or f"lookup_{number}"  # nodes are excluded by their names
    with quiet():
        # Imported here, because it configures the root logger on first import.
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            DefaultWeightOnlyQuantConfig,
            MatMulNBitsQuantizer,
        )

        if operator == "Gather":
            opset = next(each.version for each in graph.opset_import if not each.domain)
            graph = version_converter.convert_version(graph, max(opset, INT4_OPSET))
        quantizer: Any = MatMulNBitsQuantizer(
            graph,
            nodes_to_exclude=[node.name for node in others],
            algo_config=DefaultWeightOnlyQuantConfig(
                block_size=BLOCK_SIZE,
                is_symmetric=True,
                accuracy_level=_INT8_PRODUCTS,
                bits=bits,
                op_types_to_quantize=(operator,),
                quant_axes=(("MatMul", 0), ("Gather", 1)),
            ),
        )
        quantizer.process()
    quantized = quantizer.model.model
    if not any(node.op_type == made for node in quantized.graph.node):
        raise ExportError(
            f"no {operator} of the graph could be quantized to {bits} bits; remove that variant from export.variants"
        )
    # The quantizer stores a table once for each node that looks up its rows.
    once = {each.name: each for each in quantized.graph.initializer}
    quantized.graph.ClearField("initializer")
    quantized.graph.initializer.extend(once.values())
    save_onnx(quantized, target)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep ONNX Runtime's quantizer from writing to stdout and the root logger, and from configuring that logger."""
    root = logging.getLogger()
    silent = logging.NullHandler()  # without any handler, logging.info() would install one permanently

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return "quantization" not in Path(record.pathname).parts

    root.addHandler(silent)
    root.addFilter(from_elsewhere)
    try:
        # A block of zeros is divided by its scale of zero, and still results in zeros.
        with contextlib.redirect_stdout(io.StringIO()), np.errstate(invalid="ignore", divide="ignore"):
            yield
    finally:
        root.removeFilter(from_elsewhere)
        root.removeHandler(silent)
