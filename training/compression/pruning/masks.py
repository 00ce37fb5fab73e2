"""The sparsity schedule, and the masks that select which weights of a matrix are zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cubic_sparsity(
    step: int, *, initial: float, final: float, begin: int, num_updates: int, update_every: int
) -> float:
    """Return the sparsity after ``step`` optimizer steps, which rises fast while many weights are redundant.

    ``s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (N dt))^3`` between ``t_0`` and ``t_0 + N dt``, ``s_i`` before and
    ``s_f`` after (Zhu and Gupta, "To prune, or not to prune", arXiv 1710.01878, 2017, equation 1).

    Args:
        step: ``t``, optimizer steps done.
        initial: ``s_i``, 0 to 1.
        final: ``s_f``, 0 to 1.
        begin: ``t_0``, a step.
        num_updates: ``N``, updates of the mask after the first; 1 or more.
        update_every: ``dt``, steps between two updates.
    """
    left = min(1.0, max(0.0, 1 - (step - begin) / (num_updates * update_every))) ** 3
    return left * initial + (1 - left) * final  # exact at both ends


def top_mask(values: Tensor, sparsity: float) -> Tensor:
    """Return a mask that is True for the largest values of a matrix and False for a share ``sparsity`` of it.

    The number of False values is rounded. Of values equal to the threshold, the first in row-major order are kept.

    Args:
        values: float[...]; ``|W|`` for magnitude pruning, the scores ``S`` for movement pruning (Sanh, Wolf and
            Rush, "Movement Pruning", arXiv 2005.07683, 2020, table 1).
        sparsity: 0 to 1.

    Returns:
        bool[...].
    """
    flat = values.detach().flatten()
    num_masked = round(sparsity * flat.numel())
    if num_masked == 0:
        return torch.ones_like(values, dtype=torch.bool)
    cutoff = flat.kthvalue(num_masked).values
    mask = flat > cutoff
    equal = (flat == cutoff).nonzero().squeeze(1)
    mask[equal[: flat.numel() - num_masked - int(mask.sum())]] = True
    return mask.view_as(values)


def soft_mask(scores: Tensor, threshold: float) -> Tensor:
    """Return the mask ``sigmoid(S) > threshold`` (soft movement pruning, arXiv 2005.07683, table 1)."""
    return torch.sigmoid(scores.detach()) > threshold


def mean_sigmoid(scores: Sequence[Tensor]) -> Tensor:
    """Return the mean of ``sigmoid(S)`` over all matrices, which soft movement pruning adds to the loss."""
    return torch.stack([torch.sigmoid(each).sum() for each in scores]).sum() / sum(
        each.numel() for each in scores
    )
