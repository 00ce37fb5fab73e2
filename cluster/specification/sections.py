"""Operations on the tree of sections: a key's section, a common seed, and keys that differ from their defaults."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from ...search.parameters import Parameter
from ...search.student_arguments import STUDENT_KIND
from ...training.data.config import DataConfig
from ...training.distillation.config import KindTraining
from ...training.section import Section
from ...training.section_registry import OneSection
from ...training.student.config import STUDENT, STUDENT_KINDS, StudentConfig, job_defaults
from ...training.tasks import Task
from ...training.teacher.config import TeacherConfig

SEED = "seed"
_TABLE = "table"


def section_of(field: FieldInfo, value: Any = None) -> type[BaseModel] | None:
    """Return the section class of a key.

    Args:
        field: Field of the key.
        value: Value of the key; it selects one of several kinds of sections.

    Returns:
        The class, or None if the key holds no section, or its value does not determine the kind.
    """
    kinds = next((each for each in field.metadata if isinstance(each, OneSection)), None)
    if kinds is not None:
        return kinds.selected(value)
    sections = (each for each in (field.annotation, *get_args(field.annotation)) if isinstance(each, type))
    return next((each for each in sections if issubclass(each, BaseModel)), None)


def with_seed(section: type[BaseModel], values: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return a section's values with ``seed`` filled in for every seed at or below it that is not given."""
    seeded = dict(values)
    for name, field in section.model_fields.items():
        below = section_of(field, values.get(name))
        if name == SEED:
            seeded.setdefault(name, seed)
        elif below is not None and (
            isinstance(values.get(name), dict) or _is_always_there(field, name, values)
        ):
            inner = with_seed(below, values.get(name) or {}, seed)
            if inner or name in values:
                seeded[name] = inner
    return seeded


