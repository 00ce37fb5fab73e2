"""Run a classifier's graph on buffers that stay on its device (IO binding), on CUDA also as captured CUDA graphs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from ....errors import InputError
from ..classifier_config import ClassifierConfig
from .graph import Graph, open_graph
from .providers import CPU, CUDA, provider_names

LENGTH_STEP = 8
"""Texts are padded to a multiple of this many tokens, so that few shapes occur."""
MOST_SHAPES = 64
"""Shapes ``[B, L]`` whose buffers and captured graphs are kept; further ones get buffers for one run."""

_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_TOKEN_DIMENSIONS = 3  # of logits [B, L, C]
_GRAPH_ID, _NO_GRAPH = "gpu_graph_id", -1  # of ONNX Runtime: a run of -1 neither captures nor replays


@dataclass(frozen=True)
class _Buffers:
    """Inputs and output of one shape, and the options of their runs."""

    binding: Any
    inputs: dict[str, Any]
    output: Any
    options: ort.RunOptions


class BoundGraph(Graph):
    """A graph whose inputs are copied into buffers on its device, one set for each shape; ``run`` is thread-safe.

    With captured graphs, the first run of a shape records its kernels and later ones replay all of them with one call,
    which saves the time that the host needs to start each. A captured graph reads and writes the addresses that it was
    recorded with: hence the buffers.

    Args:
        session: The opened graph.
        path: Its file, for messages.
        device: ``cuda`` or ``cpu``, where the session's first provider computes.
        device_id: Number of that device.
        max_length: Maximum number of tokens of a text.
        pad_token_id: Id of the padding token.
        captures: Whether the session was opened with CUDA graphs.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        path: Path,
        *,
        device: str,
        device_id: int = 0,
        max_length: int,
        pad_token_id: int,
        captures: bool = False,
    ):
        super().__init__(session, path)
        self._device, self._device_id = device, device_id
        self._max_length, self._pad_token_id, self._captures = max_length, pad_token_id, captures
        [output] = session.get_outputs()
        self._output_type, self._of_tokens = _FLOATS[output.type], len(output.shape) == _TOKEN_DIMENSIONS
        # Without a mask a graph may read padding as text.
        self._step = LENGTH_STEP if "attention_mask" in self.input_types else 1
        self._buffers: dict[tuple[int, int], _Buffers] = {}
        self._lock = threading.Lock()

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Shapes ``[B, L]`` that have buffers, in the order of their first run."""
        return list(self._buffers)

    def outputs(self, feed: dict[str, np.ndarray], num_classes: int) -> np.ndarray:
        """Copy inputs to the device, run the graph and return a copy of its logits, without those of padding."""
        with self._lock:
            buffers = self._fill(feed, num_classes)
            self.session.run_with_iobinding(buffers.binding, buffers.options)
            logits = np.array(buffers.output.numpy())
        return logits[:, : feed["input_ids"].shape[1]] if self._of_tokens else logits

    def _fill(self, feed: dict[str, np.ndarray], num_classes: int) -> _Buffers:
        """Copy a feed into the buffers of its shape, and return these."""
        padded = {name: self._padded(name, array) for name, array in feed.items()}
        batch, length = padded["input_ids"].shape
        buffers = self._buffers.get((batch, length))
        if buffers is not None:
            for name, array in padded.items():
                buffers.inputs[name].update_inplace(array)
            return buffers
        kept = len(self._buffers) < MOST_SHAPES
        shape = (batch, length, num_classes) if self._of_tokens else (batch, num_classes)
        buffers = self._new_buffers(padded, shape, len(self._buffers) if kept else _NO_GRAPH)
        if kept:
            self._buffers[batch, length] = buffers
        return buffers

    def _padded(self, name: str, array: np.ndarray) -> np.ndarray:
        length = array.shape[1]
        wanted = max(length, min(-(-length // self._step) * self._step, self._max_length))
        value = self._pad_token_id if name == "input_ids" else 0
        # This always copies, since on the CPU a buffer is the array itself.
        return np.pad(array, ((0, 0), (0, wanted - length)), constant_values=value)

    def _new_buffers(self, padded: dict[str, np.ndarray], shape: tuple[int, ...], graph_id: int) -> _Buffers:
        binding: Any = self.session.io_binding()
        place = self._device, self._device_id
        inputs = {name: ort.OrtValue.ortvalue_from_numpy(array, *place) for name, array in padded.items()}
        output = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), self._output_type, *place)
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output(self.output_names[0], output)
        options = ort.RunOptions()
        if self._captures:
            options.add_run_config_entry(_GRAPH_ID, str(graph_id))
        return _Buffers(binding, inputs, output, options)


def open_with_buffers(
    path: Path,
    options: ort.SessionOptions,
    providers: Sequence[Any] | None,
    config: ClassifierConfig,
    *,
    io_binding: bool,
    cuda_graphs: bool,
) -> Graph:
    """Open a model file as ``open_graph`` does, with buffers on the device if requested.

    Args:
        path: The file.
        options: Session options.
        providers: Execution providers; None: the CPU's.
        config: Configuration of its classifier.
        io_binding: Whether inputs and logits have buffers on the device of the first provider.
        cuda_graphs: Whether kernels are captured as well.
    """
    given = [CPU] if providers is None else providers
    if cuda_graphs:
        given = _with_cuda_graphs(given)
    graph = open_graph(path, options, given)
    return _bound_graph(graph, given, config, captures=cuda_graphs) if io_binding or cuda_graphs else graph


def _with_cuda_graphs(providers: Sequence[Any]) -> list[Any]:
    """Return the providers with CUDA graphs enabled in the first one.

    Raises:
        InputError: The first one is not CUDA.
    """
    names = provider_names(providers)
    if names[0] != CUDA:
        raise InputError(
            f"cuda_graphs is True, but the first provider is {names[0]}; put {CUDA} first, or leave cuda_graphs out"
        )
    return [(CUDA, {**_options_of(providers[0]), "enable_cuda_graph": "1"}), *providers[1:]]


def _bound_graph(
    graph: Graph, providers: Sequence[Any], config: ClassifierConfig, *, captures: bool
) -> BoundGraph:
    """Return an opened graph with buffers on the device of its first provider.

    Args:
        graph: The graph.
        providers: The providers that it was opened with.
        config: Configuration of its classifier.
        captures: Whether it was opened with CUDA graphs.
    """
    return BoundGraph(
        graph.session,
        graph.path,
        device="cpu" if provider_names(providers)[0] == CPU else "cuda",
        device_id=int(_options_of(providers[0]).get("device_id", 0)),
        max_length=config.max_length,
        pad_token_id=config.pad_token_id,
        captures=captures,
    )


def _options_of(provider: Any) -> dict[str, Any]:
    return {} if isinstance(provider, str) else dict(provider[1])
