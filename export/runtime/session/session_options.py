"""ONNX Runtime session options that an artifact may contain: names, accepted values, and their effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnxruntime as ort

MAX_THREADS = 1024
"""Upper bound on threads, because ONNX Runtime creates as many as requested."""

_LOG_FATAL_ONLY = 4  # errors are raised as well
_LEVELS = {
    "disable_all": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "layout": ort.GraphOptimizationLevel.ORT_ENABLE_LAYOUT,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_MODES = {
    "sequential": ort.ExecutionMode.ORT_SEQUENTIAL,
    "parallel": ort.ExecutionMode.ORT_PARALLEL,
}
# session.set_denormal_as_zero is left out: ONNX Runtime applies it only in the first session of a process, and
# then to all arithmetic of the thread that opened it, NumPy's included.
VALUES: dict[str, tuple[Any, ...]] = {
    "enable_cpu_mem_arena": (True, False),
    "enable_mem_pattern": (True, False),
    "allow_spinning": (True, False),
    "disable_prepacking": (True, False),
    "graph_optimization_level": tuple(_LEVELS),
    "execution_mode": tuple(_MODES),
}
"""Accepted values by option, under ONNX Runtime's names. Options that are not given keep their defaults."""


def check_session(chosen: Any) -> None:
    """Check that ``chosen`` is an object of known session options.

    Raises:
        ValueError: an option is unknown or has a wrong value; the message names it and the accepted values.
    """
    if not isinstance(chosen, Mapping):
        raise ValueError(f"it is {chosen!r:.60}, but must be an object of session options")
    for name, value in chosen.items():
        if name not in VALUES:
            raise ValueError(f"unknown option {name!r:.60}; accepted: {', '.join(VALUES)}")
        # 1 == True, but a number is not a valid boolean here.
        if type(value) is not type(VALUES[name][0]) or value not in VALUES[name]:
            allowed = ", ".join(str(each).lower() for each in VALUES[name])
            raise ValueError(f"{name} is {value!r:.60}; it must be one of {allowed}")


def session_options(num_threads: int, chosen: Mapping[str, Any]) -> ort.SessionOptions:
    """Return ONNX Runtime's options for a session with ``num_threads`` intra-op threads.

    Args:
        num_threads: 1 or more; with ``execution_mode: parallel`` also the number of inter-op threads.
        chosen: options that pass ``check_session``.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = num_threads if chosen.get("execution_mode") == "parallel" else 1
    options.log_severity_level = _LOG_FATAL_ONLY
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # With one thread the caller does all the work; with more, spinning keeps the others awake between operators.
    spinning = chosen.get("allow_spinning", num_threads > 1)
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    options.enable_cpu_mem_arena = chosen.get("enable_cpu_mem_arena", True)
    options.enable_mem_pattern = chosen.get("enable_mem_pattern", True)
    if chosen.get("disable_prepacking"):
        options.add_session_config_entry("session.disable_prepacking", "1")
    options.graph_optimization_level = _LEVELS[chosen.get("graph_optimization_level", "all")]
    options.execution_mode = _MODES[chosen.get("execution_mode", "sequential")]
    return options
