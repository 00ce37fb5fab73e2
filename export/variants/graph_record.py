"""Record the contents of an exported graph: bytes by part, parts left in 32 bits, one matrix's values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from ..onnx.components import bytes_by_group, part_of, products_by_part
from ..onnx.parts import FILTERS
from .base import Quantized
from .sensitivity import PartError

BINS_PER_STEP = 4


@dataclass(frozen=True)
class WeightHistogram:
    """A weight matrix before and after quantization.

    Attributes:
        name: Name of the matrix.
        part: Part of the model, such as ``layer 0 feed-forward in``.
        step: Distance between adjacent quantized values.
        lowest: Lower edge of the first bin of ``before``; the lowest level is half a step above.
        before: Number of 32-bit weights in each bin, with ``BINS_PER_STEP`` bins per step.
        after: Number of quantized weights at each level, from the lowest.
    """

    name: str
    part: str
    step: float
    lowest: float
    before: list[int]
    after: list[int]


@dataclass(frozen=True)
class GraphRecord:
    """Contents of an exported graph.

    Attributes:
        bytes_by_part: Bytes of its constants, by ``parts.GROUPS``, and ``structure``: the rest of the file.
        excluded: Parts left in 32 bits by static quantization.
        excluded_nodes: Nodes of those parts.
        logits_error: Error of a statically quantized graph on training texts; see ``sensitivity.logits_error``.
        sensitivity: Error from quantizing each part to 8 bits, largest first.
        weights: One matrix before and after quantization: that of the most sensitive part, or of the first
            ``feed-forward in``, or of the filters. None where its weights do not share one scale.
    """

    bytes_by_part: dict[str, int]
    excluded: list[str]
    excluded_nodes: list[str]
    logits_error: float | None
    sensitivity: list[PartError] | None
    weights: WeightHistogram | None


def describe_graph(plain: Path | None, path: Path, quantized: Quantized) -> GraphRecord:
    """Record the contents of the graph ``path``, which was made from ``plain``, or from a checkpoint."""
    model = onnx.load(str(path))
    sizes = bytes_by_group(model)
    excluded = quantized.excluded or []
    return GraphRecord(
        bytes_by_part={**sizes, "structure": path.stat().st_size - sum(sizes.values())},
        excluded=[each.part for each in excluded],
        excluded_nodes=[node for each in excluded for node in each.nodes],
        logits_error=quantized.logits_error,
        sensitivity=quantized.sensitivity,
        weights=None if plain is None else _one_matrix(plain, model.graph, quantized.sensitivity or []),
    )


def _one_matrix(plain: Path, made: onnx.GraphProto, ranking: Sequence[PartError]) -> WeightHistogram | None:
    """Return the histogram of the most sensitive part with a matrix, or else of the first feed-forward part."""
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
    wanted += [part for part in products if part.endswith(("feed-forward in", FILTERS))]
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
