"""``PruningCallback``: prune a model's weights by magnitude or movement while it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ....errors import InputError
from .base import PruningConfig, ScoresRule
from .masks import cubic_sparsity
from .state import PrunedMatrix, encoder_matrices, load_state, save_state


class PruningCallback(TrainerCallback):
    """Prune the matrices of the encoder's layers while training; embeddings and head are not pruned.

    The rule computes each mask from the weights, or from scores ``S`` whose gradient is ``dL/dW' * W`` with
    ``W' = W * M`` (Sanh, Wolf and Rush, arXiv 2005.07683, 2020): a straight-through gradient, so the scores of masked
    weights are updated too. Adam updates the scores, as in that paper's experiments: a plain sum of their gradients
    ranks weights by their size, and masks large ones first. Sparsity, threshold and penalty follow the same cubic curve
    (Zhu and Gupta, arXiv 1710.01878, 2017).

    Masks change every ``update_every`` optimizer steps until the schedule ends, and never afterwards. As in both
    papers, a masked weight has no gradient; it is not updated at all, and regains its old value if a later mask keeps
    it.

    The model's parameters hold the pruned weights at all times, so evaluation, checkpoints and exports see them. The
    rest of the state needed to resume is stored in the checkpoint's ``pruning.state``. A ``DistillationTrainer`` passes
    the checkpoint's path; with another trainer the checkpoint must be in ``args.output_dir``. Do not select a
    checkpoint from before the schedule's end as the best one: its sparsity is lower.

    The scores use the clipped gradient of the whole step, over all its micro-batches and processes.

    Args:
        config: The rule with its keys and its schedule.
    """

    def __init__(self, config: PruningConfig) -> None:
        self.config = config
        self.sparsity = 0.0
        """Share of zeros in the pruned matrices."""
        self._matrices: dict[str, PrunedMatrix] = {}
        self._steps = range(0)
        self._score_optimizer: torch.optim.Optimizer | None = None
        self._checkpoint: Path | None = None

    def resume_from(self, checkpoint: Path) -> None:
        """Set the checkpoint from which the next training is resumed."""
        self._checkpoint = checkpoint

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        """Find the matrices; when training is resumed, load their masks, weights and scores.

        Raises:
            InputError: The rule has scores, but fp16 scales the gradients; or the checkpoint has no matching state.
            ModelError: The model's family is unknown.
        """
        assert model is not None
        rule = self.config
        has_scores = isinstance(rule, ScoresRule)
        if has_scores and args.fp16:
            raise InputError(
                f"pruning method {rule.method!r} does not work with fp16, which scales the gradients that the "
                f"scores are computed from; use bf16 or neither, or method magnitude"
            )
        self._matrices = {
            name: PrunedMatrix.of(weight, scored=has_scores)
            for name, weight in encoder_matrices(model).items()
        }
        self._score_optimizer = self._new_score_optimizer(rule) if isinstance(rule, ScoresRule) else None
        self._steps = self.config.mask_steps(state.max_steps)
        if state.global_step > 0:
            folder = self._checkpoint or _checkpoint_folder(args, state)
            load_state(folder, self._matrices, self._score_optimizer)
        self._checkpoint = None
        self._update_sparsity()

    def _scores(self) -> list[torch.Tensor]:
        return [each.scores for each in self._matrices.values() if each.scores is not None]

    def _new_score_optimizer(self, rule: ScoresRule) -> torch.optim.Optimizer:
        return torch.optim.Adam(self._scores(), lr=rule.score_learning_rate)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Update the scores, then zero the gradients of masked weights."""
        updates_scores = self._score_optimizer is not None and state.global_step < self._steps[-1]
        for each in self._matrices.values():
            gradient = each.weight.grad
            if gradient is None:
                continue
            if updates_scores and each.scores is not None:
                each.scores.grad = (gradient * each.values).to(each.scores.dtype)
            gradient.masked_fill_(~each.mask, 0)
        if updates_scores and self._score_optimizer is not None:
            assert isinstance(self.config, ScoresRule)
            penalty = self.config.penalty(self._scores(), self._progress(state.global_step))
            if penalty is not None:
                penalty.backward()
            self._score_optimizer.step()
            self._score_optimizer.zero_grad()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Zero masked weights again, which momentum may have changed; at an update step, update the masks."""
        step = state.global_step + 1  # the trainer increments it after this callback
        if step in self._steps:
            for each in self._matrices.values():
                each.put(self.config.mask(each, self._progress(step)))
            self._update_sparsity()
            return
        for each in self._matrices.values():
            each.weight.data.masked_fill_(~each.mask, 0)

    def _progress(self, step: int) -> float:
        """Return the progress of the schedule along its cubic curve, 0 to 1."""
        return cubic_sparsity(
            step,
            initial=0.0,
            final=1.0,
            begin=self._steps[0],
            num_updates=len(self._steps) - 1,
            update_every=self._steps.step,
        )

    def _update_sparsity(self) -> None:
        masks = [each.mask for each in self._matrices.values()]
        num_kept = torch.stack([mask.sum() for mask in masks]).sum()
        self.sparsity = 1 - int(num_kept) / sum(mask.numel() for mask in masks)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save the pruning state, which the model's weights do not include, to the checkpoint."""
        folder = _checkpoint_folder(args, state)
        if state.is_world_process_zero and not args.save_only_model and folder.is_dir():
            save_state(folder, self._matrices, self._score_optimizer)


def _checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
