"""The sequence of checks that a job passes before any expensive work begins."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ...errors import ModelError
from ..specification.config import JobConfig
from ..specification.goal import check_goals
from ..store.input_files import data_is_local, with_local_inputs
from ..store.runs import Run, Storage
from .warm_start import warm_start_trials

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ...training.data.text_data import TextData

logger = logging.getLogger(__name__)

_MANY_UNKNOWN = 0.1  # share of characters: below 0.01 for ordinary texts, 0.05 with an emoji in each


@dataclass
class CheckedJob:
    """A job that ``check_job`` checks, with the inputs that the checks read.

    Attributes:
        config: The specification.
        storage: Storage of its runs.
        run: The job's run, which may hold a copy of former trials.
        has_inputs: Whether this machine can read all data and checkpoints.
        since: A job that has passed the checks; its texts are reused if both jobs read the same data.
        data_seconds: Seconds spent on the data, including the checks that read it.
    """

    config: JobConfig
    storage: Storage
    run: Run | None = None
    has_inputs: bool = True
    since: CheckedJob | None = None
    data_seconds: float = 0.0

    @cached_property
    def local_config(self) -> JobConfig:
        """Specification with the paths of this machine."""
        return with_local_inputs(self.config, self.storage.store) if self.has_inputs else self.config

    @cached_property
    def data(self) -> TextData:
        """Texts of the job, loaded on first use."""
        from ...training.data.text_data import load_data

        if self.since is not None and self.since.config.data == self.config.data:
            return self.since.data
        return load_data(self.local_config.data)

    def differs(self, sections: tuple[str, ...]) -> bool:
        """Return whether one of these sections differs from that of the job that has passed the checks."""
        return self.since is None or any(
            getattr(self.config, each) != getattr(self.since.config, each) for each in sections
        )


@dataclass(frozen=True)
class Check:
    """One check of a job.

    Attributes:
        name: Subject of the check.
        sections: Sections of the specification that it reads.
        run: Raises ``InputError`` if the job cannot be run.
        reads: Inputs that it needs besides the specification and the storage: ``data``, ``checkpoints``.
    """

    name: str
    sections: tuple[str, ...]
    run: Callable[[CheckedJob], object]
    reads: frozenset[str] = frozenset()


def check_job(
    config: JobConfig,
    storage: Storage,
    run: Run | None = None,
    *,
    has_inputs: bool = True,
    since: CheckedJob | None = None,
) -> CheckedJob:
    """Check a job before any expensive work: the specification, former trials, models, then whatever needs the texts.

    Args:
        config: The specification.
        storage: Storage of its runs.
        run: The job's run.
        has_inputs: Whether this machine can read all data and checkpoints, as it can where the job runs. Otherwise
            checks that read checkpoints are skipped, and so are those that read data if it is on other machines.
        since: A job that has passed: only checks of sections in which this job differs are made.

    Returns:
        The job, with its local configuration and texts.

    Raises:
        InputError: Something that the user gave cannot be used.
        StorageError: The storage does not respond.
    """
    job = CheckedJob(config, storage, run, has_inputs, since)
    available = {"data", "checkpoints"} if has_inputs else {"data"} if data_is_local(config) else set()
    began = None
    for check in CHECKS:
        if check.reads <= available and job.differs(check.sections):
            began = time.monotonic() if began is None and "data" in check.reads else began
            check.run(job)
    job.data_seconds = 0.0 if began is None else time.monotonic() - began
    return job


def _check_space(job: CheckedJob) -> None:
    from ...search.space.validation import check_space

    config = job.config
    check_space(config.search, config.training, config.student, config.data)


def _check_batches(job: CheckedJob) -> None:
    from ...search.space.batches import check_batches

    config = job.config
    check_batches(config.search, config.training, config.resources.trial.processes)


def check_models(config: JobConfig) -> None:
    """Reject missing or incomplete checkpoints, and a student that cannot be derived from the teacher.

    The headers of the weight files show layers, word pieces, heads and feed-forward rows that do not exist.

    Raises:
        ModelError: A checkpoint cannot be used; the message has its key and what is available.
        ConfigError: The graphs of the student cannot be run.
    """
    from ...export.onnx.opset import check_opset
    from ...search.space.space import STUDENT_HEADS, STUDENT_ROWS
    from ...search.space.students import searched_width
    from ...training.checkpoints.load import load_tokenizer, resolve_checkpoint
    from ...training.models.families import family_of
    from ...training.student.layers import check_layers
    from ...training.student.vocabulary import pieces_to_keep
    from ...training.student.width import check_width
    from ...training.teacher.from_scratch import scratch_shapes

    check_opset(config.export.opset)
    teachers = None
    own_shapes = None
    if config.student.checkpoint is not None:
        with _naming("student.checkpoint"):
            own_shapes = _inspected(resolve_checkpoint(config.student.checkpoint), "student.checkpoint")
    teacher = config.teacher
    if teacher.scratch is not None:
        shapes = scratch_shapes(teacher.scratch)
    else:
        tuned = teacher.fine_tune
        name = tuned.checkpoint if tuned else teacher.checkpoint
        assert name is not None, "one of the three is there"
        key = "student.from_teacher" if config.student.checkpoint is None else None
        with _naming("teacher.fine_tune.checkpoint" if tuned else "teacher.checkpoint"):
            teachers = resolve_checkpoint(name, tuned.sha256 if tuned else None)
            shapes = _inspected(teachers, key, complete=tuned is None)
    space = config.search.space
    searched = [name for name in (STUDENT_HEADS, STUDENT_ROWS) if name in space]
    most = searched_width(None, {name: max(space[name].end_values()) for name in searched})
    for width, where in ((config.student.width, "student.width"), (most, "search.space.student")):
        if width is not None:
            check_width(width, own_shapes or shapes, where)
    if config.student.from_teacher is not None:
        layers = config.student.from_teacher.layers
        family_of(shapes, "student.from_teacher", "layers")
        check_layers(layers, shapes.num_hidden_layers, "student.from_teacher.layers", "the teacher")
    if config.student.layers is not None and own_shapes is not None:
        family_of(own_shapes, "student.layers", "layers")
        check_layers(config.student.layers, own_shapes.num_hidden_layers, "student.layers", "the checkpoint")
    if config.training.pruning is not None:
        family_of(own_shapes or shapes, "training.pruning", "layers")
    own = config.student.checkpoint
    pieces_of = teachers if own is None else resolve_checkpoint(own)
    if config.student.vocabulary is not None and pieces_of is not None:
        wanted = config.student.vocabulary
        tokenizer, spelled = load_tokenizer(pieces_of), wanted.others == "spelled"
        pieces_to_keep(tokenizer, [], size=wanted.size, others_spelled=spelled)
    if config.student.pretraining is not None:
        from ...training.pretraining.pretrain_student import check_pretraining

        learnt_from = config.student.pretraining.checkpoint
        with _naming("student.pretraining.checkpoint"):
            check_pretraining(config.student.pretraining, config.student.checkpoint, teachers)
            if learnt_from is not None:
                _inspected(resolve_checkpoint(learnt_from))
    _warn_of_other_bits(config)


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Prefix the message of a ``ModelError`` with the key that names the checkpoint."""
    try:
        yield
    except ModelError as error:
        message = str(error)
        named = message.startswith(key.rpartition(".")[0])
        raise ModelError(message if named else f"{key}: {message}") from error


