"""Measure trainings: steps on batches as the sampler draws them, evaluation, saving, and memory."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from ....search.trial.checkpoints import write_epoch
from ....search.trial.inputs import TrialInputs, TrialSettings
from ....search.trial.reporter import LastSaveIsModel
from ....search.trial.run import make_trainer
from ....training.data.tokenized import TokenizedSplit, selected
from ....training.models.first_token import first_token_in_last_layer
from ....training.models.inference import compute_logits, logits_of_batches
from ....training.models.runtime import intra_op_threads, quiet
from .cost import (
    BatchCost,
    Batches,
    inference_batches,
    measured_batches,
    sampled,
    tokens_of,
    training_batches,
)
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from ....training.distillation.trainer import DistillationTrainer
    from ....training.pretraining.trainer import PretrainingTrainer
    from ....training.section import Balance
    from ....training.teacher.initial import InitialTeacher
    from .request import Point

_MOST_STEPS = 128
_STEPS_OF_SCHEDULE = 16  # if a step's cost depends on how much of the training is done
_LEAST_STEPS = 3


class _StepTimer(TrainerCallback):
    """Time each step from the end of the previous one, including loading its batch; stop when the time is over."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = 0.0
        self._watch = Stopwatch()
        self.steps: list[float] = []
        self.save_s = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the step's time; the first step is a warm-up."""
        took = self._watch.lap()
        if self._end:
            self.steps.append(took)
        else:
            self._end = time.perf_counter() + self._seconds
        if len(self.steps) >= _LEAST_STEPS and time.perf_counter() > self._end:
            control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start timing the save."""
        self._watch.lap()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the time of saving."""
        self.save_s = self._watch.lap()


def measure_training(
    trainer: DistillationTrainer | PretrainingTrainer,
    lengths: np.ndarray,
    seconds: float,
    wait: Callable[[], None],
    num_steps: int = _MOST_STEPS,
) -> dict[str, Any]:
    """Run some steps of a training in its own order of batches, and save a checkpoint.

    Args:
        trainer: The trainer, with all texts and its real arguments.
        lengths: Tokens of each training text, int[N].
        seconds: Duration of the measurement; at least three steps are made.
        wait: Called before the first step; waits for trainings that are measured in parallel.
        num_steps: Maximum number of steps.

    Returns:
        ``tokens`` and ``seconds`` of each step, ``save_s``, ``model_bytes`` and ``checkpoint_bytes``; and ``passes``:
        the maximum ``tokens`` of a pass and their ``bytes`` if the longest batch is split, else None.
    """
    args = trainer.args
    batch_size = args.train_batch_size * args.gradient_accumulation_steps
    grouped = args.train_sampling_strategy == "group_by_length"
    batches = training_batches(lengths, batch_size, args.seed, grouped=grouped)
    whole: Batches = [rows for rows in batches if len(rows) == batch_size] or batches
    order = [whole[index] for index in sampled(tokens_of(whole, lengths), num_steps)]
    rows = np.concatenate(order).tolist()
    trainer._get_train_sampler = lambda *_: rows  # pyright: ignore[reportAttributeAccessIssue]
    args.num_train_epochs, args.max_steps = 1, -1
    timer = _StepTimer(seconds)
    trainer.add_callback(timer)
    wait()
    trainer.train()
    [saved] = Path(str(args.output_dir)).glob("checkpoint-*")
    watch = Stopwatch()
    write_epoch(saved, {})
    shutil.copytree(saved, saved.with_name("copy"))
    copied_s = watch.lap()
    sizes = {path.name: path.stat().st_size for path in saved.rglob("*") if path.is_file()}
    shutil.rmtree(saved.with_name("copy"))
    shutil.rmtree(saved)
    return {
        "tokens": tokens_of(order[1 : len(timer.steps) + 1], lengths).tolist(),
        "seconds": timer.steps,
        "save_s": timer.save_s + copied_s,
        "model_bytes": sizes.get("model.safetensors", 0),
        "checkpoint_bytes": sum(sizes.values()),
        "passes": _passes_of(trainer, whole, lengths),
    }


def _passes_of(trainer: Any, batches: Batches, lengths: np.ndarray) -> dict[str, int] | None:
    """Return the maximum ``tokens`` of a pass and their ``bytes`` if a micro-batch has more tokens, else None."""
    size, limit = trainer.args.train_batch_size, trainer.pass_limit(is_trained=True)
    longest = max((int(lengths[rows].max(initial=1)) for rows in batches), default=1)
    if size <= limit.rows(longest) or limit.shape is None:
        return None
    tokens = limit.tokens(longest)
    return {"tokens": tokens, "bytes": tokens * limit.shape.token_bytes(longest)}


def measure_teacher(
    initial: InitialTeacher,
    splits: dict[str, TokenizedSplit],
    seed: int,
    num_threads: int,
    seconds: float,
    work: Path,
    wait: Callable[[], None],
    balance: Balance = "none",
) -> dict[str, Any]:
    """Measure the training of a teacher.

    Args:
        initial: The teacher, which has a recipe.
        splits: Tokenized training split, under ``train``.
        seed: Seed of its sampler.
        num_threads: Intra-op threads.
        seconds: Duration of the measurement.
        work: Directory for its checkpoint.
        wait: As in ``measure_training``.
        balance: The job's key ``training.balance``.

    Returns:
        The result of ``measure_training`` with ``epochs``, ``epoch_s`` and ``encoder_s``, the seconds of contrastive
        fine-tuning before the epochs.
    """
    from ....training.teacher.trainer import teacher_trainer

    recipe, lengths = initial.recipe, splits["train"].lengths
    assert recipe is not None
    with intra_op_threads(num_threads), quiet():
        on_gpu = torch.cuda.is_available()
        encoder_s = _encoder_s(initial, splits["train"], seed, seconds, work, wait, use_gpu=on_gpu)
        trainer = teacher_trainer(
            initial, splits["train"], seed, work, [], balance, saves=True, use_gpu=on_gpu
        )
        with first_token_in_last_layer(initial.model):
            measured = measure_training(trainer, lengths, seconds, wait)
    batches = training_batches(lengths, recipe.batch_size, seed)
    cost = BatchCost.fit(measured["tokens"], measured["seconds"])
    epoch_s = cost.of(tokens_of(batches, lengths))
    return {**measured, "epochs": recipe.num_train_epochs, "epoch_s": epoch_s, "encoder_s": encoder_s}


