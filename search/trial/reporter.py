"""The trainer callback that evaluates, saves and reports every epoch of a trial.

Checkpoints are written to the store directly, and only metrics are reported to Tune: if checkpoints were reported, Tune
would force a snapshot of the whole search for every few of them, and give up a trial whose last one it does not find.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME

from ...errors import DistiltuneError, StorageError, first_line
from ...training import tasks
from ...training.distillation.losses.base import with_sections
from ...training.distillation.trainer import DistillationTrainer
from ...training.models.inference import KeptBatches
from ...training.ragged import flat
from ...training.tasks import title_of
from ..space.space import THRESHOLD_METRIC, VALIDATION, metrics_of
from .checkpoints import SavedEpoch, checkpoint_key, thinned, upload_files, upload_record, write_epoch
from .events import TrialEvents, best_tag, tag_of
from .inputs import TrialInputs, TrialSettings

# Reported metrics by their names in the trainer's log.
_LOSSES = {"loss": "train_loss", "cross_entropy": "train_cross_entropy", "distillation": "train_distillation"}


class TrialFailedError(DistiltuneError):
    """A trial cannot continue with its arguments."""


class LastSaveIsModel(TrainerCallback):
    """Save the model alone after the last epoch, since a finished trial is not resumed."""

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave optimizer, schedule and random states out of the last checkpoint."""
        args.save_only_model = state.global_step >= state.max_steps