def _warn_of_other_bits(config: JobConfig) -> None:
    """Warn if quantization-aware training uses other weight bits than the exported graphs will have."""
    aware = config.training.quantization_aware
    if aware is None or aware.weight_bits == 7:
        return
    from ...export.variants.dynamic import int8_products_saturate

    if int8_products_saturate():
        logger.warning(
            "training.quantization_aware.weight_bits: %d, but this is an x86 processor without VNNI, where ONNX "
            "variants with 8-bit products hold weights in 7 bits; set it to 7, unless they are built on another "
            "machine",
            aware.weight_bits,
        )


def check_texts(config: JobConfig, data: TextData) -> None:
    """Reject a checkpoint whose labels do not match the data, or whose tokenizer does not cover its script.

    Raises:
        ModelError: A checkpoint does not fit; the message has its key, and the labels or the share of unknown text.
    """
    from ...training.checkpoints.heads import check_labels
    from ...training.checkpoints.load import label_names, load_config, load_tokenizer, resolve_checkpoint
    from ...training.checkpoints.word_pieces import check_known

    if config.teacher.checkpoint is not None:
        own = label_names(load_config(resolve_checkpoint(config.teacher.checkpoint)))
        check_labels(own, data.class_names, "teacher.checkpoint")
    tuned = config.teacher.fine_tune
    for parameter, name in (
        ("teacher.checkpoint", config.teacher.checkpoint),
        ("teacher.fine_tune.checkpoint", tuned.checkpoint if tuned else None),
        ("student.checkpoint", config.student.checkpoint),
    ):
        if name is None:
            continue
        share = check_known(
            load_tokenizer(resolve_checkpoint(name)), data.splits["train"]["text"][:], parameter
        )
        if share > _MANY_UNKNOWN:
            logger.warning(
                "%s: its tokenizer does not know %.0f %% of the characters of the training texts; use a student "
                "for their language and script",
                parameter,
                100 * share,
            )


