"""Static 8-bit quantization: the ranges of activations are measured beforehand, on training texts."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from ..errors import ExportError
from .onnx_export import INPUT_NAMES, save_onnx
from .quantize import EXTRA_OPTIONS, int8_products_saturate, prepared, quiet

MOST_TEXTS = 200
RangeMethod = Literal["minmax", "percentile", "entropy"]
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}


class _Rows(CalibrationDataReader):
    """One text at a time, without padding."""

    def __init__(self, rows: Sequence[np.ndarray]) -> None:
        self._rows = iter(rows)

    def get_next(self) -> Any:
        """The next text's inputs; None after the last."""
        row = next(self._rows, None)
        if row is None:
            return None
        ids = np.asarray(row, dtype=np.int64)[None]
        return dict(zip(INPUT_NAMES, (ids, np.ones_like(ids)), strict=True))


def quantize_static_onnx(
    source: Path, target: Path, rows: Sequence[np.ndarray], *, method: RangeMethod
) -> bool:
    """Write a copy of the graph ``source`` with 8-bit matrix products whose activations have fixed scales.

    The graph says so in pairs of QuantizeLinear and DequantizeLinear nodes (QDQ), which ONNX Runtime turns into
    integer kernels. Embedding tables are kept in 8 bits.

    Args:
        source: as for :func:`~distiltune.export.quantize.quantize_onnx`.
        target: as for :func:`~distiltune.export.quantize.quantize_onnx`.
        rows: token ids [L] of texts; ranges are measured on those of the most frequent length, for ONNX Runtime stacks
            what it measures, and padding would be measured too.
        method: minmax: the whole range; percentile: without the 0.001 % farthest out; entropy: the range that
            changes the distribution least.

    Returns:
        Whether weights were held to 7 bits.

    Raises:
        ExportError: there is no text.
    """
    if not rows:
        raise ExportError(
            f"static quantization by {method}: no training text to measure ranges on; give data.train texts, or leave "
            "the onnx-static variants out of export.variants"
        )
    reduce_range = int8_products_saturate()
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, quiet():
        raw = Path(folder) / target.name
        quantize_static(
            prepared(source),
            raw,
            _Rows(_of_one_length(rows)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=reduce_range,
            calibrate_method=_METHODS[method],
            extra_options=EXTRA_OPTIONS,
        )
        save_onnx(onnx.load(str(raw)), target)
    return reduce_range


def _of_one_length(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    [(length, _)] = Counter(len(row) for row in rows).most_common(1)
    return [row for row in rows if len(row) == length][:MOST_TEXTS]
