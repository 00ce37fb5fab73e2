"""``PruningCallback``: weights that become zero while a model is trained, by their magnitude or movement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import InputError, ModelError, first_line
from .config import PruningConfig
from .layers import FAMILIES
from .sparsity import cubic_sparsity, mean_sigmoid, soft_mask, top_mask

# Safetensors in a checkpoint's folder, but by its name none of the model's weights.
STATE_FILE = "pruning.state"


@dataclass
class _Matrix:
    """A matrix W[out, in] that is pruned.

    Attributes:
        weight: the model's parameter, which holds W * M whenever the model is run, measured or saved.
        mask: M, bool[out, in].
        dense: W where M is False; elsewhere as it was when the mask was last updated.
        scores: S, float[out, in]; None where magnitude decides.
    """

    weight: nn.Parameter
    mask: Tensor
    dense: Tensor
    scores: Tensor | None

    @property
    def values(self) -> Tensor:
        """W."""
        return torch.where(self.mask, self.weight.detach(), self.dense)

    def put(self, mask: Tensor) -> None:
        """Let another mask be in force."""
        self.dense, self.mask = self.values, mask
        self.weight.data.copy_(self.dense.masked_fill(~mask, 0))


class PruningCallback(TrainerCallback):
    """Prunes the matrices of the encoder's layers, each to the same sparsity; embeddings and head stay whole.

    With ``magnitude`` (Zhu and Gupta, arXiv 1710.01878, 2017) the smallest ``|W|`` of each matrix are masked. With
    ``movement`` (Sanh, Wolf and Rush, arXiv 2005.07683, 2020) it is the lowest scores ``S = -sum dL/dW' * W``, with
    ``W' = W * M``: a straight-through gradient, so the scores of masked weights go on too. ``soft_movement`` masks
    where ``sigmoid(S)`` is not above a threshold, whatever the matrix; its scores also follow ``lambda *
    mean(sigmoid(S))`` and are stepped by Adam, as in that paper's experiments, and the sparsity is what comes of it.
    Threshold and lambda rise by the same cubic curve as the sparsity of the others.

    Masks change every ``update_every`` optimizer steps until the schedule ends, and never after. As in both papers a
    masked weight has no gradient; it is not updated at all, and has its old value when a later mask takes it back.

    The model's parameters hold the pruned weights at all times, so evaluation, checkpoints and exports see them. What
    else is needed to go on lies in the checkpoint's ``pruning.state``. A ``DistillationTrainer`` tells where that is;
    with another trainer the checkpoint must be in ``args.output_dir``. Choose no checkpoint from before the schedule's
    end as the best one: its sparsity is lower.

    The scores take the gradient of the whole step, over all its micro-batches and processes, and as clipped.

    Args:
        config: method, sparsity and schedule.
    """

    def __init__(self, config: PruningConfig) -> None:
        self.config = config
        self.sparsity = 0.0
        """Share of zeros in the pruned matrices."""
        self._matrices: dict[str, _Matrix] = {}
        self._steps = range(0)
        self._score_optimizer: torch.optim.Optimizer | None = None
        self._checkpoint: Path | None = None

    def resume_from(self, checkpoint: Path) -> None:
        """Say which checkpoint the next training goes on from."""
        self._checkpoint = checkpoint

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        """Find the matrices; of a training that goes on, their masks, weights and scores.

        Raises:
            InputError: Scores and fp16, whose gradients are scaled; or no such state is in the checkpoint.
            ModelError: The model's family is not known.
        """
        assert model is not None
        has_scores = self.config.method != "magnitude"
        if has_scores and args.fp16:
            raise InputError(
                f"pruning method {self.config.method!r} and fp16, which scales the gradients that the scores are "
                "made of; take bf16 or neither, or method magnitude"
            )
        self._matrices = {
            name: _Matrix(
                weight,
                torch.ones_like(weight, dtype=torch.bool),
                weight.detach().clone(),
                _first_scores(weight) if has_scores else None,
            )
            for name, weight in encoder_matrices(model).items()
        }
        self._score_optimizer = self._optimizer_of_scores() if has_scores else None
        self._steps = self.config.mask_steps(state.max_steps)
        if state.global_step > 0:
            self._restore(self._checkpoint or _folder(args, state))
        self._checkpoint = None
        self._count()

    def _optimizer_of_scores(self) -> torch.optim.Optimizer:
        scores = [each.scores for each in self._matrices.values() if each.scores is not None]
        if self.config.method == "soft_movement":
            return torch.optim.Adam(scores, lr=self.config.score_learning_rate)
        return torch.optim.SGD(scores, lr=1.0)  # the largest scores are the same with any rate

    # ---- A step -----------------------------------------------------------------------------------------

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Step the scores, then take the gradient from what is masked."""
        learns = self._score_optimizer is not None and state.global_step < self._steps[-1]
        for each in self._matrices.values():
            gradient = each.weight.grad
            if gradient is None:
                continue
            if learns and each.scores is not None:
                each.scores.grad = (gradient * each.values).to(each.scores.dtype)
            gradient.masked_fill_(~each.mask, 0)
        if learns and self._score_optimizer is not None:
            if self.config.method == "soft_movement":
                scores = [each.scores for each in self._matrices.values() if each.scores is not None]
                weight = self.config.regularization * self._risen(state.global_step)
                (weight * mean_sigmoid(scores)).backward()
            self._score_optimizer.step()
            self._score_optimizer.zero_grad()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Undo what momentum did to masked weights; where it is time, update the masks."""
        step = state.global_step + 1  # counted only after this
        if step in self._steps:
            for each in self._matrices.values():
                each.put(self._mask(each, self._risen(step)))
            self._count()
            return
        for each in self._matrices.values():
            each.weight.data.masked_fill_(~each.mask, 0)

    def _risen(self, step: int) -> float:
        """How much of the way from nothing to the end the schedule has gone, 0 to 1."""
        return cubic_sparsity(
            step,
            initial=0.0,
            final=1.0,
            begin=self._steps[0],
            num_updates=len(self._steps) - 1,
            update_every=self._steps.step,
        )

    def _mask(self, matrix: _Matrix, risen: float) -> Tensor:
        if matrix.scores is None:
            return top_mask(matrix.values.abs(), self.config.final_sparsity * risen)
        if self.config.method == "movement":
            return top_mask(matrix.scores, self.config.final_sparsity * risen)
        return soft_mask(matrix.scores, self.config.threshold * risen)

    def _count(self) -> None:
        masks = [each.mask for each in self._matrices.values()]
        num_kept = torch.stack([mask.sum() for mask in masks]).sum()
        self.sparsity = 1 - int(num_kept) / sum(mask.numel() for mask in masks)

    # ---- Checkpoints ------------------------------------------------------------------------------------

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put into the checkpoint what its model does not hold."""
        folder = _folder(args, state)
        if state.is_world_process_zero and not args.save_only_model and folder.is_dir():
            save_file(
                {name: tensor.contiguous() for name, tensor in self._state().items()}, folder / STATE_FILE
            )

    def _state(self) -> dict[str, Tensor]:
        found = {}
        for name, each in self._matrices.items():
            found |= {f"mask:{name}": each.mask, f"dense:{name}": each.dense}
            if each.scores is not None and self._score_optimizer is not None:
                moments = self._score_optimizer.state[each.scores]
                found |= {f"scores:{name}": each.scores.detach()}
                found |= {f"{kind}:{name}": value for kind, value in moments.items()}
        return found

    def _restore(self, checkpoint: Path) -> None:
        try:
            saved = load_file(checkpoint / STATE_FILE)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{checkpoint}: has no {STATE_FILE} to go on pruning from ({first_line(error)}); resume from a "
                "checkpoint that was saved while it was pruned, or begin anew"
            ) from error
        if missing := sorted(set(self._state()) - set(saved)):
            raise InputError(
                f"{checkpoint / STATE_FILE}: has no {missing[0]!r}: another model, or another method of pruning; "
                "resume with the same, or begin anew"
            )
        for name, each in self._matrices.items():
            device = each.weight.device
            # The checkpoint's weights, which are loaded, are masked already.
            each.dense, each.mask = (saved[f"{kind}:{name}"].to(device) for kind in ("dense", "mask"))
            if each.scores is not None and self._score_optimizer is not None:
                each.scores.data.copy_(saved[f"scores:{name}"])
                moments = self._score_optimizer.state[each.scores]
                for kind in ("step", "exp_avg", "exp_avg_sq"):  # of Adam
                    if f"{kind}:{name}" in saved:
                        value = saved[f"{kind}:{name}"]
                        moments[kind] = value if kind == "step" else value.to(device)


def encoder_matrices(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The weight matrices float[out, in] of the encoder's layers, by name.

    Raises:
        ModelError: The model's family is not known.
    """
    family = model.config.model_type
    if family not in FAMILIES:
        raise ModelError(f"pruning: the model's family is {family!r}; supported: {', '.join(FAMILIES)}")
    place = f"{model.base_model_prefix}.{FAMILIES[family]}"
    layers = model.get_submodule(place).named_modules()
    linear = {f"{place}.{name}": module for name, module in layers if isinstance(module, nn.Linear)}
    return {f"{name}.weight": model.get_parameter(f"{name}.weight") for name in linear}


def _first_scores(weight: Tensor) -> Tensor:
    # Sums of many small numbers: in 32 bits at least.
    return torch.zeros_like(
        weight, dtype=torch.promote_types(weight.dtype, torch.float32), requires_grad=True
    )


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
