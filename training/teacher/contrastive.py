"""Contrastive fine-tuning of an encoder: texts that share a label become similar, the others dissimilar.

Shapes: N training texts, B texts of a batch, C labels, D numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Sampler
from transformers import PreTrainedModel, TrainerCallback

from ...progress import Progress, ReportProgress
from ...storage.temporary import temporary_directory
from ..checkpoints.heads import head_of
from ..checkpoints.unfinished import KeepEpochs, UnfinishedTraining
from ..data.sampling import LabelGroupedSampler
from ..data.tokenized import TokenizedSplit
from ..distillation.arguments import resumed_bf16
from ..distillation.trainer import DistillationTrainer
from ..models.first_token import first_token_in_last_layer
from ..models.inference import logits_of_batches
from ..models.passes import inference_limit, length_batches
from ..models.runtime import end_mixed_precision
from ..tasks import Task
from .config import ContrastiveConfig, FineTuneConfig
from .initial import InitialTeacher
from .trainer import make_trainer

GROUP_SIZE = 4
"""Number of consecutive texts with the same label in a batch."""
_BATCH_SIZE = 64  # texts that are embedded at a time
_MOST_STEPS = 500  # of the logistic regression


class ContrastiveTrainer(DistillationTrainer):
    """Train a classifier's encoder to place texts that share a label near each other.

    The recipe is SetFit's (Tunstall et al., "Efficient Few-Shot Learning Without Prompts", 2022, arXiv 2209.11055) with
    the loss of ``similarity_loss``; every pair of a batch is compared, so that B texts give B (B - 1) / 2 pairs. The
    embedding of a text is what the head's linear layer reads, so that the result is a checkpoint of the same class.

    A batch that is split into passes is still compared as a whole: the embeddings of all its passes exist together, and
    the backward pass computes the states of one pass at a time again, with the same dropout (Gao et al., "Scaling Deep
    Contrastive Learning Batch Size under Memory Limited Setup", 2021, arXiv 2101.06983). That is a third more work.

    Args:
        model: A classifier.
        args: The training arguments.
        out_of_scope_id: Label whose texts are similar to no other text, not even to each other; None: there is none.
        **kwargs: As for ``DistillationTrainer``; the task must have ``shares_labels``.
    """

    def __init__(self, model: Any, args: Any, *, out_of_scope_id: int | None = None, **kwargs: Any) -> None:
        super().__init__(model, args, **kwargs)
        self._out_of_scope_id = out_of_scope_id

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        sets = self._sets(torch.from_numpy(np.asarray(dataset.labels)))
        return LabelGroupedSampler(rarest_labels(sets.numpy()), GROUP_SIZE, self.args.seed)

    def _sets(self, labels: Tensor) -> Tensor:
        """Return which labels each text has, bool[N, C]; an out-of-scope text has none."""
        sets = self.task.label_sets(labels, self.bare_model().config.num_labels)
        outside = self._out_of_scope_id
        if outside is not None and outside < sets.shape[1]:
            sets[:, outside] = False
        return sets

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Compute loss and gradients of a whole batch; its passes are those of ``compute_loss``."""
        del (
            num_items_in_batch
        )  # with it, each pass would have a loss of its own; this one is averaged over pairs
        return super().training_step(model, inputs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute the similarity loss of a batch, whose texts are embedded in one pass or several."""
        del num_items_in_batch
        labels, parts = inputs["labels"], self.training_parts(inputs)
        if len(parts) > 1:
            # The backward pass embeds one part after another again and frees its states.
            found = [checkpoint(self._embedded, model, each.batch, use_reentrant=False) for each in parts]
            labels = torch.cat([each.batch["labels"] for each in parts])
            embeddings = torch.cat(found)
        else:
            embeddings = self._embedded(model, inputs)
        loss = similarity_loss(embeddings, self._sets(labels))
        return (loss, {"embeddings": embeddings}) if return_outputs else loss

    def _embedded(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Return the embeddings [B, D] of a pass."""
        with read_by_head(self.bare_model()) as embeddings:
            model(**self.targets.student_inputs(inputs))
        return embeddings[-1]


@contextmanager
def read_by_head(model: Any) -> Iterator[list[Tensor]]:
    """Collect the embeddings [B, D] that the head's linear layer reads in each forward pass of the block."""
    found: list[Tensor] = []
    hook = head_of(model).register_forward_pre_hook(lambda _, given: found.append(given[0]))
    try:
        yield found
    finally:
        hook.remove()


def similarity_loss(embeddings: Tensor, sets: Tensor) -> Tensor:
    """Return the squared error of all pairs' cosine similarities; the target is 1 if they share a label, else 0.

    Reimers and Gurevych, "Sentence-BERT", 2019 (arXiv 1908.10084), section 3, "Regression Objective Function". Pairs
    that share a label weigh as much in total as those that do not, as SetFit draws both equally often. Two texts
    without any label are not compared.

    Args:
        embeddings: [B, D].
        sets: bool[B, C], the labels of each text.
    """
    unit = functional.normalize(embeddings.float(), dim=1)
    shared = (sets.float() @ sets.float().T) > 0
    labelled = sets.any(dim=1)
    pairs = torch.ones_like(shared).triu(1) & (labelled[:, None] | labelled)
    errors = (unit @ unit.T - shared.float()).square()
    halves = [(errors * kind).sum() / kind.sum().clamp(min=1) for kind in (pairs & shared, pairs & ~shared)]
    return (halves[0] + halves[1]) / 2


def rarest_labels(sets: np.ndarray) -> np.ndarray:
    """Return the rarest label of each text, int[N], from bool[N, C]; -1 for a text without labels."""
    counts = np.where(sets, sets.sum(axis=0), len(sets) + 1)
    return np.where(sets.any(axis=1), counts.argmin(axis=1), -1)


@torch.no_grad()
def embeddings_of(model: PreTrainedModel, split: TokenizedSplit, pad_token_id: int) -> Tensor:
    """Return the inputs of the head's linear layer for N texts, float32[N, D] on the CPU, without dropout."""
    found = torch.empty(len(split), head_of(model).in_features)
    batches = length_batches(split.lengths, _BATCH_SIZE, inference_limit(model).tokens)
    with first_token_in_last_layer(model), read_by_head(model) as read:
        for rows, _, _ in logits_of_batches(model, split, batches, pad_token_id=pad_token_id):
            found[torch.from_numpy(rows)] = read.pop().float().cpu()
    return found


def fit_head(head: nn.Linear, embeddings: Tensor, labels: Tensor, task: Task) -> None:
    """Set a head to the logistic regression of the labels on embeddings[N, D], in place.

    It minimises the sum of the task's losses over texts and half the squared norm of the weights, as scikit-learn's
    ``LogisticRegression`` does by default; with several labels, each has a regression of its own.
    """
    weight = torch.zeros(head.weight.shape, requires_grad=True)
    bias = torch.zeros(len(weight), requires_grad=True)
    # The loss of several labels is a mean over labels, which this divisor turns into a sum.
    num_items = 1 / len(weight) if task.has_label_sets else 1
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_MOST_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = task.hard_loss(embeddings @ weight.T + bias, labels, num_items=torch.tensor(num_items))
        total = total + weight.square().sum() / 2
        total.backward()
        return total

    optimizer.step(loss)
    with torch.no_grad():
        head.weight.copy_(weight)
        if head.bias is not None:
            head.bias.copy_(bias)


class ReportEpochs(TrainerCallback):
    """Report the epochs of contrastive fine-tuning, in which nothing is measured."""

    def __init__(self, report: ReportProgress | None) -> None:
        self._report = report

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report which epoch begins."""
        if self._report is None:
            return
        done, total = int(state.epoch or 0), int(args.num_train_epochs)
        message = f"epoch {done + 1} of {total}, contrastive fine-tuning of the teacher"
        self._report(Progress(message, {"done": done, "total": total}))


def contrastive_of(initial: InitialTeacher) -> ContrastiveConfig | None:
    """Return the section of a teacher's contrastive fine-tuning; None where it has none."""
    return initial.recipe.contrastive if isinstance(initial.recipe, FineTuneConfig) else None


def contrastive_trainer(
    initial: InitialTeacher,
    train: TokenizedSplit,
    seed: int,
    work: Path,
    callbacks: list[TrainerCallback],
    out_of_scope_id: int | None = None,
    *,
    saves: bool,
    use_gpu: bool,
    bf16: bool | None = None,
) -> ContrastiveTrainer:
    """Create the trainer of a teacher's contrastive fine-tuning; arguments as in ``make_trainer``."""
    recipe = contrastive_of(initial)
    assert recipe is not None
    return make_trainer(
        ContrastiveTrainer,
        recipe,
        initial,
        train,
        seed,
        work,
        callbacks,
        saves=saves,
        use_gpu=use_gpu,
        bf16=bf16,
        out_of_scope_id=out_of_scope_id,
    )


def fine_tune_contrastively(
    initial: InitialTeacher,
    train: TokenizedSplit,
    seed: int,
    out_of_scope_id: int | None = None,
    report: ReportProgress | None = None,
    unfinished: UnfinishedTraining | None = None,
    *,
    use_gpu: bool,
) -> None:
    """Fine-tune a teacher's encoder contrastively, in place, and set its head to a logistic regression.

    Args:
        initial: The teacher, whose recipe has ``contrastive``.
        train: Tokenized training split.
        seed: Seed of shuffling and dropout.
        out_of_scope_id: As in ``ContrastiveTrainer``.
        report: Called when an epoch begins, with ``done`` and ``total`` epochs.
        unfinished: Place for the last completed epoch, from which an interrupted training is resumed.
        use_gpu: Whether to train on a GPU.
    """
    last = unfinished.last() if unfinished else None
    with temporary_directory("contrastive") as work, first_token_in_last_layer(initial.model):
        trainer = contrastive_trainer(
            initial,
            train,
            seed,
            work,
            [ReportEpochs(report), *([KeepEpochs(unfinished)] if unfinished else [])],
            out_of_scope_id,
            saves=unfinished is not None,
            use_gpu=use_gpu,
            bf16=resumed_bf16(last, use_cpu=not use_gpu),
        )
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    end_mixed_precision(initial.model)
    embeddings = embeddings_of(initial.model, train, initial.tokenizer.pad_token_id)
    fit_head(head_of(initial.model), embeddings, torch.from_numpy(np.array(train.labels)), initial.task)
