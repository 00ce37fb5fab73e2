"""Write a classifier's ONNX graph node by node: input_ids and, where it is read, attention_mask in, logits out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INPUT_NAMES = ("input_ids", "attention_mask")
TOKEN_TYPES = "token_type_ids"
"""Further input of a graph of pairs, if the model distinguishes the two texts by it."""
OUTPUT_NAME = "logits"
WEIGHTS_PREFIX = "model."
"""Prefix of the names of weights, which are otherwise those in the PyTorch model."""
_IR_VERSION = 10
_AXES = ("batch", "sequence")


class GraphWriter:
    """Collect the nodes and constants of a graph in the order in which they are computed.

    Example:
        ```python
        writer = GraphWriter()
        rows = writer.add("Gather", writer.weight("table", table), "input_ids")  # [B, L, D]
        ```
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def weight(self, name: str, values: np.ndarray) -> str:
        """Add a weight under the name that it has in the model, and return its name in the graph."""
        return self._constant(f"{WEIGHTS_PREFIX}{name}", values)

    def integers_of_4_bits(self, name: str, values: np.ndarray) -> str:
        """Add a weight of integers from -8 to 7, stored in 4 bits, and return its name; needs opset 21."""
        name = f"{WEIGHTS_PREFIX}{name}"
        self._constants.setdefault(name, tensor_of_4_bits(name, values))
        return name

    def integers(self, *values: int) -> str:
        """Add int64[n], such as axes or a shape, and return its name; equal ones are stored once."""
        name = "integers_" + "_".join(str(value).replace("-", "minus") for value in values)
        return self._constant(name, np.array(values, dtype=np.int64))

    def scalar(self, value: float, dtype: Any) -> str:
        """Add a scalar and return its name; equal ones are stored once."""
        return self._constant(f"{np.dtype(dtype).name}_{value}", np.array(value, dtype=dtype))

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, and return the output's name; ``domain`` is by default that of ONNX itself."""
        name = f"{op_type}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, inputs, [name.lower()], name=name, **attributes))
        return self._nodes[-1].output[0]

    def linear(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """Add ``x @ weight.T + bias``, for weight[F, D] and bias[F] of the module ``name``, and return its name."""
        # MatMul and Add, which ONNX Runtime joins, rather than Gemm: quantizers of weights support only MatMul.
        product = self.add("MatMul", x, self.weight(f"{name}.weight", np.ascontiguousarray(weight.T)))
        return self.add("Add", product, self.weight(f"{name}.bias", bias))

    def graph(self, logits: str, num_labels: int, opset: int) -> onnx.ModelProto:
        """Return the graph with the value ``logits``, float[B, C], as its output, and the inputs that its nodes read.

        Args:
            logits: Name of the value, which the last node computes.
            num_labels: Number of labels, C.
            opset: ONNX opset version.
        """
        assert self._nodes[-1].output[0] == logits
        self._nodes[-1].output[0] = OUTPUT_NAME
        read = {name for node in self._nodes for name in node.input}
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, _AXES)
            for name in INPUT_NAMES
            if name in read
        ]
        output = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, (_AXES[0], num_labels))
        graph = helper.make_graph(self._nodes, "classifier", inputs, [output], list(self._constants.values()))
        imports = [helper.make_opsetid("", opset)]
        imports += [
            helper.make_opsetid(each, 1) for each in sorted({node.domain for node in self._nodes}) if each
        ]
        return helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)

    def _constant(self, name: str, values: np.ndarray) -> str:
        self._constants.setdefault(name, numpy_helper.from_array(values, name))
        return name


def tensor_of_4_bits(name: str, values: np.ndarray) -> TensorProto:
    """Return integers from -8 to 7, an even number of them, as a constant of 4 bits, two in a byte."""
    packed = np.ascontiguousarray(values.astype(np.int8)).reshape(-1, 2) & 0xF
    content = (packed[:, 0] | packed[:, 1] << 4).astype(np.uint8).tobytes()
    return helper.make_tensor(name, TensorProto.INT4, values.shape, content, raw=True)
