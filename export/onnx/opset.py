"""Determine which ONNX opset versions the installed packages support."""

from __future__ import annotations

from ...errors import ConfigError
from .convert import OPSET


def accepted_opsets() -> range:
    """Return the opsets from the exporter's default to the newest that both onnx and ONNX Runtime support.

    ONNX Runtime does not list them, so each is tried with a graph of one node.
    """
    import onnx

    newest = onnx.defs.onnx_opset_version()
    while newest > OPSET and not _is_loaded(newest):
        newest -= 1
    return range(OPSET, newest + 1)


def check_opset(opset: int) -> None:
    """Check that an opset can be written and run.

    Raises:
        ConfigError: The opset is not supported; the message names those that are.
    """
    import onnxruntime

    accepted = accepted_opsets()
    if opset not in accepted:
        raise ConfigError(
            f"export.opset: {opset} given; {accepted[0]} to {accepted[-1]} accepted, which the exporter writes and "
            f"onnxruntime {onnxruntime.__version__} runs; choose one of them, or install a newer onnxruntime"
        )


def _is_loaded(opset: int) -> bool:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a failure is expected
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # its errors share no base class but Exception
        return False
    return True
