"""The job's specification: its sections, presets, ``--set`` overrides, one error for all its faults."""

from __future__ import annotations

import copy
import difflib
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from ...errors import ConfigError, listed, shown
from ...export.config import BenchmarkConfig, ExportConfig
from ...search.config import SearchConfig
from ...search.space.space import SPARSITY, TEXT_COUNTS, fixed_values
from ...training.data.config import AnyDataConfig, data_config
from ...training.distillation.config import TrainingConfig
from ...training.distillation.losses.base import section_paths
from ...training.registry import OneSection, SectionRegistry, SectionsByName
from ...training.section import Amount, Name, Plain, PositiveAmount, Section, Share, ShareBelowOne, Threads
from ...training.student.config import StudentConfig
from ...training.teacher.config import TeacherConfig
from .reading import unquoted
from .resolve import read_with_overrides


class TaskResources(Section):
    """What one task takes of a node."""

    cpu: PositiveAmount = Field(default=1, description="CPUs, also the number of threads it computes with.")
    gpu: Amount | None = Field(
        default=None, description="GPUs; a fraction shares one; default: one where the cluster has any."
    )
    custom: dict[Name, Amount] = Field(
        default_factory=dict,
        max_length=100,
        description="Ray's custom resources, for example {benchmark_node: 1}: only nodes that have them.",
    )


class TrialResources(TaskResources):
    """What a trial takes: ``cpu``, ``gpu`` and ``custom`` are what each of its processes takes of a node."""

    processes: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="Processes that train a trial together, each on an equal part of every batch; on one node or "
        "on several.",
    )

    @model_validator(mode="after")
    def _whole_gpus(self) -> TrialResources:
        if self.processes > 1 and self.gpu is not None and self.gpu % 1:
            raise ValueError(
                f"gpu {self.gpu:g} given with processes {self.processes}, of which each needs a GPU of its own; set "
                "gpu to 0 or 1, or processes to 1"
            )
        return self


class ResourcesConfig(Section):
    """Where the work runs and how much of it each task takes."""

    address: Name | None = Field(
        default=None, description="Ray cluster to attach to (host:port or auto); none starts a local one."
    )
    num_cpus: Threads | None = Field(
        default=None, description="CPUs of the local Ray; default: all of this machine."
    )
    trial: TrialResources = Field(default_factory=TrialResources, description="One trial of the search.")
    teacher: TaskResources | None = Field(
        default=None,
        description="Fine-tuning the teacher, its logits, and pretraining a student; default: a whole node's CPUs.",
    )
    export: TaskResources = Field(
        default_factory=lambda: TaskResources(gpu=0), description="Making one variant."
    )
    benchmark: TaskResources = Field(
        default_factory=lambda: TaskResources(gpu=0),
        description="The node that is measured on, at least this large; all its CPUs are taken meanwhile.",
    )
    autoscaling: list[TaskResources] = Field(
        default_factory=list,
        max_length=1000,
        description="The kinds of nodes that the cluster adds on demand: a job that fits one is not refused.",
    )


class StorageConfig(Section):
    """Where runs are kept."""

    path: Name = Field(
        default="distiltune-runs",
        description="Directory or URL (s3://, gs://, any that pyarrow or fsspec knows) of all runs and caches.",
    )
    endpoint_override: Name | None = Field(
        default=None, description="Host and port of an S3-compatible store, such as http://127.0.0.1:9000."
    )
    retry_s: float = Field(
        default=60,
        ge=0,
        le=10**7,
        description="Seconds that the storage is tried again before a stage gives up.",
    )


class PlanStep(Section):
    """A key of the specification, and the values to try in its place."""

    key: Name = Field(description="Path of the key, such as student.from_teacher.layers.")
    values: list[Plain] = Field(
        min_length=1,
        max_length=1000,
        description="Tried in this order, the mild before the harsh, until one is refused.",
    )


class PlanConfig(Section):
    """Changes that `distiltune plan` tries one after another; each is kept where the gate holds and it pays."""

    steps: list[PlanStep] = Field(
        default_factory=list, max_length=1000, description="In the order in which they are tried."
    )
    minimise: Literal["latency_ms", "size_mb", "latency_times_size"] = Field(
        default="latency_times_size", description="What a change must make less to be kept."
    )
    min_gain: ShareBelowOne = Field(default=0.03, description="By which share, at least.")
    max_accuracy_drop: Share = Field(
        default=0.01,
        description="Most validation accuracy that may be lost against the job as it is, by export.choose's gate.",
    )


