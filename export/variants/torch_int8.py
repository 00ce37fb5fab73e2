"""Quantize PyTorch models to 8-bit Linear layers, and save and load them without pickle."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.ao.nn.quantized import dynamic as quantized
from torch.ao.quantization import quantize_dynamic as torch_quantize_dynamic
from transformers import PreTrainedModel

from ...errors import ModelError
from ...storage.folders import new_file
from ...training.checkpoints.config_file import read_config
from ...training.checkpoints.load import new_classifier
from ...training.tasks import SINGLE_LABEL, Task

TORCH_INT8_FILE = "model.safetensors"
_WEIGHT, _SCALE, _ZERO_POINT, _BIAS = ".int8_weight", ".int8_scale", ".int8_zero_point", ".bias"


def quantize_pytorch(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of ``model`` whose Linear layers have int8 weights and quantize their input dynamically.

    This is the only caller of ``torch.ao.quantization``, which PyTorch plans to remove.
    """
    with _quiet_quantization():
        return torch_quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def save_pytorch_int8(model: PreTrainedModel, directory: Path) -> None:
    """Save a model of :func:`quantize_pytorch` to ``directory``: config.json and one safetensors file.

    Per quantized layer: ``.int8_weight`` int8[out, in], ``.int8_scale`` float64[], ``.int8_zero_point``
    int64[], ``.bias``; everything else as in the 32-bit model.
    """
    tensors: dict[str, Tensor] = {}
    names: set[str] = set()
    for name, layer in model.named_modules():
        if isinstance(layer, quantized.Linear):
            names.add(name)
            weight, bias = layer._weight_bias()
            tensors[name + _WEIGHT] = weight.int_repr().contiguous()
            tensors[name + _SCALE] = torch.tensor(weight.q_scale(), dtype=torch.float64)
            tensors[name + _ZERO_POINT] = torch.tensor(weight.q_zero_point(), dtype=torch.int64)
            if bias is not None:
                tensors[name + _BIAS] = bias.detach().contiguous()
    for key, value in model.state_dict().items():
        if isinstance(value, Tensor) and not any(key.startswith(name + ".") for name in names):
            tensors[key] = value.detach().contiguous()
    model.config.save_pretrained(directory)
    with new_file(directory / TORCH_INT8_FILE) as temporary:
        save_file(tensors, str(temporary), metadata={"format": "pt"})


def load_pytorch_int8(directory: str | Path, task: Task = SINGLE_LABEL) -> PreTrainedModel:
    """Load a model saved by :func:`save_pytorch_int8`; its logits are bit-identical to those of the saved model.

    Raises:
        ModelError: ``directory`` does not contain such a model.
    """
    directory = Path(directory)
    try:
        tensors = load_file(str(directory / TORCH_INT8_FILE))
        config = read_config(directory)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"{directory}: not a PyTorch int8 variant ({error}); build it again with `distiltune run`"
        ) from error
    with torch.random.fork_rng(devices=[]):  # weights that are replaced below must not advance the global RNG
        model = new_classifier(config, task).eval()
    layers = {key.removesuffix(_WEIGHT) for key in tensors if key.endswith(_WEIGHT)}
    rest = {key: value for key, value in tensors.items() if key.rpartition(".")[0] not in layers}
    try:
        missing, unexpected = model.load_state_dict(rest, strict=False)
        for name in layers:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _int8_linear(name, tensors))
    except (KeyError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"{directory}: {TORCH_INT8_FILE} does not match {config.model_type} ({error}); build it again"
        ) from error
    missing = [key for key in missing if key.rpartition(".")[0] not in layers]
    if missing or unexpected or not layers:
        raise ModelError(
            f"{directory}: {TORCH_INT8_FILE} lacks {missing[:3]}, has unknown {unexpected[:3]} "
            f"and {len(layers)} quantized layers; build it again with `distiltune run`"
        )
    return model


def _int8_linear(name: str, tensors: dict[str, Tensor]) -> nn.Module:
    values = tensors[name + _WEIGHT]
    with _quiet_quantization():
        layer = quantized.Linear(values.shape[1], values.shape[0], dtype=torch.qint8)
        weight = torch._make_per_tensor_quantized_tensor(  # pyright: ignore[reportPrivateImportUsage]
            values, tensors[name + _SCALE].item(), int(tensors[name + _ZERO_POINT].item())
        )
        layer.set_weight_bias(weight, tensors.get(name + _BIAS))
    return layer


@contextlib.contextmanager
def _quiet_quantization() -> Iterator[None]:
    """Suppress the two warnings that PyTorch's quantization is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings(
            "ignore", "torch.quantize_per_tensor, torch.quantize_per_channel", UserWarning
        )
        yield
