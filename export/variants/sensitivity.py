"""Measure the error of the logits when only one part of a graph is quantized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from ...errors import ExportError
from ...storage.temporary import temporary_directory
from ..onnx.components import products_by_part, tables_by_part
from ..onnx.parts import ATTENTION_PRODUCTS, Part
from ..onnx.writer import INPUT_NAMES
from .dynamic import quantize_onnx
from .parity import Logits, onnx_logits
from .rows import ids_of, inputs_of

NUM_TEXTS = 64
_FIRST_WORDS = 8
QuantizeNodes = Callable[[Path, Path, list[str]], object]
"""Writes a copy of the graph at the first path to the second path, in which only the named nodes are quantized."""


@dataclass(frozen=True)
class PartError:
    """The error from quantizing one part alone.

    Attributes:
        part: Name of the part, such as ``layer 0 feed-forward out``.
        group, layer: As in :class:`~distiltune.export.onnx.parts.Part`.
        nodes: Names of its nodes in the plain graph.
        error: Result of :func:`logits_error`.
        is_product: Whether it contains matrix products, unlike an embedding table.
    """

    part: str
    group: str
    layer: int | None
    nodes: list[str]
    error: float
    is_product: bool


def logits_error(expected: np.ndarray, actual: np.ndarray) -> float:
    """Compute the mean squared difference of logits[N, C] over the variance of the expected ones.

    This is the inverse of the signal-to-quantization-noise ratio. The errors of parts quantized alone nearly add up to
    the error of quantizing them together.
    """
    return float(np.mean((actual - expected) ** 2) / max(float(np.var(expected)), np.finfo(np.float32).tiny))


class ReferenceLogits:
    """Logits of a 32-bit graph on a few texts, to compare quantized graphs with.

    Args:
        source: The graph.
        rows: Token ids of texts, as ``rows.Rows``; at most ``NUM_TEXTS``, evenly spaced, are used.

    Raises:
        ExportError: There are no texts.
    """

    def __init__(self, source: Path, rows: Sequence[np.ndarray]) -> None:
        if not rows:
            raise ExportError(
                "export.sensitivity: no training text to compare logits on; add texts to data.train, or set it to "
                "false"
            )
        self._rows = spread(rows, NUM_TEXTS)
        self._expected = self._logits(onnx_logits(source))

    def error_of(self, path: Path) -> float:
        """Compute the :func:`logits_error` of the graph at ``path``."""
        return logits_error(self._expected, self._logits(onnx_logits(path)))

    def _logits(self, run: Logits) -> np.ndarray:
        # One text at a time, as in serving: a dynamically quantized input has the range of its batch.
        found = [run(*inputs_of(row)) for row in self._rows]
        # A text has one row of logits, or one for each of its tokens.
        return np.concatenate([each.reshape(-1, each.shape[-1]) for each in found])


def spread(rows: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Return at most ``count`` rows, evenly spaced, because texts are often sorted by label."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows)))
    return [rows[int(place)] for place in places]


def rank_parts(
    source: Path, rows: Sequence[np.ndarray], quantize: QuantizeNodes, *, products: bool
) -> list[PartError]:
    """Quantize each part of the plain graph ``source`` alone, and rank the parts by the error, largest first.

    Args:
        source: A graph of :func:`~distiltune.export.onnx.convert.export_onnx`.
        rows: As for :class:`Probe`.
        quantize: Quantizes the nodes of one part.
        products: Whether ``quantize`` also applies to products of two activations.

    Raises:
        ExportError: There are no texts.
    """
    ranked = []
    with temporary_directory("sensitivity") as folder:
        small, path = folder / "plain.onnx", folder / "part.onnx"
        model, rows = _with_used_words(onnx.load(str(source)), spread(rows, NUM_TEXTS))
        onnx.save_model(model, str(small))
        reference = ReferenceLogits(small, rows)
        tables, weights = tables_by_part(model.graph), products_by_part(model.graph)
        for part, nodes in [*tables.items(), *weights.items()]:
            if part.name == ATTENTION_PRODUCTS and not products:
                continue
            quantize(small, path, nodes)
            ranked.append(_part_error(part, nodes, reference.error_of(path), part in weights))
    return sorted(ranked, key=lambda each: -each.error)


def dynamic_sensitivity(
    source: Path, rows: Sequence[np.ndarray], *, per_channel: bool = False
) -> list[PartError]:
    """Measure the error from dynamic 8-bit quantization of each part of the plain graph ``source``, largest first.

    Args:
        source: As for :func:`rank_parts`.
        rows: As for :class:`Probe`; from training texts.
        per_channel: As for :func:`~distiltune.export.variants.dynamic.quantize_onnx`.

    Raises:
        ExportError: There are no texts.
    """

    def quantize(source: Path, target: Path, nodes: list[str]) -> None:
        quantize_onnx(source, target, per_channel=per_channel, nodes=nodes)

    return rank_parts(source, rows, quantize, products=False)


def _with_used_words(
    model: onnx.ModelProto, rows: Sequence[np.ndarray]
) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """Drop unused rows of the word embeddings and renumber the token ids: the same logits from a smaller file.

    The rows that determine the table's range are kept, so that it is quantized like the whole table.
    """
    readers = [node for node in model.graph.node if INPUT_NAMES[0] in node.input and node.op_type != "Shape"]
    names = [node.input[0] for node in readers if node.op_type == "Gather"]
    tables = [each for each in model.graph.initializer if each.name in names]
    # Ids that other nodes read too, such as a Pad, cannot be renumbered.
    if not rows or len(tables) != 1 or len(readers) != 1:
        return model, list(rows)
    table = numpy_helper.to_array(tables[0])
    extremes = [place // table.shape[1] for place in (int(table.argmin()), int(table.argmax()))]
    # The first ids stay the same, because roberta counts positions from its padding id.
    used = [ids_of(row) for row in rows]
    kept = np.unique(np.concatenate([np.arange(min(_FIRST_WORDS, len(table))), extremes, *used]))
    tables[0].CopyFrom(numpy_helper.from_array(table[kept], tables[0].name))
    return model, [_renumbered(row, kept) for row in rows]


def _renumbered(row: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return one of ``Rows`` with each id replaced by its position in ``kept``."""
    ids = np.searchsorted(kept, ids_of(row))
    return ids if row.ndim == 1 else np.stack([ids, row[1]])


def _part_error(part: Part, nodes: list[str], error: float, is_product: bool) -> PartError:
    return PartError(str(part), part.group, part.layer, list(nodes), error, is_product)
