"""Compute a lower bound on the time of one inference on this machine: bytes over bandwidth, operations over rate.

Follows the roofline model (Williams, Waterman and Patterson 2009): a kernel takes at least the longer of the two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from ...errors import InputError
from ...texts import TextOrPair
from ..artifact.manifest import MODEL_FILE
from ..onnx.operation_counts import GraphCounts, count_graph
from ..runtime.session.session_options import session_options
from .processes import call_in_process
from .serving.texts_of_length import num_tokens

_OPSET = 18
_IR_VERSION = 9
_SIZE = 1024  # columns of the timed products
_NUM_ROWS = 256
_LEAST_BYTES = 1 << 16


@dataclass(frozen=True)
class MachineRates:
    """Best rates that one thread of this machine reaches.

    Attributes:
        bytes_per_s: repeated reads of as many bytes as the model's weights, from whichever cache they fit in.
        int8_operations_per_s: ONNX Runtime's product of 8-bit integers, 256 rows by 1024 by 1024.
        float_operations_per_s: the same in 32-bit floats.
    """

    bytes_per_s: float
    int8_operations_per_s: float
    float_operations_per_s: float


def measured_floors(
    directory: str | Path, shapes: Sequence[tuple[int, int]], *, seconds: float = 0.5
) -> dict[str, Any]:
    """Measure this machine's rates on one thread, in a fresh process, and compute the floor of each shape.

    Args:
        directory: an artifact or ONNX variant.
        shapes: ``(batch_size, num_tokens)`` of padded batches.
        seconds: duration of the measurement of each of the three rates.

    Returns:
        ``rates`` (``MachineRates``), ``working_set_mb``, and ``shapes``: for each ``batch_size``, ``num_tokens``, the
        ``GraphCounts`` and ``floor_ms``, the result of :func:`floor_ms`.

    Raises:
        InputError: there are no shapes, or one has a number below 1.
        RunFailedError: the process failed, or the graph has a node whose products cannot be counted.
    """
    if not shapes or any(min(shape) < 1 for shape in shapes):
        raise InputError(f"shapes is {list(shapes)}; give pairs of batch size and tokens, each 1 or more")
    arguments = {"directory": str(directory), "shapes": [list(shape) for shape in shapes], "seconds": seconds}
    return call_in_process("benchmark.roofline", "floors", arguments, what="the floors", num_threads=1)


def floor_of_text(directory: str, text: TextOrPair, seconds: float) -> dict[str, float]:
    """Compute :func:`floor_ms` of a single text, with rates measured in this process.

    Args:
        directory: an artifact or ONNX variant.
        text: any text or pair.
        seconds: duration of the measurement of each of the three rates.
    """
    counts = count_graph(Path(directory) / MODEL_FILE, batch_size=1, num_tokens=num_tokens(directory, text))
    return floor_ms(counts, measure_rates(counts.weight_bytes, seconds))


def floors(directory: str, shapes: list[list[int]], seconds: float) -> dict[str, Any]:
    """Compute the result of :func:`measured_floors` in this process."""
    path = Path(directory) / MODEL_FILE
    counts = [count_graph(path, batch_size=batch, num_tokens=tokens) for batch, tokens in shapes]
    working_set = counts[0].weight_bytes
    rates = measure_rates(working_set, seconds)
    return {
        "rates": asdict(rates),
        "working_set_mb": working_set / 2**20,
        "shapes": [
            {
                "batch_size": batch,
                "num_tokens": tokens,
                **asdict(counted),
                "floor_ms": floor_ms(counted, rates),
            }
            for (batch, tokens), counted in zip(shapes, counts, strict=True)
        ],
    }


def floor_ms(counts: GraphCounts, rates: MachineRates) -> dict[str, float]:
    """Compute ``bytes``, ``operations`` and the larger of them, ``floor``, in ms on one thread.

    Tokenization, and everything other than products and lookups, is not included.
    """
    by_bytes = (counts.weight_bytes + counts.embedding_bytes) / rates.bytes_per_s
    by_operations = (
        counts.int8_operations / rates.int8_operations_per_s
        + counts.float_operations / rates.float_operations_per_s
    )
    return {
        "bytes": by_bytes * 1000,
        "operations": by_operations * 1000,
        "floor": max(by_bytes, by_operations) * 1000,
    }


def measure_rates(working_set_bytes: int, seconds: float = 0.5) -> MachineRates:
    """Measure each rate as the best of many runs in ``seconds``, on the threads that this process's libraries use."""
    size = max(_LEAST_BYTES, working_set_bytes)
    floats, integers = np.ones(size // 4, np.float32), np.zeros(size, np.int8)
    # Two ways to read: which one is not limited by its arithmetic depends on NumPy's kernels.
    reading = min(
        _best_seconds(lambda: np.dot(floats, floats), seconds / 2),
        _best_seconds(integers.max, seconds / 2),
    )
    operations = 2 * _NUM_ROWS * _SIZE * _SIZE
    return MachineRates(
        bytes_per_s=size / reading,
        int8_operations_per_s=operations / _best_seconds(_product(is_int8=True), seconds),
        float_operations_per_s=operations / _best_seconds(_product(is_int8=False), seconds),
    )


def _product(*, is_int8: bool) -> Callable[[], Any]:
    """Return a call that runs one large matrix product with constant weights in ONNX Runtime, on one thread."""
    kind, inner = (np.uint8, np.int8) if is_int8 else (np.float32, np.float32)
    rng = np.random.default_rng(0)
    given = rng.integers(0, 100, (_NUM_ROWS, _SIZE)).astype(kind)
    weights = rng.integers(-100, 100, (_SIZE, _SIZE)).astype(inner)
    result = TensorProto.INT32 if is_int8 else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if is_int8 else "MatMul", ["given", "weights"], ["product"])],
        "product",
        [
            helper.make_tensor_value_info(
                "given", helper.np_dtype_to_tensor_dtype(np.dtype(kind)), given.shape
            )
        ],
        [helper.make_tensor_value_info("product", result, given.shape)],
        [numpy_helper.from_array(weights, "weights")],
    )
    opset = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(
        model.SerializeToString(), session_options(1, {}), providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"given": given})


def _best_seconds(call: Callable[[], Any], seconds: float) -> float:
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
