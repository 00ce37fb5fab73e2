"""The record of what an exported graph consists of: bytes by part, parts left in 32 bits, one matrix's values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from ..onnx.components import bytes_by_group, part_of, products_by_part
from .base import Quantized
from .sensitivity import PartError

BINS_PER_STEP = 4


@dataclass(frozen=True)
class WeightHistogram:
    """A weight matrix before and after quantization.

    Attributes:
        name: Of the matrix.
        part: As ``layer 0 feed-forward in``.
        step: Distance of two quantized values.
        lowest: Where the first bin of ``before`` begins, and the first level lies half a step above.
        before: How many 32-bit weights lie in each bin, ``BINS_PER_STEP`` bins a step.
        after: How many quantized weights have each value, from the lowest level on.
    """

    name: str
    part: str
    step: float
    lowest: float
    before: list[int]
    after: list[int]


@dataclass(frozen=True)
class GraphRecord:
    """What a graph consists of.

    Attributes:
        bytes_by_part: Of its constants, by ``parts.GROUPS``, and ``structure``: the rest of the file.
        excluded: Parts left in 32 bits by static quantization.
        excluded_nodes: Their nodes.
        logits_error: Of a statically quantized graph, on training texts; see ``sensitivity.logits_error``.
        sensitivity: What each part loses to 8 bits, the worst first.
        weights: One matrix before and after: the most sensitive, or the first into a feed-forward part. None where
            weights do not share one scale.
    """

    bytes_by_part: dict[str, int]
    excluded: list[str]
    excluded_nodes: list[str]
    logits_error: float | None
    sensitivity: list[PartError] | None
    weights: WeightHistogram | None


def describe_graph(plain: Path, path: Path, quantized: Quantized) -> GraphRecord:
    """The record of the graph ``path``, made from ``plain``."""
    model = onnx.load(str(path))
    sizes = bytes_by_group(model)
    excluded = quantized.excluded or []
    return GraphRecord(
        bytes_by_part={**sizes, "structure": path.stat().st_size - sum(sizes.values())},
        excluded=[each.part for each in excluded],
        excluded_nodes=[node for each in excluded for node in each.nodes],
        logits_error=quantized.logits_error,
        sensitivity=quantized.sensitivity,
        weights=_one_matrix(plain, model.graph, quantized.sensitivity or []),
    )


def _one_matrix(plain: Path, made: onnx.GraphProto, ranking: Sequence[PartError]) -> WeightHistogram | None:
    """Of the most sensitive part that has one, of the first feed-forward part otherwise."""
    tensors = {each.name: each for each in made.initializer}
    names = [name.removesuffix("_quantized") for name in tensors if name.endswith(".weight_quantized")]
    if not names:
        return None
    graph = onnx.load(str(plain)).graph
    weight_of = {node.name: node.input[1] for node in graph.node if len(node.input) > 1}
    products = {
        str(part): [weight_of[node] for node in nodes] for part, nodes in products_by_part(graph).items()
    }
    wanted = [each.part for each in ranking if each.is_product]
    wanted += [part for part in products if part.endswith("feed-forward in")]
    name = next((name for part in wanted for name in products.get(part, []) if name in names), None)
    if name is None:
        return None
    scale = numpy_helper.to_array(tensors[f"{name}_scale"])
    levels = numpy_helper.to_array(tensors[f"{name}_quantized"])
    before = next(each for each in graph.initializer if each.name == name)
    if scale.size != 1 or levels.dtype != np.int8 or before.data_type != onnx.TensorProto.FLOAT:
        return None
    return _histogram(name, numpy_helper.to_array(before), levels, float(scale.reshape(())))


def _histogram(name: str, before: np.ndarray, levels: np.ndarray, step: float) -> WeightHistogram:
    low, high = int(levels.min()), int(levels.max())
    lowest = (low - 0.5) * step
    edges = lowest + step / BINS_PER_STEP * np.arange((high - low + 1) * BINS_PER_STEP + 1)
    counts, _ = np.histogram(np.clip(before, edges[0], edges[-1]), edges)
    after = np.bincount((levels.astype(np.int64) - low).ravel(), minlength=high - low + 1)
    return WeightHistogram(name, str(part_of(name)), step, lowest, counts.tolist(), after.tolist())
