"""Fake quantization: the numerics of ONNX Runtime's 8- and 4-bit graphs in differentiable floats.

A float ``x`` is quantized to ``round(x / scale) + zero_point``, half to even, and read back as
``(quantized - zero_point) * scale``. Functions here return the integers ``steps = quantized - zero_point`` and
``scale``. They divide as the runtime does; ``torch.fake_quantize_per_tensor_affine`` multiplies by ``1 / scale``
and occasionally rounds the other way.

The gradient is that of ``x / scale``, ignoring the rounding (the straight-through estimator: Bengio et al.
2013, arXiv:1308.3432; Jacob et al. 2018, arXiv:1712.05877, section 3), and 0 where ``x`` is clipped. Scales are
constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BLOCK_SIZE = 32
"""Number of values in a table row that share a 4-bit scale."""


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Any, high: Any, clips: bool) -> Tensor:
        steps = torch.div(x, scale).round_()
        ctx.save_for_backward(scale, (steps >= low) & (steps <= high) if clips else None)
        return steps.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        scale, inside = ctx.saved_tensors
        gradient = gradients[0] / scale
        return gradient if inside is None else gradient * inside, None, None, None, None


def _rounded(x: Tensor, scale: Tensor, low: Any, high: Any, *, clips: bool = False) -> Tensor:
    steps: Any = _Rounded.apply(x, scale, low, high, clips)
    return steps


def symmetric_steps(
    weight: Tensor, *, per_channel: bool = False, bits: int = 8, joined: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor]:
    """Quantize a weight as ``quantize_dynamic`` does: signed and symmetric, scaled by its largest magnitude.

    Args:
        weight: ``[O, I]``; outputs are its channels.
        per_channel: one scale for each output instead of one for all.
        bits: 8: steps from -127 to 127; 7 (``reduce_range``): -64 to 64.
        joined: other weights of the same matrix of the graph, with which it shares its one scale.

    Returns:
        Steps float32 ``[O, I]`` and scales float32 ``[O, 1]`` or ``[1, 1]``. Nothing is clipped.
    """
    high = 127.0 if bits == 8 else 64.0
    magnitude = weight.detach().abs().float()
    largest = magnitude.amax(dim=1, keepdim=True) if per_channel else magnitude.amax().reshape(1, 1)
    if not per_channel:
        for other in joined:
            largest = torch.maximum(largest, other.detach().abs().amax().float())
    scale = _usable(largest / high)
    return _rounded(weight.float(), scale, -high, high), scale


def asymmetric_steps(x: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize ``x`` to unsigned 8 bits, as ONNX's ``DynamicQuantizeLinear`` and ``quantize_dynamic``'s tables do.

    The range is widened to include 0. No value within it is clipped, except for up to half a step at one end, where
    the zero point is rounded; the gradient of such a value is not masked.

    Args:
        x: any shape.
        low: lower end of the range, float32 or (for tables) float64 ``[]``.
        high: upper end of the range.

    Returns:
        Steps float32 as ``x``, from ``-zero_point`` to ``255 - zero_point``, and the scale float32 ``[]``.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / 255
    empty = scale < torch.finfo(torch.float32).tiny
    scale = scale.masked_fill(empty, 1.0)
    zero_point = (-low / scale).clamp(0, 255).round().masked_fill(empty, 0.0).float()
    scale = scale.float()
    return _rounded(x.float(), scale, -zero_point, 255 - zero_point), scale


def block_steps(x: Tensor, *, block_size: int = BLOCK_SIZE) -> tuple[Tensor, Tensor]:
    """Quantize ``x`` to signed 4 bits for ``GatherBlockQuantized``, with one scale per block of the last dimension.

    The value of the largest magnitude becomes -8, so the scale has the opposite sign. A value equally large on the
    other side would be 8 and is clipped to 7.

    Args:
        x: ``[..., D]``, rows of a table; the last block of a row may be shorter.
        block_size: number of values that share a scale.

    Returns:
        Steps float32 ``[..., N, block_size]`` for the N blocks, padded with zeros, and scales float32
        ``[..., N, 1]``.
    """
    blocks = functional.pad(x.float(), (0, -x.shape[-1] % block_size)).unflatten(-1, (-1, block_size))
    low, high = torch.aminmax(blocks.detach(), dim=-1, keepdim=True)
    scale = torch.where(high > -low, high, low) / -8
    return _rounded(blocks, scale.masked_fill(scale == 0, 1.0), -8.0, 7.0, clips=True), scale


def range_of_4_bits(x: Tensor, *, block_size: int = BLOCK_SIZE) -> tuple[Tensor, Tensor]:
    """Return the smallest and largest of the values of a table ``x[V, D]`` in 4 bits, and of 0.

    Only the two ends of each block are rounded, since rounding keeps the order.
    """
    blocks = functional.pad(x.detach().float(), (0, -x.shape[-1] % block_size)).unflatten(
        -1, (-1, block_size)
    )
    ends = torch.stack(torch.aminmax(blocks, dim=-1), dim=-1)  # [V, N, 2]
    steps, scale = block_steps(ends.flatten(0, 1), block_size=2)
    low, high = torch.aminmax(steps * scale)
    return low.clamp(max=0), high.clamp(min=0)


def read_back_8_bits(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Quantize and dequantize ``x`` in 8 bits of the range ``low`` to ``high``; see :func:`asymmetric_steps`."""
    steps, scale = asymmetric_steps(x, low.double(), high.double())
    return (steps * scale).to(x.dtype)


def read_back_4_bits(x: Tensor, *, block_size: int = BLOCK_SIZE) -> Tensor:
    """Quantize and dequantize ``x[..., D]`` in 4 bits; see :func:`block_steps`."""
    steps, scale = block_steps(x, block_size=block_size)
    return (steps * scale).flatten(-2)[..., : x.shape[-1]].to(x.dtype)


def quantized_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    per_channel: bool = False,
    bits: int = 8,
    dynamic: bool = True,
    joined: Sequence[Tensor] = (),
) -> Tensor:
    """Compute ``x @ weight.T + bias`` as ``DynamicQuantizeLinear`` and ``MatMulInteger`` do.

    The factors are integers up to 255, which bfloat16 represents exactly, so the product equals the runtime's under
    autocast too, up to the rounding of its result. In float16 the sums would overflow; float32 is used instead.

    Args:
        x: ``[..., I]``; its range is taken over the whole tensor, padding included.
        weight: ``[O, I]``.
        bias: ``[O]``, in 32 bits.
        per_channel: as in :func:`symmetric_steps`.
        bits: as in :func:`symmetric_steps`.
        dynamic: quantize ``x`` too.
        joined: as in :func:`symmetric_steps`.

    Returns:
        ``[..., O]``, of the dtype that the plain product would have.
    """
    steps, scale = symmetric_steps(weight, per_channel=per_channel, bits=bits, joined=joined)
    left, scales = x, scale.reshape(-1)
    if dynamic:
        left, left_scale = asymmetric_steps(x, *torch.aminmax(x.detach().float()))
        scales = scales * left_scale
    device = x.device.type
    in_half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    with torch.autocast(device, enabled=False) if in_half else nullcontext():
        kind = torch.float32 if in_half else x.dtype
        product = functional.linear(left.to(kind), steps.to(torch.float32 if in_half else weight.dtype))
    result = product * scales
    return (result if bias is None else result + bias).to(product.dtype)


def _usable(scale: Tensor) -> Tensor:
    """Replace the scales of all-zero weights by 1."""
    return scale.masked_fill(scale < torch.finfo(torch.float32).tiny, 1.0)