def with_defaults(values: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a job's values with ``defaults``, by section and key, for keys that are not given."""
    given = {section: values.get(section, {}) for section in defaults}
    # A value that is not a mapping is left for the section's own check to report.
    merged = {name: {**defaults[name], **each} for name, each in given.items() if isinstance(each, dict)}
    return {**values, **merged}


def with_defaults_of_student(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job's values with the defaults of the student's kind for keys that are not given.

    If the kind is searched, defaults that all kinds share are filled in; other defaults of the section ``training`` are
    filled in ``training.by_kind``.
    """
    values = _with_student_keys(values)
    kinds = _searched_kinds(values)
    if not kinds:
        return with_defaults(values, job_defaults(values.get("student")))
    suited = {kind: job_defaults({"kind": kind}) for kind in kinds}
    first, *others = suited.values()
    common = {
        section: {
            key: value
            for key, value in defaults.items()
            if all(each.get(section, {}).get(key) == value for each in others)
        }
        for section, defaults in first.items()
    }
    training = values.get("training", {})
    filled = with_defaults(values, {section: each for section, each in common.items() if each})
    given = training.get("by_kind", {}) if isinstance(training, dict) else None
    if not isinstance(given, dict):
        return filled
    known = {*KindTraining.model_fields} - {*training} - {*common.get("training", {})}
    of_kinds = {
        kind: {key: value for key, value in defaults.get("training", {}).items() if key in known}
        for kind, defaults in suited.items()
    }
    of_kinds = with_defaults(given, {kind: each for kind, each in of_kinds.items() if each})
    return {**filled, "training": {**filled.get("training", {}), "by_kind": of_kinds}} if of_kinds else filled


def _with_student_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job's values with what its section ``student`` needs to be read.

    A section that names no kind becomes one of the first searched kind that has all of its keys; the other searched
    kinds take over those that they have. If the teacher is a file of logits, a table of word pieces is random, unless
    one is given.
    """
    teacher, student = values.get("teacher"), values.get("student", {})
    if not isinstance(student, dict):
        return dict(values)
    is_file = isinstance(teacher, dict) and teacher.get("logits") is not None
    added = [{}] if not is_file or _TABLE in student else [{_TABLE: "random"}, {}]
    searched = [] if STUDENT_KINDS.attribute in student else _searched_kinds(values)
    of_kinds = [{STUDENT_KINDS.attribute: name} for name in searched]
    for keys in added:
        for named in ({}, *of_kinds):
            section = {**named, **student, **keys}
            kind = STUDENT.selected(section)
            if kind is not None and {*section} <= {*kind.model_fields}:
                return {**values, "student": section} if section else dict(values)
    return dict(values)


def fault_of_texts(data: DataConfig, teacher: TeacherConfig, query: str | None) -> str | None:
    """Return the fault of a job with keys that do not fit its kind of texts, or None.

    Args:
        data: The section ``data``.
        teacher: The section ``teacher``.
        query: The key ``benchmark.query``.
    """
    if query is not None and data.takes_pairs:
        return (
            f"benchmark.query: {query!r:.60} given, but texts are pairs (data.text_pair_column); remove it: the "
            "validation pair of median length is timed"
        )
    named = [f"data.augmentation.{name}" for name, each in data.augmentation if each is not None]
    files = _files(teacher)
    if files and named:
        return (
            f"{', '.join(named)}: the generated texts have no logits, since {files[0]} is a file; remove them, or "
            "use another teacher"
        )
    if teacher.are_different and data.augmentation.masked is not None:
        return (
            "data.augmentation.masked: the masked pieces are those of one tokenizer, but the teachers of "
            "teacher.ensemble may have others; remove it, or use data.augmentation.dropped"
        )
    return None


def fault_of_selection(task: Task, data: DataConfig) -> str | None:
    """Return the fault of a job that selects texts by the certainty of a task without probabilities of classes."""
    kinds = [] if task.has_classes else list(data.augmentation.num_selected)
    if kinds:
        named = ", ".join(f"data.augmentation.{kind}.candidates" for kind in kinds)
        return (
            f"{named}: texts are selected by the entropy of the teacher's classes, which the task {task.name} does not "
            "have; remove it"
        )
    return None


def _files(teacher: TeacherConfig) -> list[str]:
    """Return the keys of the teachers that are files of logits."""
    return [".".join((*path, "logits")) for path, each in teacher.sections() if each.logits is not None]


def fault_of_tokens(
    task: Task, data: DataConfig, teacher: TeacherConfig, students: Sequence[StudentConfig]
) -> str | None:
    """Return the fault of a job whose task has an answer for each token but a section only one for each text, or None.

    Args:
        task: The task, which is ``of_tokens``.
        data: The section ``data``.
        teacher: The section ``teacher``.
        students: The section of each kind of student that the job tries.
    """
    pooled = next((each.kind for each in students if not each.has_layers), None)
    if pooled is not None:
        return (
            f"student.kind: {pooled!r} given, which pools the tokens of a text to one answer, but the task {task.name} "
            "needs one for each token; accepted: layers, checkpoint"
        )
    if data.takes_pairs and not task.of_windows:
        return f"data.text_pair_column: given, but the task {task.name} reads single texts; remove it"
    made = [f"data.augmentation.{name}" for name, each in data.augmentation if each is not None]
    if task.of_windows and made:
        return (
            f"{', '.join(made)}: made of single texts, but the task {task.name} needs a question that belongs to its "
            "context; remove it, or give further questions with their contexts in data.unlabelled"
        )
    if data.augmentation.masked is not None:
        return (
            f"data.augmentation.masked: masked pieces are no text, in which the words of the task {task.name} could be "
            "found; remove it"
        )
    for key in _files(teacher):
        return (
            f"{key}: a file with logits for each text given, but the task {task.name} needs them for each token; use "
            "a checkpoint"
        )
    return _fault_of_pieces(task, teacher)


def _fault_of_pieces(task: Task, teacher: TeacherConfig) -> str | None:
    """Return the fault of teachers with different tokenizers, whose logits per token cannot be joined, or None."""
    pieces = [None if each.scratch is None else each.scratch.vocab_size for each in teacher.members]
    other = next((number for number, each in enumerate(pieces) if each != pieces[0]), None)
    if other is None:
        return None
    kind = "fine_tune" if teacher.members[other].scratch is None else "scratch"
    kind = "checkpoint" if teacher.members[other].checkpoint is not None else kind
    return (
        f"teacher.ensemble.{other}.{kind}: its tokenizer differs from that of the first teacher, and the task "
        f"{task.name} has logits for each token, which are joined token by token; use teachers of one tokenizer"
    )


def keys_of_kinds(values: Mapping[str, Any]) -> list[str]:
    """Return the paths of keys whose default depends on the kinds of students of a job."""
    student = values.get("student")
    kinds = _searched_kinds(values) or [None]
    return [
        f"{section}.{key}"
        for kind in kinds
        for section, defaults in job_defaults(student if kind is None else {"kind": kind}).items()
        for key in defaults
    ]


def _searched_kinds(values: Mapping[str, Any]) -> list[str]:
    """Return the kinds of students in a job's search space; an empty list if it has none or is faulty."""
    search = values.get("search")
    space = search.get("space") if isinstance(search, dict) else getattr(search, "space", None)
    if not isinstance(space, dict) or STUDENT_KIND not in space:
        return []
    try:
        kinds = TypeAdapter(Parameter).validate_python(space[STUDENT_KIND]).end_values()
    except ValidationError:
        return []
    return [kind for kind in kinds if isinstance(kind, str) and kind in STUDENT_KINDS]


def _is_always_there(field: FieldInfo, name: str, values: Mapping[str, Any]) -> bool:
    return name not in values and field.default_factory is not None


def chosen_keys(
    section: BaseModel,
    seed: int,
    always: Collection[str],
    defaults: BaseModel | None = None,
    prefix: str = "",
) -> dict[str, Any]:
    """Return the values of a section that differ from their defaults, as JSON values.

    Args:
        section: A valid section.
        seed: Seed of the job: the default of every seed below.
        always: Paths of keys that are included whatever their value.
        defaults: Default of the whole section, if its keys' own defaults do not apply.
        prefix: Path of the section, with a trailing dot.
    """
    found: dict[str, Any] = {}
    implied = section.implied() if isinstance(section, Section) else None
    for name, field in type(section).model_fields.items():
        value, path = getattr(section, name), f"{prefix}{name}"
        default = getattr(defaults, name) if type(defaults) is type(section) else _default(field)
        if implied is not None and not _selects(field):
            default = getattr(implied, name)
        if value is None and field.default is None and path not in always:
            continue  # the default section has a value there only because it has no other
        if isinstance(value, BaseModel):
            inner = chosen_keys(value, seed, always, default, f"{path}.")
            if inner and type(value) is not type(default):
                inner = {**_selecting(field, value), **inner}
            if inner:
                found[name] = inner
            elif type(value) is not type(default):
                found[name] = value.model_dump(mode="json")
        elif path in always or value != (seed if name == SEED else default):
            found[name] = _chosen_of_list(value, seed) if _is_of_sections(value) else _plain(value)
    return found


def _is_of_sections(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(each, BaseModel) for each in value)


def _chosen_of_list(sections: Any, seed: int) -> list[Any]:
    """Return ``chosen_keys`` of each section of a list."""
    return [chosen_keys(each, seed, ()) for each in sections]


def _selects(field: FieldInfo) -> bool:
    """Return whether a key selects among named alternatives."""
    return get_origin(field.annotation) is Literal


def _selecting(field: FieldInfo, section: BaseModel) -> dict[str, Any]:
    """Return the key, with its value, that selects a section of several kinds."""
    keys = (each.registry.attribute for each in field.metadata if isinstance(each, OneSection))
    return {key: getattr(section, key) for key in keys}


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def _plain(value: Any) -> Any:
    """Convert a value to JSON values; sections in it keep non-default keys and those that select their kind."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        dumped = {name: getattr(value, name) for name in fields}
        return {
            name: _plain(each)
            for name, each in dumped.items()
            if each != _default(fields[name]) or _selects(fields[name])
        }
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def is_judged_with_threshold(values: Mapping[str, Any]) -> bool:
    """Return whether a specification asks for limits with the out-of-scope threshold, and names no metric."""
    export = values.get("export")
    choose = export.get("choose") if isinstance(export, dict) else None
    judged = choose.get("accuracy") if isinstance(choose, dict) else None
    return judged == "with_threshold" and "metric" not in values