class JobConfig(Section):
    """A whole job; every key has a default."""

    data: AnyDataConfig = Field(default_factory=data_config, description="The labelled texts.")
    teacher: TeacherConfig = Field(
        default_factory=lambda: TeacherConfig.model_validate({}), description="The teacher."
    )
    student: StudentConfig = Field(
        default_factory=lambda: StudentConfig.model_validate({}), description="The student."
    )
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="One training.")
    search: SearchConfig = Field(default_factory=SearchConfig, description="The search.")
    export: ExportConfig = Field(default_factory=ExportConfig, description="The variants.")
    benchmark: BenchmarkConfig = Field(default_factory=BenchmarkConfig, description="The measurements.")
    storage: StorageConfig = Field(default_factory=StorageConfig, description="The run store.")
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig, description="Machines.")
    plan: PlanConfig | None = Field(
        default=None, description="For `distiltune plan`; other commands leave it alone."
    )

    @model_validator(mode="after")
    def _somebody_learns_of_more_texts(self) -> JobConfig:
        made = self.data.augmentation
        if made.masked is not None and self.student.checkpoint is not None:
            raise ValueError(
                "data.augmentation.masked: the word pieces are the teacher's, and student.checkpoint has its own; "
                "leave one of them out"
            )
        unheard = _unheard_teacher(self)
        if unheard is not None:
            raise ValueError(unheard)
        return self


def _unheard_teacher(config: JobConfig) -> str | None:
    """What a job asks of a teacher that no trial listens to, and the remedy; None where there is nothing of it."""
    if fixed_values(config.search).get("alpha") != 1:
        return None
    made = config.data.augmentation
    more = {"unlabelled": config.data.unlabelled, **{f"augmentation.{name}": each for name, each in made}}
    named = [f"data.{name}" for name, each in more.items() if each is not None]
    if named:
        return (
            f"{', '.join(named)}: with alpha 1 nothing is learnt from the teacher, and these texts have no labels; "
            "lower alpha, or leave them out"
        )
    if config.teacher.ensemble > 1:
        return (
            f"teacher.ensemble: {config.teacher.ensemble} given, but with alpha 1 nothing is learnt from a teacher; "
            "lower alpha, or set it to 1"
        )
    return None


