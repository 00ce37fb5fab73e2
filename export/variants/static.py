"""Static 8-bit quantization, with the ranges of activations calibrated on training texts."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    create_calibrator,
    quantize_static,
)
from onnxruntime.quantization.calibrate import save_tensors_data

from ...errors import ExportError
from ..onnx.components import pooling_products, token_type_lookups
from ..onnx.convert import save_onnx
from ..onnx.writer import INPUT_NAMES, TOKEN_TYPES
from .dynamic import EXTRA_OPTIONS, int8_products_saturate, prepared, quiet
from .rows import ids_of, inputs_of
from .sensitivity import PartError, ReferenceLogits, rank_parts, spread

MOST_TEXTS = 200
RangeMethod = Literal["minmax", "percentile", "entropy"]
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
# A product's output is added to its bias in 32 bits: rounding it first costs time and doubles the error.
_PRODUCTS = ["MatMul", "Gemm"]
_OPTIONS = {**EXTRA_OPTIONS, "OpTypesToExcludeOutputQuantization": _PRODUCTS}
_OPERATORS = [*_PRODUCTS, "Gather"]
_SYMMETRIC = {
    **_OPTIONS,
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,  # TensorRT does not support an integer bias
    "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
}
# Bins of the histogram, and levels of a range. quantize_static uses 128 for both, which leaves the whole range
# as its only candidate.
_ENTROPY = {"num_bins": 512, "num_quantized_bins": 128}
_LEAST_GAIN = 0.2  # share of the error that leaving a part in 32 bits must save, as it costs size and time


@dataclass(frozen=True)
class StaticQuantization:
    """Result of the static quantization of a graph.

    Attributes:
        reduce_range: Whether weights were limited to 7 bits.
        error: Its :func:`~distiltune.export.variants.sensitivity.logits_error` on training texts.
        excluded: Parts whose products were left in 32 bits, in the order of selection.
        ranking: All parts by sensitivity; None where that was not measured.
    """

    reduce_range: bool
    error: float
    excluded: list[PartError]
    ranking: list[PartError] | None


class _CalibrationRows(CalibrationDataReader):
    """Calibration data: one text at a time, without padding."""

    def __init__(self, rows: Sequence[np.ndarray]) -> None:
        self._rows = iter(rows)

    def get_next(self) -> Any:
        """Return the inputs of the next text; None after the last."""
        row = next(self._rows, None)
        if row is None:
            return None
        inputs = inputs_of(row)
        return dict(zip((*INPUT_NAMES, TOKEN_TYPES)[: len(inputs)], inputs, strict=True))


class _Quantizer:
    """Quantize all or some nodes of one graph with the same ranges, calibrated once and cached in ``folder``."""

    def __init__(self, source: Path, rows: Sequence[np.ndarray], method: RangeMethod, folder: Path) -> None:
        self.reduce_range = int8_products_saturate()
        self._source, self._method = source, _METHODS[method]
        self._rows, self._ranges = _of_one_length(rows), folder / "ranges.json"
        graph = onnx.load(str(source)).graph
        # Neither has large weights, and both take hardly any time.
        self._left_out = [*pooling_products(graph), *token_type_lookups(graph)]

    def without(self, nodes: Sequence[str], target: Path) -> None:
        """Quantize all nodes except ``nodes``."""
        self._quantize(self._source, target, excluded=nodes)

    def only(self, source: Path, target: Path, nodes: list[str]) -> None:
        """Quantize only ``nodes`` of the graph, or of one with the same inner values; call :meth:`without` first."""
        self._quantize(source, target, nodes)

    def _quantize(
        self, source: Path, target: Path, nodes: Sequence[str] = (), *, excluded: Sequence[str] = ()
    ) -> None:
        with quiet():
            if self._method is CalibrationMethod.Entropy and not self._ranges.exists():
                self._measure_by_entropy(source)
            quantize_static(
                prepared(source),
                target,
                _CalibrationRows(self._rows),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_OPERATORS,
                nodes_to_quantize=list(nodes),
                nodes_to_exclude=[*excluded, *self._left_out],
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                reduce_range=self.reduce_range,
                calibrate_method=self._method,
                calibration_cache_path=self._ranges,
                extra_options=_OPTIONS,
            )

    def _measure_by_entropy(self, source: Path) -> None:
        with tempfile.TemporaryDirectory(dir=self._ranges.parent) as folder:
            plain = Path(folder) / "plain.onnx"
            onnx.save_model(prepared(source), str(plain))
            calibrator = create_calibrator(
                plain,
                _OPERATORS,
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=self._method,
                extra_options=_ENTROPY,
            )
            assert calibrator is not None
            calibrator.collect_data(_CalibrationRows(self._rows))
            save_tensors_data(calibrator.compute_data(), self._ranges)


def quantize_static_onnx(
    source: Path,
    target: Path,
    rows: Sequence[np.ndarray],
    *,
    method: RangeMethod,
    max_error: float = 0.005,
    max_excluded: int = 2,
    rank: bool = False,
) -> StaticQuantization:
    """Write a copy of the graph ``source`` with 8-bit matrix products whose activations have fixed scales.

    The graph contains pairs of QuantizeLinear and DequantizeLinear nodes (QDQ), which ONNX Runtime turns into
    integer kernels. Embedding tables are stored in 8 bits. If the error of the logits is too large, the most
    sensitive parts stay in 32 bits, as long as each lowers the error by a fifth.

    Args:
        source: as for :func:`~distiltune.export.variants.dynamic.quantize_onnx`.
        target: as for :func:`~distiltune.export.variants.dynamic.quantize_onnx`.
        rows: token ids of texts, as ``rows.Rows``; ranges are calibrated on texts of the most frequent length, because
            ONNX Runtime stacks the values it collects, and would include padding.
        method: minmax: the whole range; percentile: without the 0.001 % farthest out; entropy: the range that
            changes the distribution least.
        max_error: error of the logits on training texts, as a share of their variance, above which parts are left out.
        max_excluded: maximum number of parts that are left out.
        rank: whether to measure every part's sensitivity in any case.

    Raises:
        ExportError: there are no texts.
    """
    _check_rows(rows, f"static quantization by {method}")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        quantizer, best = _Quantizer(source, rows, method, Path(folder)), Path(folder) / target.name
        quantizer.without([], best)
        reference = ReferenceLogits(source, rows)
        error, excluded, ranking = reference.error_of(best), [], None
        if rank or (error > max_error and max_excluded):
            ranking = rank_parts(source, rows, quantizer.only, products=True)
        candidates = [each for each in ranking or [] if each.is_product][:max_excluded]
        while error > max_error and candidates:
            tried = [*excluded, candidates.pop(0)]
            attempt = Path(folder) / f"without-{len(tried)}.onnx"
            quantizer.without([node for each in tried for node in each.nodes], attempt)
            lower = reference.error_of(attempt)
            if lower > (1 - _LEAST_GAIN) * error:
                break
            best, error, excluded = attempt, lower, tried
        save_onnx(onnx.load(str(best)), target)
    return StaticQuantization(quantizer.reduce_range, error, excluded, ranking)


def quantize_symmetric(source: Path, target: Path, rows: Sequence[np.ndarray]) -> None:
    """Write a copy of the graph ``source`` with int8 products as TensorRT requires them: QDQ pairs with zero point 0.

    Activations have one scale each, calibrated by their whole range, and weights one for each column. Biases, sums and
    embedding tables stay in 32 bits. Weights have all 8 bits on every machine, since a GPU adds products in 32 bits.

    Args:
        source: as for :func:`quantize_static_onnx`.
        target: as for :func:`quantize_static_onnx`.
        rows: as for :func:`quantize_static_onnx`.

    Raises:
        ExportError: there are no texts.
    """
    _check_rows(rows, "static quantization for TensorRT")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, quiet():
        raw = Path(folder) / target.name
        quantize_static(
            prepared(source),
            raw,
            _CalibrationRows(_of_one_length(rows)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_PRODUCTS,
            nodes_to_exclude=pooling_products(onnx.load(str(source)).graph),
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options=_SYMMETRIC,
        )
        save_onnx(onnx.load(str(raw)), target)


def _check_rows(rows: Sequence[np.ndarray], what: str) -> None:
    if not rows:
        raise ExportError(
            f"{what}: no training text to measure ranges on; add texts to data.train, or remove the variants with "
            f"static quantization from export.variants"
        )


def _of_one_length(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    [(length, _)] = Counter(len(ids_of(row)) for row in rows).most_common(1)
    return spread([row for row in rows if len(ids_of(row)) == length], MOST_TEXTS)
