"""Fuse the attention, normalization and activation of an exported graph into ONNX Runtime's own nodes."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import onnx
import onnxscript.ir as ir
from onnxscript.rewriter.ort_fusions import optimize_for_ort

from .convert import save_onnx

logger = logging.getLogger(__name__)

ATTENTION_OPS = ("Attention", "MultiHeadAttention")
_REPORTED_OPS = (*ATTENTION_OPS, "SkipLayerNormalization", "BiasGelu")
_ORT_DOMAIN = "com.microsoft"


def fuse_onnx(source: Path, target: Path) -> dict[str, int]:
    """Write a fused copy of the graph ``source`` to ``target``.

    The last layer's attention, with one token as query and all tokens as keys and values, becomes a
    ``MultiHeadAttention``; the others become ``Attention``.

    Args:
        source: a graph exported with ``keep_shapes=True``: without shapes no attention is fused.
        target: the file to write.

    Returns:
        The number of fused nodes by type in the written graph; the main types are always present, with 0 where none
        was fused. A warning is logged when no attention was fused.

    Raises:
        ExportError: the fused graph is not valid.
    """
    model, _ = optimize_for_ort(ir.from_proto(onnx.load(str(source))))
    graph = ir.to_proto(model)
    save_onnx(graph, target)
    counts = count_fused(graph)
    if not any(counts[op] for op in ATTENTION_OPS):
        logger.warning("%s: no attention was fused (%s)", target.name, counts)
    return counts


def count_fused(graph: onnx.ModelProto) -> dict[str, int]:
    """Count the nodes of ONNX Runtime's own domain in ``graph``, by type."""
    found = Counter(node.op_type for node in graph.graph.node if node.domain == _ORT_DOMAIN)
    return {**dict.fromkeys(_REPORTED_OPS, 0), **dict(sorted(found.items()))}