def check_new_pieces(config: JobConfig, data: TextData) -> None:
    """Reject a student vocabulary too small to spell every text in the word pieces that a new teacher will have.

    A teacher trained from scratch takes its word pieces from the training texts, which is fast enough to do here.

    Raises:
        ModelError: The vocabulary is too small; the message has the minimum.
    """
    from ...training.student.vocabulary import pieces_to_keep
    from ...training.teacher.from_scratch import train_tokenizer

    scratch, wanted = config.teacher.scratch, config.student.vocabulary
    if scratch is None or wanted is None or wanted.size is None or config.student.checkpoint is not None:
        return
    tokenizer = train_tokenizer(data.splits["train"]["text"][:], scratch.vocab_size)
    pieces_to_keep(tokenizer, [], size=wanted.size, others_spelled=wanted.others == "spelled")


def _inspected(name: str, key: str | None = None, *, complete: bool = False) -> PreTrainedConfig:
    """Return the configuration of a checkpoint after checking its files.

    With a ``key``, also reject a model family whose layers cannot be selected or that variants cannot be made of.
    """
    from ...training.checkpoints.load import inspect_checkpoint, load_config
    from ...training.models.families import family_of

    found = load_config(name)
    if key is not None:
        family_of(found, key)
    return inspect_checkpoint(name, complete=complete)


CHECKS = (
    Check("space", ("search", "training", "student", "data"), _check_space),
    Check("batches", ("search", "training", "resources"), _check_batches),
    Check("former trials", ("search",), lambda job: warm_start_trials(job.config, job.storage, job.run)),
    Check(
        "models",
        ("teacher", "student", "search", "training", "export"),
        lambda job: check_models(job.local_config),
        frozenset({"checkpoints"}),
    ),
    Check("goals", ("data", "export"), lambda job: check_goals(job.config, job.data), frozenset({"data"})),
    Check(
        "new pieces",
        ("data", "teacher", "student"),
        lambda job: check_new_pieces(job.config, job.data),
        frozenset({"data"}),
    ),
    Check(
        "texts",
        ("data", "teacher", "student"),
        lambda job: check_texts(job.local_config, job.data),
        frozenset({"data", "checkpoints"}),
    ),
)
"""Checks of a job in order, cheap ones first."""
