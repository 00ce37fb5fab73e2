"""The job's keys ``task`` and ``metric``: their descriptions, and how a task that is not given is recognised."""

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

CONFIG_FILE = "config.json"
MOST_BYTES = 2**24  # of that file


def task_description() -> str:
    """Describe the key ``task`` with all tasks."""
    known = "; ".join(f"{task.name}, {task.description}" for task in TASKS)
    return (
        f"The task to learn: {known}. Default: recognised from the keys of `data`, the extension of `data.train` or "
        "its beginning (SQuAD), and the `problem_type` and `architectures` of `teacher.checkpoint`, a directory or a "
        "hub id that has been downloaded; otherwise single_label."
    )


def recognised_task(values: Mapping[str, Any]) -> str | None:
    """Return the name of the task that a job's values imply, or None; of the data, only the beginning may be read.

    A CoNLL file implies token classification, a SQuAD file question answering. Otherwise the task is that of the
    teacher's checkpoint; if that is unknown, a label separator or several label columns imply several labels.
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
    """Return the task of a checkpoint, as ``task_of_model`` does; None if it is on the hub and not yet downloaded.

    Faults of the checkpoint are not reported here, but when it is checked.
    """
    try:
        folder = Path(name).expanduser()
        path = folder / CONFIG_FILE if folder.is_dir() else _downloaded_config(name)
        config = {} if path is None else json.loads(read_regular(path, MOST_BYTES))
    except (OSError, RuntimeError, ValueError):  # RuntimeError: the home directory of an unknown user
        return None
    return task_of_model(config) if isinstance(config, dict) else None


def _downloaded_config(name: str) -> Path | None:
    """Return the configuration of a hub id in the hub's cache, without using the network; None if it has none.

    Raises:
        ValueError: It is no hub id.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, CONFIG_FILE)
    return Path(found).resolve() if isinstance(found, str) else None


def task_of_model(config: Mapping[str, Any]) -> str | None:
    """Return the task of a model by the ``problem_type`` of its configuration, or a head that one task alone has."""
    problem_type, architectures = config.get("problem_type"), config.get("architectures")
    if problem_type is not None:
        return next((task.name for task in TASKS if task.problem_type == problem_type), None)
    heads = {task.name: task.auto_class.removeprefix("AutoModel") for task in TASKS}
    listed = architectures if isinstance(architectures, list) else []
    classes = [each for each in listed if isinstance(each, str)]
    found = [task for task, head in heads.items() if any(each.endswith(head) for each in classes)]
    return found[0] if len(found) == 1 else None


def metric_description() -> str:
    """Describe the key ``metric`` with the names that each task accepts."""
    names = dict.fromkeys(name for task in TASKS for name in task.metric_names)
    kinds = dict.fromkeys(f"{kind}.LABEL" for task in TASKS for kind in task.label_metrics)
    return (
        f"Metric by which epochs, trials and exported variants are selected: {', '.join([*names, *kinds])}. Default: "
        "the first of the task."
    )
