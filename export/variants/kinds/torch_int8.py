"""PyTorch's dynamic int8, measured for comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ....training.tasks import SINGLE_LABEL, Task
from ..base import Quantized, Source, Variant, VariantInputs, register

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..parity import Logits


def _make(source: PreTrainedModel, target: Path, _: VariantInputs) -> Quantized:
    from ..torch_int8 import quantize_pytorch, save_pytorch_int8

    save_pytorch_int8(quantize_pytorch(source), target.parent)
    return Quantized()


def _open(folder: Path, task: Task = SINGLE_LABEL) -> Logits:
    from ..parity import torch_logits
    from ..torch_int8 import load_pytorch_int8

    return torch_logits(load_pytorch_int8(folder, task))


register(
    Variant(
        "student-pytorch-int8",
        "PyTorch's dynamic int8, for comparison",
        Source.CHECKPOINT,
        _make,
        target="pytorch-int8",
        can_be_sealed=False,
        file="model.safetensors",
        open_logits=_open,
        weight_bits=8,
        activation_bits=8,
        logits_depend_on_batch=True,
        tolerance=0.2,
    )
)
