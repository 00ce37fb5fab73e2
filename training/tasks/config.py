"""The values of the job's keys ``task``, the name of a registered task, and ``metric``."""

from __future__ import annotations

from typing import Annotated

from ..section_registry import RegisteredName
from . import TASKS

TaskName = Annotated[str, RegisteredName(lambda: TASKS, "a task")]


def metric_description() -> str:
    """Describe the key ``metric`` with the names that each task accepts."""
    names = dict.fromkeys(name for task in TASKS for name in task.metric_names)
    kinds = dict.fromkeys(f"{kind}.LABEL" for task in TASKS for kind in task.label_metrics)
    return (
        f"Metric by which epochs, trials and exported variants are selected: {', '.join([*names, *kinds])}. Default: "
        "the first of the task."
    )
