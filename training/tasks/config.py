"""The values of the job's keys ``task``, the name of a registered task or one that is recognised, and ``metric``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from ...storage.safe_reading import read_regular
from ..data.sources.formats.conll import EXTENSIONS
from ..data.sources.formats.squad import is_squad_file
from ..section_registry import RegisteredName
from . import MULTI_LABEL, QUESTION_ANSWERING, TASKS, TOKEN_CLASSIFICATION

TaskName = Annotated[str, RegisteredName(lambda: TASKS, "a task")]


_MOST_BYTES = 2**24


def task_description() -> str:
    """Describe the key ``task`` with all tasks."""
    known = "; ".join(f"{task.name}, {task.description}" for task in TASKS)
    return (
        f"The task to learn: {known}. Default: recognised from the keys of `data`, the extension of `data.train` or "
        "its beginning (SQuAD), and the `problem_type` and `architectures` of `teacher.checkpoint`; otherwise "
        "single_label."
    )


def recognised_task(values: Mapping[str, Any]) -> str | None:
    """Return the name of the task that a job's values show without its data; None where they show none.

    A separator of labels means several labels, and so do several columns, unless the teacher's checkpoint is of a task
    for numbers. A CoNLL file has tokens with tags, a file of SQuAD questions with answers.
    """
    data, teacher = (values.get(name) for name in ("data", "teacher"))
    members = teacher.get("ensemble") if isinstance(teacher, Mapping) else None
    named = [
        each["checkpoint"]
        for each in (teacher, *(members if isinstance(members, list) else []))
        if isinstance(each, Mapping) and isinstance(each.get("checkpoint"), str)
    ]
    of_teacher = next(filter(None, map(task_of_checkpoint, named)), None)
    of_data = data if isinstance(data, Mapping) else {}
    if str(of_data.get("train", "")).lower().endswith(EXTENSIONS):
        return TOKEN_CLASSIFICATION.name
    if isinstance(of_data.get("train"), str) and is_squad_file(of_data["train"]):
        return QUESTION_ANSWERING.name
    has_several = any(of_data.get(key) is not None for key in ("label_separator", "label_columns"))
    return MULTI_LABEL.name if of_teacher is None and has_several else of_teacher


def task_of_checkpoint(name: str) -> str | None:
    """Return the task of a local checkpoint, by its ``problem_type`` or a head that only one task has; None: unknown.

    A check of the checkpoint reports any fault.
    """
    try:
        config = json.loads(read_regular(Path(name).expanduser() / "config.json", _MOST_BYTES))
        config = config if isinstance(config, dict) else {}
    except (OSError, RuntimeError, ValueError):  # such as the home of nobody
        return None
    given, named = config.get("problem_type"), config.get("architectures")
    if given is not None:
        return next((task.name for task in TASKS if task.problem_type == given), None)
    heads = {task.name: task.auto_class.removeprefix("AutoModel") for task in TASKS}
    ends = [each for each in named if isinstance(each, str)] if isinstance(named, list) else []
    found = [name for name, head in heads.items() if any(each.endswith(head) for each in ends)]
    return found[0] if len(found) == 1 else None


def metric_description() -> str:
    """Describe the key ``metric`` with the names that each task accepts."""
    names = dict.fromkeys(name for task in TASKS for name in task.metric_names)
    kinds = dict.fromkeys(f"{kind}.LABEL" for task in TASKS for kind in task.label_metrics)
    return (
        f"Metric by which epochs, trials and exported variants are selected: {', '.join([*names, *kinds])}. Default: "
        "the first of the task."
    )
