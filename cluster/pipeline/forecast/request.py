"""Inputs of the measuring process of a forecast, and the trials that it measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....search.parameters import FloatRange, IntRange, Parameter
from ....search.space.space import NUM_STUDENT_LAYERS, STUDENT_LAYERS, by_condition
from ....search.student_arguments import STUDENT_KIND, is_student_argument
from ....storage.store import Store

if TYPE_CHECKING:
    from ....training.data.text_data import TextData
    from ...specification.config import JobConfig

TEACHER = "teacher"
BATCH_SIZES = ("batch_size", "per_device_train_batch_size")


def teacher_part(number: int) -> str:
    """Return the name of the measurement of the teacher with this number, counted from 0."""
    return TEACHER if number == 0 else f"{TEACHER} {number + 1}"


@dataclass(frozen=True)
class Places:
    """Threads and parallelism of each kind of work.

    Attributes:
        num_cpus: CPUs that the job may use.
        teacher_threads: Threads of a teacher's training.
        num_teachers: Teachers that are trained in parallel.
        trial_threads: Threads of each process of a trial.
        num_trials: Trials that run in parallel.
        num_processes: Processes of a trial.
        num_exports: Variants that are built in parallel.
    """

    num_cpus: float
    teacher_threads: int
    num_teachers: int
    trial_threads: int
    num_trials: int
    num_processes: int
    num_exports: int


@dataclass(frozen=True)
class Request:
    """Inputs of the measuring process.

    Attributes:
        config: The specification with paths of this machine.
        data: The texts.
        places: Threads and parallelism of each kind of work.
        work: Directory for the process's files.
        parts: Parts to measure, of ``teacher``, ``student``, ``search``, ``export``.
        teachers: Directory of each teacher to measure, None if it does not exist yet. Of teachers that differ only in
            their seed, the first is measured.
        student: Directory of the selected student if it exists already.
        logits: Directory of the logits in the storage, if that is a directory of this machine.
        seconds: Duration of each measurement.
    """

    config: JobConfig
    data: TextData
    places: Places
    work: Path
    parts: frozenset[str]
    teachers: tuple[Path | None, ...] = (None,)
    student: Path | None = None
    logits: Path | None = None
    seconds: float = 4.0

    @property
    def teacher(self) -> Path | None:
        """Directory of the first teacher if it exists already."""
        return self.teachers[0]

    @property
    def store(self) -> Store:
        """Store of the models that are made for the measurements."""
        return Store(str(self.work / "store"))

    def student_key(self, names: Mapping[str, Point], name: str) -> str:
        """Return the store key of the student ``name``, given all students that are built (``names``)."""
        return f"students/{list(names).index(name)}"


@dataclass(frozen=True)
class Point:
    """A trial to measure: its arguments, and the size of its student relative to other points' students."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    size: float = 1.0


def places_of(config: JobConfig, num_cpus: int) -> Places:
    """Return how a local Ray with ``num_cpus`` CPUs places the tasks of a job."""
    from ....search.space.space import searched
    from ....search.study.searcher import num_parallel_trials
    from ...session.ray_session import cpus_of_each

    resources, trial = config.resources, config.resources.trial
    share = cpus_of_each(config.teacher.num_members, num_cpus)
    teacher = share if resources.teacher is None else resources.teacher.cpu
    slots = max(1, int(num_cpus / (trial.cpu * trial.processes) + 1e-4))
    num_trials = num_parallel_trials(config.search, slots) if searched(config.search) else 1
    return Places(
        num_cpus=num_cpus,
        teacher_threads=max(1, int(teacher)),
        num_teachers=max(1, int(num_cpus / teacher + 1e-4)),
        trial_threads=max(1, int(trial.cpu)),
        num_trials=max(1, min(num_trials, config.search.num_trials)),
        num_processes=trial.processes,
        num_exports=max(1, int(num_cpus / resources.export.cpu + 1e-4)),
    )


def points_of(space: Mapping[str, Parameter]) -> list[Point]:
    """Return the trials to measure: the middle of the space, and those of its ends that change a step's time.

    These ends are the smallest and largest student of each kind, and the smallest and largest batch size.
    """
    middle = _arguments(space, {})
    found = [middle]
    students = [name for name in space if is_student_argument(name) and name != STUDENT_KIND]
    kinds = [{STUDENT_KIND: kind} for kind in _kinds(space)] or [{}]
    batches = [each for each in BATCH_SIZES if each in space]
    for names, fixed in (*((students, kind) for kind in kinds), (batches, {})):
        for end in (min, max):
            changed = {name: end(space[name].end_values(), key=_magnitude) for name in names}
            arguments = _arguments(space, {**changed, **fixed})
            if arguments not in found:
                found.append(arguments)
    return [Point(each, student_size(each, space)) for each in found]


def student_size(arguments: Mapping[str, Any], space: Mapping[str, Parameter]) -> float:
    """Return the size of a trial's student relative to others of the space: layers times its relative width.

    If the kind is searched, students of kinds without layers get sizes below those of kinds with layers, each kind in
    a range of its own.
    """
    layers = float(arguments.get(NUM_STUDENT_LAYERS) or len(arguments.get(STUDENT_LAYERS) or [0]))
    kinds, width = _kinds(space), 1.0
    for name in filter(is_student_argument, space):
        if name in arguments and name not in (STUDENT_KIND, STUDENT_LAYERS, NUM_STUDENT_LAYERS):
            numbers = [_number(each) for each in space[name].end_values()]
            width *= 0.5 + 0.5 * _number(arguments[name]) / max(1.0, *numbers)
    if arguments.get(STUDENT_KIND) in kinds and not {NUM_STUDENT_LAYERS, STUDENT_LAYERS} & {*arguments}:
        return 0.25 * (kinds.index(arguments[STUDENT_KIND]) + width) / (1 + len(kinds))
    return layers * width


def _kinds(space: Mapping[str, Parameter]) -> list[Any]:
    return space[STUDENT_KIND].end_values() if STUDENT_KIND in space else []


def _arguments(space: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in by_condition(space):
        if space[name].applies(values):
            values[name] = given.get(name, middle_of(space[name]))
    return values


def middle_of(parameter: Parameter) -> Any:
    """Return the middle value of a parameter: the mean of a range (geometric if ``log``), the median of a choice."""
    if isinstance(parameter, FloatRange):
        if parameter.log:
            return (parameter.low * parameter.high) ** 0.5
        return (parameter.low + parameter.high) / 2
    if isinstance(parameter, IntRange):
        return (parameter.low + parameter.high) // 2
    values = parameter.end_values()
    return sorted(values, key=_magnitude)[len(values) // 2] if len({*map(type, values)}) == 1 else values[0]


def _magnitude(value: Any) -> Any:
    return (len(value), sum(value)) if isinstance(value, list) else value


def _number(value: Any) -> float:
    """Convert a value to a number: a number itself, the sum of a list, and 1 for a word."""
    return float(sum(value) if isinstance(value, list) else value if isinstance(value, int | float) else 1)


Report = Callable[[str], None]
"""Called with a description of the current measurement."""
