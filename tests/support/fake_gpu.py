"""Fake GPU providers of ONNX Runtime: sessions that report to run on them, and compute on the CPU."""

from typing import Any

import onnxruntime as ort

from distiltune.export.benchmark.targets import torch_cuda

CPU, TENSORRT = "CPUExecutionProvider", "TensorrtExecutionProvider"


def _check_booleans(provider: str, options: dict[str, str]) -> None:
    """Reject what ONNX Runtime's Python interface does: Booleans of TensorRT are words (its issue 14091)."""
    for name, value in options.items():
        if (
            provider == TENSORRT
            and name.endswith("_enable")
            and value not in ("True", "true", "False", "false")
        ):
            raise RuntimeError(f"[ONNXRuntimeError] the value for {name} should be 'True' or 'False'")


class FakeSessions:
    """Replace the sessions of ``onnxruntime`` and PyTorch's device; lists the providers given to each session.

    Args:
        monkeypatch: Undoes the replacement.
        available: Providers of the build, beside the CPU's.
        starts: Those that can be started.
    """

    def __init__(
        self, monkeypatch, available=("TensorrtExecutionProvider", "CUDAExecutionProvider"), starts=None
    ):
        self.opened: list[list[Any]] = []
        self.graph_ids: list[str] = []
        starts = available if starts is None else starts
        real, fake = ort.InferenceSession, self

        class Session(real):
            def __init__(self, path, options=None, providers=(), **more):
                fake.opened.append(list(providers))
                names = [each if isinstance(each, str) else each[0] for each in providers]
                for name, given in (each for each in providers if not isinstance(each, str)):
                    _check_booleans(name, given)
                self.wanted = [name for name in names if name in starts]
                super().__init__(path, options, providers=[CPU], **more)

            def get_providers(self):
                return [*self.wanted, CPU] if self.wanted else super().get_providers()

            def run_with_iobinding(self, iobinding, run_options=None):
                try:
                    fake.graph_ids.append(run_options.get_run_config_entry("gpu_graph_id"))
                except RuntimeError:
                    fake.graph_ids.append("")
                super().run_with_iobinding(iobinding, run_options)

        of_numpy, of_shape = ort.OrtValue.ortvalue_from_numpy, ort.OrtValue.ortvalue_from_shape_and_type
        monkeypatch.setattr(ort, "InferenceSession", Session)
        monkeypatch.setattr(ort, "get_available_providers", lambda: [*available, CPU])
        monkeypatch.setattr(ort.OrtValue, "ortvalue_from_numpy", lambda array, *_: of_numpy(array))
        monkeypatch.setattr(
            ort.OrtValue, "ortvalue_from_shape_and_type", lambda shape, kind, *_: of_shape(shape, kind)
        )
        monkeypatch.setattr(torch_cuda, "DEVICE", "cpu")