def load_config(source: str | None, overrides: list[str], storage: str | None = None) -> JobConfig:
    """Read a specification.

    Args:
        source: A preset's name, or a YAML or JSON file; none means the preset ``quickstart``.
        overrides: ``section.key=value`` each, the value written as in YAML; they win over the file.
        storage: Takes the place of ``storage.path`` when given.

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
        faults += described(error)
        faults += _search_faults(values, error.errors())
        raise ConfigError(f"{unquoted(source)}: {listed(faults)}") from None
    if faults:
        raise ConfigError(f"{unquoted(source)}: {listed(faults)}")
    return config


def _search_faults(values: dict[str, Any], errors: list[Any]) -> list[str]:
    """What else is wrong with the search, so that it is told at once: the check of what has no fault of form."""
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
    faults = space_faults(config.search, config.training, config.student, config.data)
    # A condition or a point may name an argument that was left out here alone.
    return [fault for fault in faults if fault.split(": ")[0].split(".")[-1] not in left_out]


def _leave_out(values: dict[str, Any], path: tuple[Any, ...]) -> str:
    """Remove an argument of the space, or else the innermost thing with a name on the path to a fault; its name."""
    *parents, last = map(str, path[:3] if path[:2] == ("search", "space") else path)
    at = values
    for key in parents:
        if not isinstance(at.get(key), dict):
            last = key
            break
        at = at[key]
    at.pop(last, None)
    return last


def described(error: ValidationError) -> list[str]:
    """Faults that pydantic found in our words: path, value given, what is accepted; one for each place."""
    faults: dict[str, str] = {}
    for item in error.errors(include_url=False):
        keys = _without_tag([str(key) for key in item["loc"]])
        path = ".".join(unquoted(key, 60) for key in keys) or "the specification"
        faults.setdefault(path, f"{path}: {_fault(item, keys)}")
    return list(faults.values())


def _fault(item: Any, keys: list[str]) -> str:
    given, context = item.get("input"), item.get("ctx", {})
    if item["type"] == "extra_forbidden":
        at = _section_at(keys[:-1])
        if isinstance(at, SectionRegistry) and (owners := at.with_key(keys[-1])):
            kind = at.attribute
            return f"is a key of {kind} {', '.join(owners)} alone; take it out, or set {kind} to one of them"
        names = _names_of(at)
        nearest = difflib.get_close_matches(keys[-1], names, 1, 0.5)
        hint = f"known: {', '.join(names)}" if names else "leave it out"
        if nearest:
            hint = f"did you mean {nearest[0]!r}?"
        return f"unknown key; {hint}"
    if item["type"] in ("model_type", "model_attributes_type"):
        return f"keys with values are needed (given {shown(given)})"
    if item["type"] == "union_tag_invalid":
        known = context["expected_tags"].replace("'", "")
        return f"{shown(context['tag'])} is not known; accepted: {known}"
    if item["type"] == "union_tag_not_found":
        return "give `type`; `distiltune config --schema` lists them"
    if item["type"] == "string_too_short":
        return f"is empty; give one, or leave it out (given {shown(given)})"
    if item["type"] == "too_short":
        return f"at least {context['min_length']} needed, {context['actual_length']} given"
    if item["type"] == "too_long":
        return f"at most {context['max_length']} accepted, {context['actual_length']} given"
    message = item["msg"].removeprefix("Value error, ")
    value = "" if isinstance(given, dict) or item["type"] == "missing" else f" (given {shown(given)})"
    return f"{message[:1].lower()}{message[1:]}{value}"


def _without_tag(keys: list[str]) -> list[str]:
    """The path as the file has it: pydantic puts the kind of a parameter into it."""
    return keys[:3] + keys[4:] if keys[:2] == ["search", "space"] else keys


def _section_at(keys: list[str]) -> Any:
    """Return what takes the keys at a path: a section's class, a registry of them, sections by name; None: nothing."""
    at: Any = JobConfig
    for key in keys:
        if isinstance(at, SectionsByName):
            at = at.sections().get(key)
            continue
        field = at.model_fields.get(key) if at is not None else None
        if field is None:
            return None
        for each in field.metadata:
            if isinstance(each, OneSection):
                return each.registry
        by_name = next((each for each in field.metadata if isinstance(each, SectionsByName)), None)
        found = [
            kind
            for kind in (field.annotation, *get_args(field.annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        at = by_name or (found[0] if found else None)
    return at


def _names_of(at: Any) -> list[str]:
    """Return the keys that a result of ``_section_at`` takes."""
    if isinstance(at, SectionRegistry):
        return at.all_keys()
    if isinstance(at, SectionsByName):
        return list(at.sections())
    return [] if at is None else list(at.model_fields)


def without_search(config: JobConfig) -> JobConfig:
    """The same job as one trial: every searched argument takes the value of the ``training`` section.

    An argument that the training section does not name itself keeps its place only when it is fixed.

    Raises:
        ConfigError: A searched argument has no value in the training section.
    """
    given = {**config.training.model_dump(exclude={"arguments"}), **config.training.arguments}
    fixed: dict[str, Any] = {}
    faults: list[str] = []
    for name, parameter in config.search.space.items():
        if parameter.type == "fixed":
            fixed[name] = parameter
        elif (
            name in (*TEXT_COUNTS, SPARSITY) or name in section_paths()
        ):  # data and training have values of theirs
            continue
        elif name in given:
            fixed[name] = {"type": "fixed", "value": given[name]}
        else:
            ours = name.startswith("student.")
            where = "in search.space" if ours else f"with --set training.arguments.{name}=VALUE"
            faults.append(
                f"search.space.{name}: `train` searches nothing and needs one value; give it {where}"
            )
    if faults:
        raise ConfigError(listed(faults))
    # Points and former trials lie in the space that was searched.
    others = config.search.model_dump(exclude={"space", "points", "warm_start"})
    search = SearchConfig.model_validate({**others, "num_trials": 1, "space": fixed})
    alone = config.model_copy(update={"search": search})
    unheard = _unheard_teacher(alone)
    if unheard is not None:
        raise ConfigError(unheard)
    return alone
