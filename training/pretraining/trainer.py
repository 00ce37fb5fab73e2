"""``PretrainingTrainer``: a ``transformers.Trainer`` with DistilBERT's loss, on texts without labels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel
from transformers.trainer_pt_utils import nested_gather
from transformers.trainer_utils import EvalLoopOutput

from ...errors import InputError
from ..data.collator import DistillationCollator
from ..data.sampling import LengthGroupedSampler, dataset_lengths
from ..distillation.lean_trainer import BoundedTrainer
from ..models.runtime import float32_products
from .arguments import PretrainingArguments
from .loss import PARTS, TripleLoss
from .masking import Masking

_TRAINING, _EVALUATION = range(2)


class PretrainingTrainer(BoundedTrainer):
    """Train a masked-language model on masked texts and on a teacher's predictions and hidden states.

    The loss of a step is ``pretraining_loss`` over all its texts, regardless of the number of micro-batches
    and devices. Masks are drawn for every step, from the seed and the step only. Logits over the vocabulary
    are computed only where the loss needs them, in chunks that fit in about a gigabyte.

    Training logs ``masked_lm``, ``distillation`` and ``cosine``, if they have weight, beside ``loss``; evaluation
    reports them with the prefix ``eval_``, using the same masks at every evaluation. There are no predictions.

    Args:
        model: The student, an ``AutoModelForMaskedLM`` of a known family.
        args: The training arguments.
        teacher_model: Another such model, with the same vocabulary; required unless beta and gamma are 0. Set to
            evaluation mode, moved to the student's device, run without gradient in the student's precision, never
            saved.
        **kwargs: All other arguments of ``transformers.Trainer``, except ``compute_loss_func``;
            ``processing_class`` is the tokenizer and must have a mask token. Rows need ``input_ids``; their labels
            are ignored.

    Raises:
        InputError: The teacher or the mask token is missing, or the teacher does not fit the student.
        ModelError: The masked-language head of a family is unknown.
    """

    args: PretrainingArguments
    # compute_loss divides by the tokens of the whole step: the Trainer must not divide again.
    loss_is_scaled_for_ga = True
    learns_tokens = True

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: PretrainingArguments | None = None,
        teacher_model: PreTrainedModel | nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("compute_loss_func") is not None:
            raise InputError("compute_loss_func is given, but PretrainingTrainer has its own loss; remove it")
        args = args if args is not None else PretrainingArguments(output_dir="tmp_trainer")
        super().__init__(model=model, args=args, **kwargs)
        # transformers before 5.20 divides the loss by the number of micro-batches if this is False.
        self.model_accepts_loss_kwargs = True
        self.masking = Masking(self.processing_class, args.mlm_probability, self._data_seed())
        if kwargs.get("data_collator") is None:
            self.data_collator = DistillationCollator(
                getattr(self.processing_class, "pad_token_id", None) or 0
            )
        bare = self.accelerator.unwrap_model(self.model)
        self.triple_loss = TripleLoss(bare, teacher_model, args, lambda: self.accelerator.autocast())
        self._part_sums = torch.zeros(len(PARTS) + 1, device=args.device)  # the parts, and how many steps
        self._eval_sums = torch.zeros(2 * len(PARTS), device=args.device)  # the parts, and the tokens of each
        self._num_evaluated = 0

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as ``Trainer`` does, in TF32 if requested; raises ``InputError`` if the device has none."""
        with float32_products(tf32=self.args.tf32, device=self.args.device):
            return super().train(*args, **kwargs)

    # ---- Data -------------------------------------------------------------------------------------------

    def _data_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or not hasattr(dataset, "__len__"):
            return super()._get_train_sampler(train_dataset)
        group = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        lengths = dataset_lengths(dataset, self.args.length_column_name)
        return LengthGroupedSampler(lengths, group, self._data_seed())

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | int | None]:
        """Return the masked micro-batches of one optimizer step, and the token count of each part of the loss.

        The counts, int64[3] as in ``TripleLoss.counts``, are those of all processes.
        """
        place = (_TRAINING, self.state.global_step, self.args.process_index)
        batches = [
            self.masking(batch, *place, number)
            for number, batch in enumerate(itertools.islice(epoch_iterator, num_batches))
        ]
        counts = torch.zeros(len(PARTS), dtype=torch.int64, device=device)
        for batch in batches:
            counts += self.triple_loss.counts(batch)
        if self.args.world_size > 1:
            gathered: Any = self.accelerator.gather(counts[None])
            counts = gathered.sum(dim=0)
        return batches, counts

    # ---- Loss -------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute DistilBERT's loss of a masked batch.

        ``num_items_in_batch``: the counts from ``get_batch_samples``; by default those of ``inputs``.
        """
        given = isinstance(num_items_in_batch, Tensor)
        counts = num_items_in_batch if given else self.triple_loss.counts(inputs)
        parts = self.triple_loss.parts(model, inputs, counts)
        share = inputs["attention_mask"].sum() / counts[-1].clamp(min=1)
        self._part_sums = self._part_sums + torch.cat([parts.detach(), share[None]])
        # Gradients are averaged over processes, and the counts are those of all of them.
        loss = self.triple_loss.weighted(parts) * self.args.world_size
        return (loss, {}) if return_outputs else loss

    # ---- Evaluation -------------------------------------------------------------------------------------

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """Compute the loss of a batch, without predictions."""
        place = (_EVALUATION, self._num_evaluated, self.args.process_index)
        batch = self.masking(self._prepare_inputs(inputs), *place)
        self._num_evaluated += 1
        with torch.no_grad(), self.compute_loss_context_manager():
            counts = self.triple_loss.counts(batch)
            found = [
                self.triple_loss.parts(model, each.batch, counts)
                for each in self.parts(batch, is_trained=False)
            ]
            parts = torch.stack(found).sum(dim=0)
        self._eval_sums = self._eval_sums + torch.cat([parts * counts, counts])
        return self.triple_loss.weighted(parts), None, None

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate as ``Trainer`` does, with the loss and its parts as means over tokens, as in training."""
        self._num_evaluated, self._eval_sums = 0, torch.zeros_like(self._eval_sums)
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        if self._num_evaluated and output.metrics is not None:
            sums, counts = self._over_processes(self._eval_sums).chunk(2)
            parts = (sums / counts.clamp(min=1)).tolist()
            prefix = kwargs.get("metric_key_prefix", "eval")
            named = {"loss": self.triple_loss.weighted(parts), **self.triple_loss.named(parts)}
            output.metrics.update({f"{prefix}_{name}": value for name, value in named.items()})
        return output

    # ---- Logging ----------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; add to a training loss its parts, averaged over the same steps."""
        if "loss" in logs:
            *parts, num_steps = self._over_processes(self._part_sums).tolist()
            if num_steps:
                logs.update(self.triple_loss.named([part / num_steps for part in parts]))
            self._part_sums = torch.zeros_like(self._part_sums)
        super().log(logs, start_time)

    def _over_processes(self, sums: Tensor) -> Tensor:
        gathered: Any = nested_gather(sums[None], self.args.parallel_mode)
        return gathered.sum(dim=0)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create the optimizer as ``Trainer`` does, and reset the sums of the loss's parts."""
        # A new training starts here: drop the sums of an earlier, interrupted one.
        self._part_sums = torch.zeros_like(self._part_sums)
        return super().create_optimizer(model)
