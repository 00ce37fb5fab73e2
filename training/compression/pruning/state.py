"""Weights, masks and scores of an encoder's pruned matrices, in memory and in a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from ....errors import InputError, ModelError, first_line
from ...models.attention_free import AttentionFreeClassifier
from ...models.families import family_of

# A safetensors file, named so that it is not taken for the model's weights.
STATE_FILE = "pruning.state"


@dataclass
class PrunedMatrix:
    """A matrix W[out, in] that is pruned.

    Attributes:
        weight: the model's parameter, which holds W * M whenever the model is run, measured or saved.
        mask: M, bool[out, in].
        dense: W where M is False; elsewhere as it was when the mask was last updated.
        scores: S, float[out, in]; None for magnitude pruning.
    """

    weight: nn.Parameter
    mask: Tensor
    dense: Tensor
    scores: Tensor | None

    @classmethod
    def of(cls, weight: nn.Parameter, *, scored: bool) -> PrunedMatrix:
        """Create the state of an unmasked matrix; its scores are 0."""
        # Scores are sums of many small numbers: keep them in 32 bits at least.
        precision = torch.promote_types(weight.dtype, torch.float32)
        scores = torch.zeros_like(weight, dtype=precision, requires_grad=True) if scored else None
        mask = torch.ones_like(weight, dtype=torch.bool)
        return cls(weight, mask, weight.detach().clone(), scores)

    @property
    def values(self) -> Tensor:
        """The unmasked matrix W[out, in]."""
        return torch.where(self.mask, self.weight.detach(), self.dense)

    def put(self, mask: Tensor) -> None:
        """Apply a new mask."""
        self.dense, self.mask = self.values, mask
        self.weight.data.copy_(self.dense.masked_fill(~mask, 0))


def encoder_matrices(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Return the weight matrices float[out, in] of the encoder by name: of its layers, or of all before its pooling.

    Raises:
        ModelError: The model's family is unknown, or there are no matrices.
    """
    prefix = model.base_model_prefix
    if not isinstance(model, AttentionFreeClassifier):
        prefix = f"{prefix}.{family_of(model, 'training.pruning', 'layers').layers}"
    layers = model.get_submodule(prefix).named_modules()
    linear = {f"{prefix}.{name}": module for name, module in layers if isinstance(module, nn.Linear)}
    if not linear:
        raise ModelError(
            f"training.pruning: a model of type {model.config.model_type!r} has no matrices to prune; remove it"
        )
    return {f"{name}.weight": model.get_parameter(f"{name}.weight") for name in linear}


def save_state(folder: Path, matrices: dict[str, PrunedMatrix], optimizer: Optimizer | None) -> None:
    """Save the pruning state to a checkpoint's folder; ``optimizer`` is that of the scores."""
    tensors = _tensors(matrices, optimizer)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / STATE_FILE)


def load_state(folder: Path, matrices: dict[str, PrunedMatrix], optimizer: Optimizer | None) -> None:
    """Load what ``save_state`` wrote; the model must already have the checkpoint's weights.

    Raises:
        InputError: There is no state, or it belongs to another model or method.
    """
    try:
        saved = load_file(folder / STATE_FILE)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{folder}: has no {STATE_FILE} to resume pruning from ({first_line(error)}); resume from a checkpoint "
            f"that was saved during pruning, or start over"
        ) from error
    own = _tensors(matrices, optimizer)
    if missing := [name for name in own if name not in saved or saved[name].shape != own[name].shape]:
        raise InputError(
            f"{folder / STATE_FILE}: has no {missing[0]!r}: the model or the pruning method is different; resume "
            f"with the same, or start over"
        )
    for name, each in matrices.items():
        device = each.weight.device
        each.dense, each.mask = (saved[f"{kind}:{name}"].to(device) for kind in ("dense", "mask"))
        if each.scores is None or optimizer is None:
            continue
        each.scores.data.copy_(saved[f"scores:{name}"])
        for kind in ("step", "exp_avg", "exp_avg_sq"):  # Adam's state; its step count stays on the CPU
            if f"{kind}:{name}" in saved:
                value = saved[f"{kind}:{name}"]
                optimizer.state[each.scores][kind] = value if kind == "step" else value.to(device)


def _tensors(matrices: dict[str, PrunedMatrix], optimizer: Optimizer | None) -> dict[str, Tensor]:
    found = {}
    for name, each in matrices.items():
        found |= {f"mask:{name}": each.mask, f"dense:{name}": each.dense}
        if each.scores is not None and optimizer is not None:
            found[f"scores:{name}"] = each.scores.detach()
            found |= {f"{kind}:{name}": value for kind, value in optimizer.state[each.scores].items()}
    return found
