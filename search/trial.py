"""One trial: what runs on a worker, from the student's starting checkpoint to its last epoch."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from ray import tune
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.trainer_callback import PrinterCallback

from ..errors import InputError
from ..training.arguments import arguments_from_config
from ..training.checkpoints import load_classifier, load_tokenizer
from ..training.collator import DistillationCollator
from ..training.tokenized import TokenizedDataset
from ..training.trainer import DistillationTrainer
from .checkpoints import complete, find_checkpoint, read_epoch
from .inputs import TrialInputs, TrialSettings
from .reporter import EpochReporter, failure_metrics
from .tensorboard import TrialEvents

logger = logging.getLogger(__name__)


def run_trial(config: dict[str, Any], inputs: TrialInputs, settings: TrialSettings) -> None:
    """Train a student with the trial's arguments, reporting and saving every epoch.

    An interrupted trial goes on from its last epoch. A fault that comes from the trial's own arguments (a
    loss that is not finite, a refused value) is reported as its ``failure`` and not tried again; what a
    second try may cure (memory, disk, a lost worker) is raised, and Tune tries again from the last epoch.

    Args:
        config: ``number`` of the trial and its ``arguments``.
        inputs: Texts and logits that all trials share, read-only.
        settings: The same for every trial.
    """
    torch.set_num_threads(settings.num_threads)
    trial_id = tune.get_context().get_trial_id()
    assert trial_id is not None
    arguments = config["arguments"]
    with tempfile.TemporaryDirectory(prefix="trial-") as work:
        checkpoint = _checkpoint_to_resume(Path(settings.experiment_dir) / trial_id, Path(work))
        epoch = read_epoch(checkpoint) if checkpoint else None
        events = TrialEvents(
            Path(settings.tensorboard_dir) / trial_id, arguments, first_step=epoch["step"] if epoch else 0
        )
        try:
            _train(arguments, inputs, settings, Path(work), checkpoint, events)
            events.end("success")
        except (OSError, RuntimeError):
            raise
        except Exception as error:
            logger.info("trial %s failed", trial_id, exc_info=True)
            events.end("failure")
            tune.report(failure_metrics(error))
        finally:
            events.close()


def _train(
    arguments: dict[str, Any],
    inputs: TrialInputs,
    settings: TrialSettings,
    work: Path,
    checkpoint: Path | None,
    events: TrialEvents,
) -> None:
    num_train = len(inputs.train)
    own: dict[str, Any] = {
        "eval_strategy": "no",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "save_only_model": False,
        "logging_strategy": "steps",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not settings.use_gpu,
    }
    args = arguments_from_config(settings.training, str(work), **{**arguments, **own})
    num_steps = num_train / (args.train_batch_size * args.gradient_accumulation_steps)
    args.logging_steps = max(1, round(num_steps / 10))
    model = AutoModelForSequenceClassification.from_pretrained(inputs.student_dir, local_files_only=True)
    collator = DistillationCollator(_pad_token_id(model))
    resumed = read_epoch(checkpoint) if checkpoint else None
    reporter = EpochReporter(inputs, settings, collator, events, resumed)
    trainer = DistillationTrainer(
        model=model,
        args=args,
        teacher_model=_teacher(inputs) if args.hidden_loss_weight > 0 else None,
        train_dataset=TokenizedDataset(inputs.train, inputs.train_logits if args.alpha < 1 else None),
        data_collator=collator,
        callbacks=[reporter],
    )
    trainer.remove_callback(PrinterCallback)
    if resumed is None or resumed["metrics"]["progress"] < 1:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _teacher(inputs: TrialInputs) -> PreTrainedModel:
    """The teacher, for its hidden states: cached logits hold none."""
    if inputs.teacher_dir is None:
        raise InputError("hidden_loss_weight is above 0, and the search was given no teacher_dir")
    teacher, tokenizer = load_classifier(inputs.teacher_dir)
    # It is run on the student's token ids, and layers are compared token by token.
    if load_tokenizer(inputs.student_dir).get_vocab() != tokenizer.get_vocab():
        raise InputError(
            "hidden_loss_weight is above 0, and the student's tokenizer is not the teacher's, so their hidden "
            "states belong to other tokens; set it to 0, or make the student from the teacher's layers "
            "(student.from_teacher)"
        )
    return teacher


def _pad_token_id(model: PreTrainedModel) -> int:
    pad = model.config.pad_token_id
    return 0 if pad is None else pad


def _checkpoint_to_resume(trial_dir: Path, work: Path) -> Path | None:
    """Return the last epoch's checkpoint: the one that Tune knows, or a later one that is on disk.

    Tune's snapshot is some seconds old when the driver is killed, so Tune may know of no checkpoint, or of
    one that has made room for a later one since. Epochs that it forgot are reported again.
    """
    known = tune.get_checkpoint()
    known_dir = Path(known.path) if known else None
    if known_dir is not None and not complete(known_dir):
        known_dir = None
    known_epoch = read_epoch(known_dir)["epoch"] if known_dir else 0
    found = [each for each in trial_dir.glob("checkpoint_*") if complete(each)]
    forgotten = [each for each in found if read_epoch(each)["epoch"] > known_epoch]
    # Copied first, all of them: Tune counts on from what it knows, and would write over them, or each onto
    # itself.
    copies = [Path(shutil.copytree(each, work / f"forgotten-{each.name}")) for each in forgotten]
    for copy in sorted(copies, key=lambda each: read_epoch(each)["epoch"]):
        tune.report(read_epoch(copy)["metrics"], checkpoint=tune.Checkpoint.from_directory(str(copy)))
    return find_checkpoint(copies) or known_dir