def _encoder_s(
    initial: InitialTeacher,
    train: TokenizedSplit,
    seed: int,
    seconds: float,
    work: Path,
    wait: Callable[[], None],
    *,
    use_gpu: bool,
) -> float:
    """Estimate the seconds of a teacher's contrastive fine-tuning from a few steps; 0 if it has none."""
    from ....training.models.runtime import end_mixed_precision
    from ....training.teacher.contrastive import contrastive_of, contrastive_trainer

    recipe = contrastive_of(initial)
    if recipe is None:
        return 0.0
    trainer = contrastive_trainer(initial, train, seed, work, [], saves=True, use_gpu=use_gpu)
    with first_token_in_last_layer(initial.model):
        measured = measure_training(trainer, train.lengths, seconds, wait)
    end_mixed_precision(initial.model)
    cost = BatchCost.fit(measured["tokens"], measured["seconds"])
    batches = training_batches(train.lengths, recipe.batch_size, seed, grouped=False)
    epoch_s = cost.of(tokens_of(batches, train.lengths))
    return recipe.num_train_epochs * (epoch_s + 2 * measured["save_s"])


def measure_inference(
    model: Any, splits: dict[str, TokenizedSplit], pad_token_id: int, num_threads: int, seconds: float
) -> dict[str, float]:
    """Measure ``compute_logits`` on some batches of the largest split; return the estimated seconds of each split.

    Like ``compute_logits``, the estimate counts each distinct text once.
    """
    distinct = {
        name: split.lengths[np.unique(split.example_ids, return_index=True)[1]]
        for name, split in splits.items()
    }
    largest = max(splits, key=lambda name: len(splits[name]))
    split, lengths = splits[largest], splits[largest].lengths

    def run(rows: np.ndarray) -> None:
        compute_logits(
            model, selected(split, rows.tolist()), pad_token_id=pad_token_id, num_threads=num_threads
        )

    cost = measured_batches(run, inference_batches(model, lengths), lengths, seconds)
    return {
        name: cost.of(tokens_of(inference_batches(model, each), each)) if len(each) else 0.0
        for name, each in distinct.items()
    }


def measure_trials(
    points: list[Point],
    inputs: TrialInputs,
    settings: TrialSettings,
    seconds: float,
    work: Path,
    wait: Callable[[], None],
) -> list[dict[str, Any]]:
    """Measure a few steps, an evaluation and a checkpoint of each trial, which is trained as by ``run_trial``.

    Args:
        points: The trials.
        inputs: Texts, logits and students.
        settings: Settings of the search.
        seconds: Duration of each trial's measurement.
        work: Directory for checkpoints.
        wait: Waits for the trials that are measured in parallel.

    Returns:
        The results of ``measure_training``, each with ``size`` of its point, ``setup_s`` and ``evaluation_s``.
    """
    torch.set_num_threads(settings.num_threads)
    aware = settings.training.quantization_aware
    if aware is not None:  # keep the share of quantization-aware epochs, since only one epoch is measured
        share = min(0.99, aware.num_epochs / settings.training.num_train_epochs)
        aware = aware.model_copy(update={"num_epochs": aware.num_epochs if aware.num_epochs < 1 else share})
        training = settings.training.model_copy(update={"quantization_aware": aware})
        settings = replace(settings, training=training)
    scheduled = aware is not None or settings.training.pruning is not None
    found = []
    for number, point in enumerate(points):
        watch = Stopwatch()
        own = inputs.of(point.arguments)
        trainer = make_trainer(dict(point.arguments), own, settings, work / str(number))
        trainer.remove_callback(LastSaveIsModel)  # so that the optimizer's state is saved
        setup_s = watch.lap()
        lengths = np.concatenate([each.tokens.lengths for each in own.trained_on(point.arguments)])
        num_steps = _STEPS_OF_SCHEDULE if scheduled else _MOST_STEPS
        measured = measure_training(trainer, lengths, seconds, wait, num_steps)
        evaluation_s = _evaluation_s(trainer, own.validation, seconds / 4)
        found.append({**measured, "size": point.size, "setup_s": setup_s, "evaluation_s": evaluation_s})
    return found


def _evaluation_s(trainer: DistillationTrainer, split: TokenizedSplit, seconds: float) -> float:
    """Estimate the seconds of an evaluation on a split, from some of its batches."""
    model: Any = trainer.model
    pad = int(model.config.pad_token_id or 0)
    batches = inference_batches(model, split.lengths, trainer.args.per_device_eval_batch_size)

    def run(rows: np.ndarray) -> None:
        with torch.no_grad():
            list(logits_of_batches(model, split, [rows], pad_token_id=pad))

    cost = measured_batches(run, batches, split.lengths, seconds)
    return cost.of(tokens_of(batches, split.lengths))
