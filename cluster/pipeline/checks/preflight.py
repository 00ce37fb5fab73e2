"""The sequence of checks that a job passes before any expensive work begins."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ....errors import DataError
from ....texts import texts_of
from ....training.tasks import get as get_task
from ...specification.config import JobConfig
from ...specification.goal import check_goals, check_metrics
from ...store.input_files import data_is_local, with_local_inputs
from ...store.runs import Run, Storage
from ..lengths import measure_texts, with_number
from ..warm_start import warm_start_trials
from .models import check_models
from .passes import check_given_tokens, check_memory
from .targets import check_targets
from .texts import check_new_pieces, check_texts

if TYPE_CHECKING:
    from ....training.checkpoints.once import Checkpoints
    from ....training.data.analysis.lengths import TokenLengths
    from ....training.data.text_data import TextData


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
        lengths: Lengths of the training texts in the teacher's tokens; None until they are checked, and where the
            teacher is trained from scratch and ``training.max_length`` is a number.
    """

    config: JobConfig
    storage: Storage
    run: Run | None = None
    has_inputs: bool = True
    since: CheckedJob | None = None
    data_seconds: float = 0.0
    lengths: TokenLengths | None = None

    @cached_property
    def local_config(self) -> JobConfig:
        """Specification with the paths of this machine."""
        return with_local_inputs(self.config, self.storage.store) if self.has_inputs else self.config

    @property
    def settled_config(self) -> JobConfig:
        """Specification with the chosen number in place of ``training.max_length: auto``."""
        return with_number(self.config, self.lengths)

    @property
    def settled_local_config(self) -> JobConfig:
        """Like ``settled_config``, with the paths of this machine."""
        return with_number(self.local_config, self.lengths)

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """Checkpoints of the job; each is located, and its tokenizer loaded, only once."""
        from ....training.checkpoints.once import Checkpoints

        return Checkpoints()

    @cached_property
    def new_tokenizer(self) -> Any:
        """Tokenizer that a teacher trained from scratch will have."""
        from ....training.teacher.config import ScratchConfig
        from ....training.teacher.from_scratch import train_tokenizer

        first = self.config.teacher.first
        recipe = first.scratch or first.logits or ScratchConfig()
        return train_tokenizer(texts_of(self.data.splits["train"]), recipe.vocab_size)

    @cached_property
    def data(self) -> TextData:
        """Texts of the job, loaded on first use.

        Raises:
            DataError: The data is invalid, or the labels of a job that names no task are those of a regression.
        """
        from ....training.data.text_data import load_data

        if not self.differs(("data", "task")) and self.since is not None:
            return self.since.data
        data = load_data(self.local_config.data, get_task(self.config.task).label_kind)
        if "task" not in self.config.model_fields_set:
            _check_are_names(data)
        return data

    def differs(self, sections: tuple[str, ...]) -> bool:
        """Return whether one of these sections differs from that of the job that has passed the checks."""
        return self.since is None or any(
            getattr(self.config, each) != getattr(self.since.config, each) for each in sections
        )


def _check_are_names(data: TextData) -> None:
    """Reject labels that measure something, which would become as many classes as there are different numbers."""
    from ....training.data.analysis.guess import are_measured
    from ....training.data.label_kinds import NAMES

    names, kind = data.label_names, data.label_kind
    if kind is NAMES and are_measured([names[label] for label in data.splits["train"]["label"][:]]):
        raise DataError(
            f"data: the labels are {len(names):,} different numbers, such as {names[0]} and {names[-1]}; set task: "
            "regression, or task: single_label if each number is a class"
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
    from ....search.space.validation import check_space

    config = job.config
    check_space(config.search, config.training, config.student, config.data, config.task, config.metric)


def _check_batches(job: CheckedJob) -> None:
    from ....search.space.batches import check_batches

    config = job.config
    check_batches(config.search, config.training, config.resources.trial.processes)


def _check_baselines(job: CheckedJob) -> None:
    from ...remote.baselines import check_baselines

    check_baselines(job.local_config)


def _check_folds(job: CheckedJob) -> None:
    """Reject a number of folds that a label has too few texts for."""
    diagnostics = job.config.data.diagnostics
    if diagnostics.cross_fit is not None:
        from ....training.teacher.cross_fit import folds_of

        folds_of(diagnostics, job.data, job.config.teacher.first.seed)


def _check_texts(job: CheckedJob) -> None:
    check_texts(job.local_config, job.data, job.checkpoints)
    texts = texts_of(job.data.splits["train"])
    job.lengths = measure_texts(
        job.local_config, texts, job.checkpoints, lambda: job.new_tokenizer, _recorded_length(job)
    )


def _check_passes(job: CheckedJob) -> None:
    check_given_tokens(job.settled_config)
    if isinstance(job.settled_config.training.max_length, int):
        check_memory(job.settled_local_config, job.checkpoints)


def _recorded_length(job: CheckedJob) -> int | None:
    """Return the ``max_length`` that the run chose before it was resumed; None if it has chosen none."""
    result = {} if job.run is None else job.run.stage_record("data").get("result") or {}
    lengths = result.get("lengths") or {}
    return lengths["max_length"] if lengths.get("automatic") else None


CHECKS = (
    Check("space", ("task", "metric", "search", "training", "student", "data"), _check_space),
    Check("batches", ("search", "training", "resources"), _check_batches),
    Check("former trials", ("search",), lambda job: warm_start_trials(job.config, job.storage, job.run)),
    Check(
        "models",
        ("task", "teacher", "student", "search", "training", "export"),
        lambda job: check_models(job.local_config, job.checkpoints),
        frozenset({"checkpoints"}),
    ),
    Check(
        "metric",
        ("task", "metric", "search", "data"),
        lambda job: check_metrics(job.config, job.data),
        frozenset({"data"}),
    ),
    Check(
        "goals",
        ("task", "metric", "data", "export"),
        lambda job: check_goals(job.config, job.data),
        frozenset({"data"}),
    ),
    Check("baselines", ("task", "benchmark"), _check_baselines, frozenset({"checkpoints"})),
    # Checked only where the job runs, which is where checkpoints can be read.
    Check(
        "targets",
        ("benchmark", "export", "resources"),
        lambda job: check_targets(job.config),
        frozenset({"checkpoints"}),
    ),
    Check("folds", ("data", "teacher"), _check_folds, frozenset({"data"})),
    Check(
        "new pieces",
        ("data", "teacher", "student", "search"),
        lambda job: check_new_pieces(job.config, job.data, lambda: job.new_tokenizer),
        frozenset({"data"}),
    ),
    Check(
        "texts",
        ("task", "data", "teacher", "student", "search"),
        _check_texts,
        frozenset({"data", "checkpoints"}),
    ),
    Check(
        "long texts",
        ("task", "data", "teacher", "student", "search", "training", "resources"),
        _check_passes,
        frozenset({"data", "checkpoints"}),
    ),
)
"""Checks of a job in order, cheap ones first."""
