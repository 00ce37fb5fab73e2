"""The job's specification: its sections, presets and ``--set`` overrides; all faults are reported in one error."""

from __future__ import annotations

import copy
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from ...errors import ConfigError, InputError, listed
from ...export.config import BenchmarkConfig, ExportConfig
from ...search.config import SearchConfig
from ...search.space.space import SPARSITY, TEXT_COUNTS, THRESHOLD_METRIC, VALIDATION, fixed_values
from ...search.space.students import student_sections
from ...training.data.config import AnyDataConfig, data_config
from ...training.distillation.config import TrainingConfig
from ...training.distillation.losses.base import section_paths
from ...training.section import (
    MOST_SEED,
    Name,
    Plain,
    Section,
    Seed,
    Share,
    ShareBelowOne,
)
from ...training.student.config import AnyStudentConfig, StudentConfig, student_config
from ...training.tasks import TASKS
from ...training.tasks.config import TaskName, metric_description, recognised_task, task_description
from ...training.teacher.config import TeacherConfig
from .faults import described
from .for_task import defaults_of_task, fault_of_task, with_columns
from .reading import unquoted
from .resolve import read_with_overrides
from .resources import ResourcesConfig, StorageConfig
from .sections import (
    SEED,
    fault_of_selection,
    fault_of_texts,
    fault_of_tokens,
    is_judged_with_threshold,
    with_defaults,
    with_defaults_of_student,
    with_seed,
)

_DEFAULT_SEED = 42


class PlanStep(Section):
    """A key of the specification, and the values to try for it."""

    key: Name = Field(description="Path of the key, such as student.layers.")
    values: list[Plain] = Field(
        min_length=1,
        max_length=1000,
        description="Values, tried in this order until one is rejected: list mild ones first.",
    )


class PlanConfig(Section):
    """Changes that `distiltune plan` tries one after another; each is kept if it passes the gate and gains enough."""

    steps: list[PlanStep] = Field(
        default_factory=list, max_length=1000, description="Changes, in the order in which they are tried."
    )
    minimise: Literal["latency_ms", "size_mb", "latency_times_size"] = Field(
        default="latency_times_size", description="Quantity that a change must decrease to be kept."
    )
    min_gain: ShareBelowOne = Field(default=0.03, description="Minimum relative decrease.")
    max_accuracy_drop: Share = Field(
        default=0.01,
        description="Maximum loss of the job's metric on the validation split against the unchanged job, tested as in "
        "export.choose.",
    )