class EpochReporter(TrainerCallback):
    """Evaluate on the validation split after every epoch, save a checkpoint and report to Tune.

    Args:
        trial: Key of the trial's folder.
        inputs: Texts that all trials share.
        settings: Settings that all trials share.
        events: TensorBoard run of the trial.
        log: Function that adds a line to the trial's log.
        saved: The trial's checkpoints; it is resumed from the last.
    """

    def __init__(
        self,
        trial: str,
        inputs: TrialInputs,
        settings: TrialSettings,
        events: TrialEvents,
        log: Callable[[str], None],
        saved: Sequence[SavedEpoch] = (),
    ) -> None:
        self._trial = trial
        self._inputs = inputs
        self._settings = settings
        self._events = events
        self._log = log
        self._saved = list(saved)
        self.epoch = self._saved[-1].epoch if self._saved else 0
        before = self._saved[-1].metrics if self._saved else {}
        self._seconds_before: float = before.get("trial_seconds", 0.0)
        self._task = tasks.get(inputs.task)
        self._best: float | None = before.get("best")
        self._curve: list[list[float]] = before.get("curve", [])
        self._started = self._epoch_started = time.monotonic()
        self._epoch_seconds = 0.0
        self._logged: list[tuple[int, dict[str, float]]] = []
        self._logged_step = 0
        self._num_texts = 0
        self._evaluated: KeptBatches | None = None
        self._measured: dict[str, float] | None = None
        self._uploader = ThreadPoolExecutor(1)  # starts a thread only when it is used
        self._sending: Future[SavedEpoch] | None = None
        self._saved_at = time.monotonic()
        self._sparsity: float = before.get("sparsity", 0.0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count steps from the one at which a trial is resumed."""
        self._logged_step = state.global_step
        self._num_texts = len(kwargs["train_dataloader"].dataset)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the epoch's clock."""
        self._epoch_started = time.monotonic()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop the epoch's clock before evaluation, and request a log of the last steps."""
        self._epoch_seconds = time.monotonic() - self._epoch_started
        control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write losses and learning rate to TensorBoard; fail at a loss that is not finite."""
        if not logs or "loss" not in logs:
            return
        values = {name: float(logs[key]) for key, name in _LOSSES.items() if key in logs}
        if not all(map(math.isfinite, values.values())):
            raise TrialFailedError(
                f"the training loss is {values['train_loss']} at step {state.global_step} of "
                f"{state.max_steps} (learning_rate {args.learning_rate:g}); try a lower learning rate"
            )
        self._logged.append((state.global_step - self._logged_step, values))
        self._logged_step = state.global_step
        scalars = {**values, "learning_rate": float(logs.get("learning_rate", 0.0))}
        shown = {tag_of(name): value for name, value in scalars.items()}
        shown |= {f"loss/{name}": float(logs[name]) for name in with_sections() if name in logs}
        if "sparsity" in logs:
            self._sparsity = shown["sparsity"] = float(logs["sparsity"])
        self._events.scalars(shown, state.global_step)

    def wants_checkpoint(self, model: PreTrainedModel, args: TrainingArguments, state: TrainerState) -> bool:
        """Return whether the epoch that has ended gets a checkpoint to resume from.

        With ``checkpoint_every_s``, the first and the last epoch do, every epoch that is the best so far, and the next
        one after that many seconds without a checkpoint. The epoch is then evaluated before its checkpoint is written,
        and the checkpoint is uploaded while the next epoch trains.
        """
        self.settle()
        settings = self._settings
        if not settings.checkpoint_every_s or settings.num_processes > 1:
            return True
        self._measured = {**self._train_metrics(args), **self._validation_metrics(model, args)}
        progress = state.global_step / state.max_steps
        sign = 1 if settings.mode == "max" else -1
        counts_from = settings.counts_from(state.max_steps)
        # Epochs before pruning is complete are selected only if there are no others.
        others = [
            value for reached, value in self._curve if (reached >= counts_from) or progress < counts_from
        ]
        is_best = all(sign * self._measured[settings.metric] >= sign * value for value in others)
        is_due = time.monotonic() - self._saved_at >= settings.checkpoint_every_s
        return is_best or is_due or progress >= 1

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        """Evaluate while the epoch's checkpoint is uploaded to the store, complete it, and report to Tune.

        For an epoch without a checkpoint, only the record is uploaded. With ``checkpoint_every_s``, uploads follow the
        report. Additional processes of the trial wait for this one at the next step.
        """
        assert model is not None
        self.epoch += 1
        directory = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        (directory / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle that nothing reads
        key, is_saved = checkpoint_key(self._trial, self.epoch), directory.is_dir()
        directory.mkdir(exist_ok=True)
        self._saved_at = time.monotonic() if is_saved else self._saved_at
        metrics, self._measured = self._measured, None
        is_sent = metrics is None
        if metrics is None:
            with ThreadPoolExecutor(1) as pool:
                sent = pool.submit(upload_files, self._settings.store, directory, key)
                metrics = {**self._train_metrics(args), **self._validation_metrics(model, args)}
                sent.result()
        metrics["sparsity"] = self._sparsity
        better = max if self._task.metric_mode(self._inputs.goal) == "max" else min
        reached = metrics[f"{VALIDATION}{self._inputs.goal}"]
        self._best = reached if self._best is None else better(self._best, reached)
        shown = {
            tag_of(name): value
            for name, value in metrics.items()
            if name.startswith("validation_") or name == "examples_per_second"
        }
        self._events.scalars({**shown, best_tag(self._inputs.goal): self._best}, state.global_step)
        self._events.send()
        progress = state.global_step / state.max_steps
        self._curve = [*self._curve, [progress, metrics[self._settings.metric]]]
        reported = {
            **metrics,
            "epoch": self.epoch,
            "progress": progress,
            "curve": self._curve,
            "counts_from": self._settings.counts_from(state.max_steps),
            "trial_seconds": self._seconds_before + time.monotonic() - self._started,
            "best": self._best,
            "saved_at": time.time(),
            "failure": "",
        }
        record = {"epoch": self.epoch, "step": state.global_step, "metrics": reported}
        record = record if is_saved else {**record, "reduced": True}
        self._log(self._line(metrics))
        if is_sent or progress >= 1:
            self._keep(self._send(directory, key, record, is_sent=is_sent), ended=progress >= 1)
        else:
            self._sending = self._uploader.submit(self._send, directory, key, record, is_sent=False)
        tune.report(reported)

    def settle(self) -> None:
        """Wait until the checkpoint that is being uploaded in the background is complete.

        Raises:
            StorageError: The upload failed.
        """
        sending, self._sending = self._sending, None
        if sending is not None:
            self._keep(sending.result(), ended=False)

    def close(self) -> None:
        """Wait for the last upload, and end the upload thread."""
        try:
            self.settle()
        finally:
            self._uploader.shutdown()

    def _send(self, directory: Path, key: str, record: dict[str, Any], *, is_sent: bool) -> SavedEpoch:
        """Upload a checkpoint's files unless ``is_sent``, then its record, and delete the local copy."""
        if not is_sent:
            upload_files(self._settings.store, directory, key)
        write_epoch(directory, record)
        saved = upload_record(self._settings.store, directory, key)
        shutil.rmtree(directory, ignore_errors=True)
        return saved

    def _keep(self, saved: SavedEpoch, *, ended: bool) -> None:
        """Add a checkpoint, and delete files of all checkpoints that are no longer needed."""
        settings = self._settings
        self._saved.append(saved)
        with suppress(StorageError):  # retried after the next epoch, or at the end of the search
            self._saved = thinned(
                settings.store.once, self._saved, settings.metric, settings.mode, ended=ended
            )

    def _line(self, metrics: dict[str, float]) -> str:
        shown_metrics = dict.fromkeys((self._inputs.goal, *self._task.metric_modes))
        values = {
            "loss": metrics["train_loss"],
            "cross-entropy": metrics["train_cross_entropy"],
            "distillation": metrics["train_distillation"],
            "validation loss": metrics["validation_loss"],
            **{title_of(name): metrics[f"{VALIDATION}{name}"] for name in shown_metrics},
        }
        if THRESHOLD_METRIC in metrics:
            values["accuracy with threshold"] = metrics[THRESHOLD_METRIC]
        if self._settings.training.pruning is not None:
            values["sparsity"] = metrics["sparsity"]
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        speed = f"{metrics['examples_per_second']:.1f} examples/s, {self._epoch_seconds:.1f} s"
        return f"epoch {self.epoch}: {shown}, {speed}"

    def _train_metrics(self, args: TrainingArguments) -> dict[str, float]:
        num_steps = sum(steps for steps, _ in self._logged) or 1
        metrics = {
            name: sum(steps * values.get(name, 0.0) for steps, values in self._logged) / num_steps
            for name in _LOSSES.values()
        }
        self._logged = []
        metrics["examples_per_second"] = self._num_texts / max(self._epoch_seconds, 1e-9)
        return metrics

    def _validation_metrics(self, model: PreTrainedModel, args: TrainingArguments) -> dict[str, float]:
        split = self._inputs.validation
        if self._evaluated is None:
            pad = int(model.config.pad_token_id or 0)
            tokens = self._settings.training.batch_tokens
            self._evaluated = KeptBatches(split, args.per_device_eval_batch_size, pad, tokens)
        logits = self._evaluated.logits(model)
        if not np.isfinite(flat(logits)).all():
            raise TrialFailedError(
                f"the student's logits are not finite after epoch {self.epoch} "
                f"(learning_rate {args.learning_rate:g}); try a lower learning rate"
            )
        task = self._task
        loss = task.validation_loss(logits, split.labels)
        found = task.measured_on(
            split,
            logits,
            self._inputs.out_of_scope_id,
            also=(self._inputs.goal, *self._settings.also),
            label_names=self._inputs.label_names,
        )
        metrics = {f"{VALIDATION}{name}": float(value or 0.0) for name, value in found.items()}
        if self._inputs.accuracy_with_threshold is not None:
            metrics[THRESHOLD_METRIC] = self._inputs.accuracy_with_threshold(flat(logits), flat(split.labels))
        return {"validation_loss": loss, **metrics}


class ReportedTrainer(DistillationTrainer):
    """A trainer that asks the reporter of its trial whether an epoch gets a checkpoint."""

    reporter: EpochReporter | None = None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.reporter is None or self.reporter.wants_checkpoint(self.bare_model(), self.args, self.state):
            super()._save_checkpoint(model, trial)


def failure_metrics(
    error: Exception, task: str, also: Iterable[str] = (), *, with_threshold: bool = False
) -> dict[str, Any]:
    """Return the report of a failed trial: the reason, and a finite value for every metric, as Tune requires.

    Args:
        error: Why the trial failed.
        task: Name of the task.
        also: Further metrics besides those of every epoch.
        with_threshold: Whether ``THRESHOLD_METRIC`` is one of them.
    """
    reason = first_line(error)
    if not isinstance(error, DistiltuneError):
        reason = f"{type(error).__name__}: {reason}"
    names = metrics_of(task, also, with_threshold=with_threshold)
    return {**dict.fromkeys(names, 0.0), "failure": reason}
