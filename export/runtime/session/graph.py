"""Open, check and run a classifier's ONNX graph, and raise its failures as this package's errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from ....errors import ArtifactError, InputError
from .providers import CPU, RECORD_ASSIGNMENT, check_started, load_libraries, provider_names

_INTEGER_TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_FLOAT_TYPES = ("tensor(float)", "tensor(float16)", "tensor(double)")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_AGAIN = "export it with distiltune, or pull the artifact again"
# Parts of ONNX Runtime's messages that a user cannot act on.
_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+ |Non-zero status code returned while "
    r"|Load model from .*? failed:\s*"
)


class Graph:
    """An ONNX Runtime session that maps token ids to logits; ``run`` is thread-safe.

    Args:
        session: The opened graph.
        path: Its file, for messages.

    Attributes:
        session: The opened graph.
        input_types: NumPy type of each input that the graph declares; only those are fed.
        num_outputs: C, the logits of a text; None where the graph does not fix it.
        output_names: Name of its output, in a list.
        is_float32: Whether its logits are 32-bit floats.

    Raises:
        ArtifactError: Its inputs or outputs are not those of a text classifier.
    """

    def __init__(self, session: ort.InferenceSession, path: Path):
        self.session = session
        self.path = path
        self.input_types = self._check_inputs()
        self.num_outputs = self._check_output()
        self.output_names = [node.name for node in session.get_outputs()]
        self.is_float32 = session.get_outputs()[0].type == "tensor(float)"

    def _check_inputs(self) -> dict[str, Any]:
        types = {}
        for node in self.session.get_inputs():
            if node.name not in _INPUTS or node.type not in _INTEGER_TYPES:
                raise ArtifactError(
                    f"{self.path} has the input {node.name!r:.60} of type {node.type}; this runtime supports integer "
                    f"{', '.join(_INPUTS)}; {_AGAIN}"
                )
            # An undeclared shape reads as [], like that of a scalar; the probe run distinguishes them.
            if node.shape and (len(node.shape) != 2 or any(isinstance(size, int) for size in node.shape)):
                raise ArtifactError(
                    f"{self.path}: input {node.name!r} has the shape {node.shape!r:.60}; batch and sequence must "
                    f"be dynamic; {_AGAIN}"
                )
            types[node.name] = _INTEGER_TYPES[node.type]
        if "input_ids" not in types:
            raise ArtifactError(f"{self.path} has no input 'input_ids'; {_AGAIN}")
        return types

    def _check_output(self) -> int | None:
        outputs = self.session.get_outputs()
        if len(outputs) != 1:
            names = ", ".join(node.name for node in outputs)
            raise ArtifactError(
                f"{self.path} has {len(outputs)} outputs ({names:.60}); it must have one, the logits; {_AGAIN}"
            )
        (node,) = outputs
        if node.type not in _FLOAT_TYPES or (node.shape and len(node.shape) not in (2, 3)):
            raise ArtifactError(
                f"{self.path}: output {node.name!r:.60} is {node.type} of shape {node.shape!r:.60}; it must be "
                f"floating-point logits [batch, classes] or [batch, sequence, classes]; {_AGAIN}"
            )
        size = node.shape[-1] if node.shape else None
        return size if isinstance(size, int) else None

    def outputs(self, feed: dict[str, np.ndarray], num_classes: int) -> np.ndarray:
        """Run the graph and return its logits, unchecked; ONNX Runtime's errors are raised as they are."""
        return np.asarray(self.session.run(self.output_names, feed)[0])

    def run(self, feed: dict[str, np.ndarray], num_classes: int, *, of_tokens: bool = False) -> np.ndarray:
        """Run the graph and return the logits ``[B, C]``, whose shape and finiteness are checked.

        Args:
            feed: An array ``[B, L]`` for each of ``input_types``.
            num_classes: C.
            of_tokens: Whether there are logits for each token, ``[B, L, C]``.

        Raises:
            ArtifactError: ONNX Runtime fails, or the logits have another shape or are not finite.
        """
        ids = feed["input_ids"]
        try:
            logits = self.outputs(feed, num_classes)
        except Exception as error:  # ONNX Runtime's own classes share no public base
            texts, tokens = ids.shape
            raise ArtifactError(
                f"{self.path}: ONNX Runtime cannot run it on {texts} x {tokens} tokens ({cause(error)}); pull the "
                "artifact again, or pass fewer texts at once"
            ) from error
        if logits.shape != (*(ids.shape if of_tokens else ids.shape[:1]), num_classes):
            of_what = f" with {ids.shape[1]} tokens" if of_tokens else ""
            raise ArtifactError(
                f"{self.path} outputs logits of shape {list(logits.shape)} for {len(ids)} texts{of_what} of "
                f"{num_classes} labels; pull the artifact again"
            )
        # If the largest and the smallest are finite, all are: both are NaN where one is. isfinite().all() takes longer.
        flat = logits[0] if len(logits) == 1 and not of_tokens else logits.reshape(-1)
        if not isfinite(flat[flat.argmax()]) or not isfinite(flat[flat.argmin()]):
            raise ArtifactError(
                f"{self.path} outputs logits that are not finite: its weights are damaged; pull the artifact "
                f"again, or retrain it"
            )
        return logits


def open_graph(path: Path, options: ort.SessionOptions, providers: Sequence[Any]) -> Graph:
    """Open a model file.

    Args:
        path: The file; ONNX Runtime itself reads it and its external data, which must be in the same folder.
        options: Session options.
        providers: Names of execution providers, or pairs of name and options.

    Raises:
        ArtifactError: It is not a text classifier's graph that this ONNX Runtime can load.
        InputError: A provider is not in this build of ONNX Runtime, or does not start.
    """
    names = provider_names(providers)
    if names[0] != CPU:
        load_libraries(names)
        options.add_session_config_entry(RECORD_ASSIGNMENT, "1")
    try:
        # Without this, ONNX Runtime would print an error and fall back to the CPU.
        session = ort.InferenceSession(str(path), options, providers=list(providers), enable_fallback=0)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"providers: {providers!r:.60} cannot be used ({cause(error)}); choose others"
        ) from error
    except Exception as error:  # ONNX Runtime's own classes share no public base
        raise ArtifactError(
            f"{path}: ONNX Runtime {ort.__version__} cannot load it ({cause(error)}); pull the artifact again"
        ) from error
    check_started(session, names[0])
    return Graph(session, path)


def cause(error: BaseException) -> str:
    """Return the error message of ONNX Runtime or tokenizers on one line, without their source locations."""
    message = " ".join(_NOISE.sub("", str(error)).split()) or type(error).__name__
    return message if len(message) <= 160 else f"{message[:159]}…"