class JobConfig(Section):
    """A whole job; every key has a default."""

    seed: Seed = Field(
        default=_DEFAULT_SEED, description="Seed of the job, and of every section without a seed of its own."
    )
    task: TaskName = Field(default="single_label", description=task_description())
    metric: Name = Field(default="accuracy", description=metric_description())
    data: AnyDataConfig = Field(default_factory=data_config, description="The labelled texts.")
    teacher: TeacherConfig = Field(
        default_factory=lambda: TeacherConfig.model_validate({}), description="The teacher."
    )
    student: AnyStudentConfig = Field(default_factory=student_config, description="The student.")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="Training of the student.")
    search: SearchConfig = Field(default_factory=SearchConfig, description="The hyperparameter search.")
    export: ExportConfig = Field(default_factory=ExportConfig, description="The exported variants.")
    benchmark: BenchmarkConfig = Field(default_factory=BenchmarkConfig, description="The benchmark.")
    storage: StorageConfig = Field(default_factory=StorageConfig, description="The run store.")
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig, description="Machines.")
    plan: PlanConfig | None = Field(
        default=None, description="For `distiltune plan`; other commands ignore it."
    )

    @model_validator(mode="before")
    @classmethod
    def _seeds(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        seed = values.get(SEED, _DEFAULT_SEED)
        is_seed = type(seed) is int and 0 <= seed <= MOST_SEED  # else the key's check reports the fault
        return with_seed(cls, values, seed) if is_seed else values

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_task(cls, values: Any) -> Any:
        """Use the thresholds and the baselines that the task has for keys that the job does not give."""
        name = values.get("task") if isinstance(values, dict) else None
        return with_defaults(values, defaults_of_task(TASKS[name])) if name in TASKS.names else values

    @model_validator(mode="before")
    @classmethod
    def _columns_of_task(cls, values: Any) -> Any:
        """Use the task's default columns unless the job names others."""
        name = values.get("task") if isinstance(values, dict) else None
        data = values.get("data", {}) if isinstance(values, dict) else {}
        if name not in TASKS.names or not TASKS[name].columns or not isinstance(data, dict):
            return values
        return {**values, "data": with_columns(TASKS[name], data)}

    @model_validator(mode="before")
    @classmethod
    def _without_temperature(cls, values: Any) -> Any:
        """Do not search the temperature if the task's losses do not depend on it."""
        name, search = (
            (values.get("task"), values.get("search", {})) if isinstance(values, dict) else (None, {})
        )
        if name not in TASKS.names or TASKS[name].has_temperature or not isinstance(search, dict):
            return values
        space = search.get("space", {})
        if not isinstance(space, dict):
            return values
        return {**values, "search": {**search, "space": {"temperature": 1, **space}}}

    @model_validator(mode="before")
    @classmethod
    def _with_defaults_of_student(cls, values: Any) -> Any:
        """Use the values that suit the student's kind for keys that the job does not give."""
        return with_defaults_of_student(values) if isinstance(values, dict) else values

    @model_validator(mode="before")
    @classmethod
    def _with_metric(cls, values: Any) -> Any:
        """Use the task's default metric if the job names none, and optimise it if the search names none.

        If the variants' limits apply with the out-of-scope threshold, the search then evaluates trials with it as well.
        """
        name = values.get("task", "single_label") if isinstance(values, dict) else None
        if not isinstance(name, str) or name not in TASKS.names:
            return values  # the key's check reports the fault
        task = TASKS[name]
        by_threshold = task.out_of_scope is not None and is_judged_with_threshold(values)
        values = {"metric": task.goal[0], **values}
        metric, search = values["metric"], values.get("search", {})
        if not isinstance(metric, str) or not isinstance(search, dict) or "metric" in search:
            return values
        try:
            mode = task.metric_mode(metric)
        except InputError:  # reported by the check of `metric`
            return values
        own = {"metric": f"{VALIDATION}{metric}", "mode": mode}
        own = {"metric": THRESHOLD_METRIC, "mode": "max"} if by_threshold else own
        return {**values, "search": {**own, **search}}

    @model_validator(mode="before")
    @classmethod
    def _recognised_task(cls, values: Any) -> Any:
        """Recognise the task from the data's columns and the teacher's checkpoint if the job names none.

        It runs before the other ``before`` validators, since pydantic runs those in reverse order of definition.
        """
        if not isinstance(values, dict) or "task" in values:
            return values
        found = recognised_task(values)
        return values if found is None else {**values, "task": found}

    @field_validator("metric")
    @classmethod
    def _is_of_task(cls, metric: str, info: ValidationInfo) -> str:
        task = info.data.get("task")
        if task is not None:  # else its own check reports the fault
            try:
                TASKS[task].metric_mode(metric)
            except InputError as error:
                raise ValueError(str(error).removeprefix("metric: ")) from None
        return metric

    @model_validator(mode="after")
    def _suits_the_task(self) -> JobConfig:
        fault = fault_of_task(
            TASKS[self.task], self.metric, self.data, self.teacher, self.training, self.export
        )
        if fault is not None:
            raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _added_texts_are_used(self) -> JobConfig:
        made = self.data.augmentation
        own = next((each for each in _students(self) if each.source is not None), None)
        if made.masked is not None and own is not None:
            raise ValueError(
                "data.augmentation.masked: the masked pieces are the teacher's, but "
                f"student.{own.source_key} has its own; remove one of them"
            )
        fault = (
            fault_of_texts(self.data, self.teacher, self.benchmark.query)
            or fault_of_selection(TASKS[self.task], self.data)
            or _unused_teacher(self)
        )
        if TASKS[self.task].of_tokens:
            fault = fault or fault_of_tokens(TASKS[self.task], self.data, self.teacher, _students(self))
        if fault is not None:
            raise ValueError(fault)
        return self


def _students(config: JobConfig) -> list[StudentConfig]:
    """Return the section of each kind of student that a job tries; if the space is faulty, only that of the job."""
    try:
        return [section for section, _ in student_sections(config.student, config.search.space)]
    except ConfigError:  # reported by the check of the space
        return [config.student]


def _unused_teacher(config: JobConfig) -> str | None:
    """Return the fault of a job that configures teacher labels although no trial uses them, or None."""
    if fixed_values(config.search).get("alpha") != 1:
        return None
    made = config.data.augmentation
    more = {"unlabelled": config.data.unlabelled, **{f"augmentation.{name}": each for name, each in made}}
    named = [f"data.{name}" for name, each in more.items() if each is not None]
    if named:
        return (
            f"{', '.join(named)}: with alpha 1 nothing is learned from the teacher, but these texts have no "
            f"labels; lower alpha, or remove them"
        )
    if config.teacher.num_members > 1:
        return (
            f"teacher.ensemble: {config.teacher.num_members} given, but with alpha 1 nothing is learned from a "
            f"teacher; lower alpha, or set it to 1"
        )
    return None


def load_config(source: str | None, overrides: list[str], storage: str | None = None) -> JobConfig:
    """Read and validate a specification.

    Args:
        source: A preset's name, or a YAML or JSON file; None stands for the preset ``quickstart``.
        overrides: Items of the form ``section.key=value``, with YAML values; they override the file.
        storage: Replaces ``storage.path`` if given.

    Raises:
        ConfigError: The file cannot be read, or has faults; all of them are listed, each with its full path.
    """
    source = source or "quickstart"
    values, faults = read_with_overrides(source, overrides)
    if storage is not None and isinstance(values.setdefault("storage", {}), dict):
        values["storage"]["path"] = storage
    try:
        config = JobConfig.model_validate(values)
    except ValidationError as error:
        faults += described(error, JobConfig)
        faults += _search_faults(values, error.errors())
        raise ConfigError(f"{unquoted(source)}: {listed(faults)}") from None
    if faults:
        raise ConfigError(f"{unquoted(source)}: {listed(faults)}")
    return config


def _search_faults(values: dict[str, Any], errors: list[Any]) -> list[str]:
    """Check the search space without its invalid parts, so that all its faults are reported at once."""
    if not any(item["loc"][:1] == ("search",) for item in errors):
        return []
    from ...search.space.validation import space_faults

    rest, left_out = copy.deepcopy(values), set()
    for item in errors:
        left_out.add(_leave_out(rest, item["loc"]))
    try:
        config = JobConfig.model_validate(rest)
    except ValidationError:
        return []
    faults = space_faults(
        config.search, config.training, config.student, config.data, config.task, config.metric
    )
    # A condition or a point may name an argument that was left out only here.
    return [fault for fault in faults if fault.split(": ")[0].split(".")[-1] not in left_out]


def _leave_out(values: dict[str, Any], path: tuple[Any, ...]) -> str:
    """Remove the search space argument with a fault, or else the innermost key on its path; return its name."""
    *parents, last = map(str, path[:3] if path[:2] == ("search", "space") else path)
    at = values
    for key in parents:
        if not isinstance(at.get(key), dict):
            last = key
            break
        at = at[key]
    at.pop(last, None)
    return last


def without_search(config: JobConfig) -> JobConfig:
    """Reduce a job to one trial, in which every searched argument has the value of the ``training`` section.

    An argument that the training section does not have is kept only if it is fixed.

    Raises:
        ConfigError: A searched argument has no value in the training section.
    """
    given = {**config.training.model_dump(exclude={"arguments"}), **config.training.arguments}
    fixed: dict[str, Any] = {}
    faults: list[str] = []
    for name, parameter in config.search.space.items():
        if parameter.type == "fixed":
            fixed[name] = parameter
        elif name in (*TEXT_COUNTS, SPARSITY) or name in section_paths():
            continue  # the sections data and training have values for these
        elif name in given:
            fixed[name] = {"type": "fixed", "value": given[name]}
        else:
            ours = name.startswith("student.")
            where = "in search.space" if ours else f"with --set training.arguments.{name}=VALUE"
            faults.append(f"search.space.{name}: `train` does not search and needs one value; set it {where}")
    if faults:
        raise ConfigError(listed(faults))
    # Points and former trials belong to the original search space.
    others = config.search.model_dump(exclude={"space", "points", "warm_start"})
    search = SearchConfig.model_validate({**others, "num_trials": 1, "space": fixed})
    alone = config.model_copy(update={"search": search})
    unused = _unused_teacher(alone)
    if unused is not None:
        raise ConfigError(unused)
    return alone
