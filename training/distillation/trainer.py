"""``DistillationTrainer``: a ``transformers.Trainer`` that adds a distillation loss."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import BatchSamplerShard
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel
from transformers.trainer_utils import EvalLoopOutput

from ...errors import InputError
from ..compression.pruning.callback import PruningCallback
from ..data.collator import DistillationCollator
from ..data.sampling import (
    BalancedSampler,
    LengthGroupedSampler,
    LengthSortedSampler,
    dataset_lengths,
    in_dataset_order,
    innermost_sampler,
)
from ..models.passes import Part, num_rows_of, run_in_parts, width_of
from ..models.runtime import float32_products
from ..tasks import SINGLE_LABEL, Task
from .arguments import DistillationTrainingArguments
from .balance import class_balance
from .compiled import CompiledModel
from .device_texts import can_be_kept, device_texts
from .dropout import set_dropout
from .head_rate import scale_head
from .lean_trainer import LeanTrainer
from .losses.base import LossInputs, needs_of, terms_of
from .losses.soft_targets import with_own_for_missing
from .losses.total import weighted_sum
from .step_terms import StepTerms
from .teacher_targets import TEACHER_COLUMN, TeacherTargets

_REPEATED = "repeated"


class DistillationTrainer(LeanTrainer):
    """Train ``model`` on labels and on a teacher: ``teacher_model``, or a ``teacher_logits`` column.

    The loss is the weighted sum of the registered terms (``losses``). Where the rows have the column, it is used and
    the teacher is not run, unless a term with weight needs more than its logits, as ``hidden_loss_weight`` does. With
    alpha 1 and no such term, no teacher is needed or run. The loss of a step is the mean over all its examples,
    regardless of the number of micro-batches and devices. With ``args.balance``, labels with few training texts count
    as much as those with many, in the weight of their cross-entropy or in how often they are drawn.

    Evaluation reports cross-entropy as ``eval_loss``, accuracy unless ``compute_metrics`` is given, and, with
    ``args.eval_with_teacher``, ``eval_distillation``. Predictions are returned in the dataset's order.
    Training logs each term beside ``loss``, as ``cross_entropy`` and ``distillation``, and ``sparsity`` if one of the
    callbacks is a ``PruningCallback``.

    Args:
        model: The student.
        args: The training arguments.
        teacher_model: The teacher; set to evaluation mode, moved to the student's device when first needed,
            run without gradient in its own precision, never saved.
        task: The task, which provides losses and metrics.
        **kwargs: All other arguments of ``transformers.Trainer``, except ``compute_loss_func``.

    Raises:
        InputError: The teacher's outputs are missing although they have weight, or do not fit the student.
        ModelError: Teacher and student have the same labels in different orders.
    """

    args: DistillationTrainingArguments
    # compute_loss divides by the examples of the whole step: the Trainer must not divide again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: DistillationTrainingArguments | None = None,
        teacher_model: PreTrainedModel | nn.Module | None = None,
        *,
        task: Task = SINGLE_LABEL,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("compute_loss_func") is not None:
            raise InputError(
                "compute_loss_func is given, but DistillationTrainer has its own loss; remove it"
            )
        args = args if args is not None else DistillationTrainingArguments(output_dir="tmp_trainer")
        kwargs.setdefault("compute_metrics", task.compute_metrics)
        self.task = task
        self.learns_tokens = task.of_tokens
        self._terms = StepTerms()
        self._eval_sums: list[tuple[Tensor, int]] = []
        self._step_weight: Tensor | None = None
        self._step_texts: Tensor | int = 0
        self.compiled_model: CompiledModel | None = None
        super().__init__(model=model, args=args, **kwargs)
        if task.of_windows:  # transformers would look for start_positions and end_positions
            self.label_names = ["labels"]
        # transformers before 5.20 divides the loss by the number of micro-batches if this is False.
        self.model_accepts_loss_kwargs = True
        if kwargs.get("data_collator") is None:
            multiple = args.pad_to_multiple_of
            self.data_collator = DistillationCollator(self._pad_token_id(), multiple, task.of_tokens)
        if args.dropout is not None:
            longest = int(np.max(getattr(self.train_dataset, "lengths", 0), initial=0))
            set_dropout(self.bare_model(), args.dropout, on_cpu=args.device.type == "cpu", longest=longest)
        self.teacher_model = teacher_model
        self.targets = TeacherTargets(self.bare_model(), teacher_model, args)
        self.targets.check_dataset(self.train_dataset)
        num_classes = getattr(getattr(self.bare_model(), "config", None), "num_labels", 0)
        self.balance = class_balance(args, task, self.train_dataset, num_classes)

    def _pad_token_id(self) -> int:
        for owner in (self.processing_class, getattr(self.model, "config", None)):
            pad = getattr(owner, "pad_token_id", None)
            if pad is not None:
                return int(pad)
        return 0

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as ``Trainer`` does, in TF32 if requested; raises ``InputError`` if the device has none."""
        with float32_products(tf32=self.args.tf32, device=self.args.device):
            return super().train(*args, **kwargs)

    # ---- Data -------------------------------------------------------------------------------------------

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            own = list(self._signature_columns or [])
            # The teacher may use columns that the student does not (token_type_ids beside a distilbert).
            extra = {TEACHER_COLUMN, *self.targets.teacher_columns} - set(own)
            self._signature_columns = [*own, *sorted(extra)]

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        classes = None if self.balance is None else self.balance.drawn
        if self.args.train_sampling_strategy != "group_by_length" or not hasattr(dataset, "__len__"):
            if classes is None:
                return super()._get_train_sampler(train_dataset)
            return BalancedSampler(classes, seed)
        # One group is one optimizer step, so that its texts do not depend on gradient accumulation.
        group = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        lengths = dataset_lengths(dataset, self.args.length_column_name)
        return LengthGroupedSampler(lengths, group, seed, classes)

    def get_train_dataloader(self) -> DataLoader:
        """Return ``Trainer``'s loader, or one that gathers the same batches on the device."""
        args, on_gpu = self.args, self.args.device.type == "cuda"
        wanted = on_gpu if args.data_on_device is None else args.data_on_device
        is_single_process = args.world_size == 1 and not args.dataloader_num_workers
        if not (wanted and is_single_process and can_be_kept(self.train_dataset, self.data_collator)):
            return super().get_train_dataloader()
        sampler = self._get_train_sampler()
        if not isinstance(sampler, LengthGroupedSampler | LengthSortedSampler | BalancedSampler):
            return super().get_train_dataloader()
        texts = device_texts(self.train_dataset, self.data_collator, args.device)
        if texts is None:
            return super().get_train_dataloader()
        return self.accelerator.prepare(
            texts.loader(sampler, self._train_batch_size, drop_last=args.dataloader_drop_last)
        )

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length" or not hasattr(eval_dataset, "__len__"):
            return super()._get_eval_sampler(eval_dataset)
        return LengthSortedSampler(dataset_lengths(eval_dataset, self.args.length_column_name))

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | int | None]:
        """Return the micro-batches of one optimizer step, and the number of their examples on all processes."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        if self.args.world_size > 1 and batches:
            batches[-1] = self._without_repeated_rows(batches[-1])
        own = [batch for batch in batches if _REPEATED not in batch]
        num_items: Tensor | int = sum(map(self._num_examples, own))
        self._step_texts = sum(map(num_rows_of, own))
        self._step_weight = None if self.balance is None else self.balance.total_weight(own)
        if self.args.world_size > 1:
            counted = torch.stack(
                [torch.as_tensor(each, device=device) for each in (num_items, self._step_texts)]
            )
            gathered: Any = self.accelerator.gather(counted[None])
            num_items, self._step_texts = gathered.sum(dim=0)
            if self._step_weight is not None:
                weights: Any = self.accelerator.gather(self._step_weight)
                self._step_weight = weights.sum()
        return batches, num_items

    def _without_repeated_rows(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a process's share of the epoch's last batch without the rows that accelerate repeated.

        accelerate pads that batch with the epoch's first rows, so that all processes have the same number. A process
        that has only repeated rows keeps the first one, marked, since every process must take every step.
        """
        state = self.accelerator.gradient_state
        sampler = getattr(state.active_dataloader, "batch_sampler", None)
        shared_out = isinstance(sampler, BatchSamplerShard) and sampler.num_processes > 1
        if not (shared_out and state.end_of_dataloader and state.remainder > 0):
            return batch
        num_rows = num_rows_of(batch)
        num_own = min(num_rows, state.remainder - self.args.process_index * num_rows)
        kept = {name: value[: max(num_own, 1)] for name, value in batch.items()}
        return kept if num_own > 0 else {**kept, _REPEATED: True}

    # ---- Loss -------------------------------------------------------------------------------------------

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Compute gradients as ``Trainer`` does; again, on one process, if the compiled backward fails."""
        step, runnable = super().training_step, self._runnable(model)
        if runnable is model or self.args.world_size > 1:
            return step(model, inputs, num_items_in_batch)
        undo = partial(setattr, self, "_terms", copy.copy(self._terms))
        return runnable.step(lambda: step(model, dict(inputs), num_items_in_batch), undo)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute the distillation loss of a training batch, or the cross-entropy of an evaluation batch.

        ``num_items_in_batch``: number of examples of the whole optimizer step; by default that of ``inputs``.
        """
        if not model.training:
            return self._evaluation_loss(model, inputs, return_outputs)
        repeated = inputs.pop(_REPEATED, False)
        args, features = self.args, self.targets.student_inputs(inputs)
        terms = terms_of(args)
        needs = needs_of(terms)
        if "hidden_states" in needs:
            features["output_hidden_states"] = True
        outputs = self._runnable(model)(**features)
        num_items = self._num_examples(inputs) if num_items_in_batch is None else num_items_in_batch
        teacher_logits, teacher_outputs = self.targets.of_batch(inputs, args.device, needs)
        label_weights = None
        if self.balance is not None:
            total = self.balance.total_weight([inputs]) if num_items_in_batch is None else self._step_weight
            label_weights = self.balance.label_weights(total)
        logits, labels, teacher_logits = self._of_examples(
            inputs, outputs["logits"], inputs.get("labels"), teacher_logits
        )
        assert logits is not None
        loss_inputs = LossInputs(
            logits=logits,
            num_items=num_items,
            num_texts=num_rows_of(inputs) if num_items_in_batch is None else self._step_texts,
            labels=labels,
            teacher_logits=teacher_logits,
            attention_mask=inputs.get("attention_mask"),
            outputs=outputs,
            teacher_outputs=teacher_outputs,
            task=self.task,
            label_weights=label_weights,
        )
        try:
            loss, values = weighted_sum(terms, loss_inputs)
        except ValueError as error:
            raise InputError(f"the training data does not match the loss: {error}") from error
        # Gradients are averaged over processes, and num_items counts the examples of all of them.
        scale = 0 if repeated else args.world_size
        self._terms.add(self._num_examples(inputs) / num_items * scale, scale, values)
        loss = loss * scale if scale != 1 else loss
        return (loss, outputs) if return_outputs else loss

    def _num_examples(self, inputs: Mapping[str, Any]) -> Tensor | int:
        """Count the examples of a batch that the loss is averaged over: texts, or the words of a task of tokens."""
        examples = self.task.examples(inputs)
        return num_rows_of(inputs) if examples is None else max(1, len(examples))

    def _of_examples(self, inputs: Mapping[str, Any], *of_batch: Tensor | None) -> list[Tensor | None]:
        """Return only the examples' logits, of [B, ..., C], or labels, of [B, ...]."""
        examples = self.task.examples(inputs)
        if examples is None:
            return list(of_batch)
        return [None if each is None else each.flatten(0, 1).index_select(0, examples) for each in of_batch]

    def _runnable(self, model: nn.Module) -> Any:
        """Return the model, compiled if the arguments request it."""
        if not self.args.compile_step:
            return model
        if self.compiled_model is None or self.compiled_model.model is not model:
            self.compiled_model = CompiledModel(
                model, self._train_batch_size, self.args.gradient_accumulation_steps == 1
            )
        return self.compiled_model

    # ---- Evaluation -------------------------------------------------------------------------------------

    def _evaluation_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool) -> Any:
        parts, width = self.parts(inputs, is_trained=False), width_of(inputs)
        if len(parts) == 1:
            outputs = model(**self.targets.student_inputs(inputs))
        else:
            outputs = {"logits": self._logits_in_parts(model, parts, width)}
        logits, labels = self._of_examples(inputs, outputs["logits"], inputs.get("labels"))
        assert logits is not None
        loss = logits.new_zeros(()) if labels is None else self.task.hard_loss(logits, labels)
        if self.args.eval_with_teacher:
            found = self._in_parts(parts, lambda part: self.targets.logits(part, self.args.device), width)
            (teacher_logits,) = self._of_examples(inputs, found)
            assert teacher_logits is not None
            teacher_logits = with_own_for_missing(teacher_logits, logits)
            soft = self.task.soft_loss(logits, teacher_logits, temperature=self.args.temperature)
            self._eval_sums.append((soft.detach(), len(logits)))
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """Predict as ``Trainer`` does, including rows without labels."""
        if inputs.get("labels") is None:
            parts = self.parts(self._prepare_inputs(inputs), is_trained=False)
            if len(parts) > 1:
                with torch.no_grad(), self.compute_loss_context_manager():
                    logits = self._logits_in_parts(model, parts, width_of(inputs))
                return None, None if prediction_loss_only else logits, None
            inputs = self.targets.student_inputs(inputs)
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def _logits_in_parts(self, model: nn.Module, parts: list[Part], width: int) -> Tensor:
        return self._in_parts(parts, lambda part: model(**self.targets.student_inputs(part))["logits"], width)

    def _in_parts(self, parts: list[Part], run: Callable[[dict[str, Any]], Tensor], width: int) -> Tensor:
        return run_in_parts(parts, run, width, self.task.padding_logit)

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate as ``Trainer`` does, with predictions and labels in the dataset's order."""
        self._eval_sums = []
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        if self._eval_sums and output.metrics is not None:
            num_rows = sum(count for _, count in self._eval_sums)
            total = sum(float(soft) * count for soft, count in self._eval_sums)
            output.metrics[f"{kwargs.get('metric_key_prefix', 'eval')}_distillation"] = total / num_rows
        sampler = innermost_sampler(dataloader)
        if not isinstance(sampler, LengthSortedSampler):
            return output
        return output._replace(
            predictions=in_dataset_order(output.predictions, sampler.order),
            label_ids=in_dataset_order(output.label_ids, sampler.order),
        )

    # ---- Logging ----------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; add to a training loss its terms, averaged over the same steps."""
        if "loss" in logs and self._terms:
            logs.update(self._terms.means(self.args.device, self.args.parallel_mode))
            for each in self._pruning():
                logs["sparsity"] = each.sparsity
        super().log(logs, start_time)

    # ---- Pruning ----------------------------------------------------------------------------------------

    def _pruning(self) -> list[PruningCallback]:
        return [each for each in self.callback_handler.callbacks if isinstance(each, PruningCallback)]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load as ``Trainer`` does, and pass the checkpoint's path to the pruning callbacks."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for each in self._pruning():
            each.resume_from(Path(resume_from_checkpoint))

    # ---- Cost of a step ---------------------------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create the optimizer as ``Trainer`` does, after freezing the embeddings if requested."""
        if self.args.freeze_embeddings:
            bare = self.bare_model()
            embeddings = getattr(getattr(bare, "base_model", bare), "embeddings", None)
            (bare.get_input_embeddings() if embeddings is None else embeddings).requires_grad_(False)
        # A new training starts here: drop the sums of an earlier, interrupted one.
        self._terms = StepTerms()
        optimizer = super().create_optimizer(model)
        scale_head(optimizer, self.bare_model(), self.task, self.train_dataset)
        return optimizer
