"""The students that trials start from: a single one unless the search space varies it, measured on request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ...progress import Progress, ReportProgress
from ...search.space.students import ONLY_STUDENT, STUDENT_METRICS, Student, is_measured, student_names
from ..remote import tasks
from ..remote.latency import measure_student
from ..specification.config import JobConfig
from ..specification.resources import TaskResources
from ..store.runs import Run
from .dispatch import Dispatcher

if TYPE_CHECKING:
    from ...training.data.text_data import TextData

_NUM_TEXTS = 200  # enough, since only the latency of single texts is measured, not the accuracy


class Students:
    """Makes the students of one job.

    Args:
        config: The specification.
        run: Run that stores the students.
        data: The texts; their labels define the student's classification head.
        dispatcher: Sends the tasks.
        wanted: Resources of the task that makes a student.
    """

    def __init__(
        self, config: JobConfig, run: Run, data: TextData, dispatcher: Dispatcher, wanted: TaskResources
    ) -> None:
        self._config = config
        self._run = run
        self._data = data
        self._dispatcher = dispatcher
        self._wanted = wanted

    def make(self, teacher: str, report: ReportProgress) -> tuple[dict[str, Any], dict[str, Student]]:
        """Write every student's starting checkpoint.

        Args:
            teacher: Key of the prepared teacher.
            report: Called with progress.

        Returns:
            The first student's record, with all records by name under ``students``; and the students by name.
        """
        wanted, records = student_names(self._config.search), {}
        for name, arguments in wanted.items():
            if arguments:
                counts = {"done": len(records), "total": len(wanted)}
                report(Progress(f"student {len(records) + 1} of {len(wanted)}: {name}", counts))
            key = self._key(name)
            records[name] = {**self._make(teacher, key, arguments, report), "key": key}
        if is_measured(self._config.search):
            for name, record in records.items():
                report(Progress(f"latency of {name}"))
                record.update(self._measure(record, teacher, report))
        students = {name: Student(record["key"], _shared(name, record)) for name, record in records.items()}
        return {**next(iter(records.values())), "students": records}, students

    def _key(self, name: str) -> str:
        if name == ONLY_STUDENT:
            return self._run.student
        return self._run.key(f"students/{re.sub(r'[^a-z0-9_]+', '-', name).strip('-')}")

    def _make(
        self, teacher: str, key: str, searched: dict[str, Any], report: ReportProgress
    ) -> dict[str, Any]:
        arguments = (teacher, self._data, key, searched)
        return self._dispatcher.do("student", tasks.make_student, self._wanted, *arguments, report=report)

    def _measure(self, student: dict[str, Any], teacher: str, report: ReportProgress) -> dict[str, float]:
        rows = self._data.splits["validation"].select(
            range(min(_NUM_TEXTS, len(self._data.splits["validation"])))
        )
        wanted = self._config.resources.benchmark
        arguments = (
            *(student["key"], teacher, rows, self._data.label_names),
            student.get("num_embeddings"),
        )
        return self._dispatcher.do_alone("student", measure_student, wanted, *arguments, report=report)


def _shared(name: str, record: dict[str, Any]) -> dict[str, float]:
    """Return the metrics that are the same for all trials of a student; none if there is a single student."""
    if name == ONLY_STUDENT:
        return {}
    return {each: record[each] for each in STUDENT_METRICS if each in record}
