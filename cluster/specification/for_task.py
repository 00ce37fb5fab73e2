"""Find keys of a job that do not apply to its task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...export.baselines import BASELINES
from ...export.config import ExportConfig
from ...training.data.analysis.few_labels import FewLabels
from ...training.data.config import AnyDataConfig
from ...training.distillation.config import TrainingConfig
from ...training.tasks import TASKS, Task
from ...training.teacher.config import TeacherConfig

_WITH_COLUMNS = {"files": "train", "hub": "dataset"}
"""The key that selects each source with columns, by the source's name."""


def fault_of_task(
    task: Task,
    metric: str,
    data: AnyDataConfig,
    teacher: TeacherConfig,
    training: TrainingConfig,
    export: ExportConfig,
) -> str | None:
    """Return the fault of the first key that does not apply to the task, with the tasks that have it, or None."""
    return (
        _fault_of_scope(task, data, export)
        or _fault_of_keys(task, metric, training, export)
        or _fault_of_cross_fit(task, data, teacher)
        or _fault_of_pairs(task, teacher)
    )


def defaults_of_task(task: Task) -> dict[str, dict[str, Any]]:
    """Return the defaults, by section and key, that differ from those of a task with one label for each text."""
    defaults: dict[str, dict[str, Any]] = {"export": {}, "benchmark": {}}
    if task.out_of_scope is None:
        defaults["export"]["out_of_scope"] = None
    if task.has_label_sets:
        defaults["export"]["label_thresholds"] = {}
    if not any(task.name in each.tasks for each in BASELINES):
        defaults["benchmark"]["baselines"] = []
    return {section: each for section, each in defaults.items() if each}


def with_columns(task: Task, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section ``data`` with the task's default columns for keys that are not given.

    A section of a source without columns is returned unchanged.
    """
    if data.get("source") not in _WITH_COLUMNS and not any(data.get(key) for key in _WITH_COLUMNS.values()):
        return dict(data)
    left_out = {"label_column"} if data.get("label_columns") is not None else set()
    left_out |= {"text_column"} if data.get("text_template") is not None else set()
    return {**{key: name for key, name in task.columns.items() if key not in left_out}, **data}


def _able(has_it: Callable[[Task], bool]) -> str:
    return ", ".join(task.name for task in TASKS if has_it(task))


def _fault_of_scope(task: Task, data: AnyDataConfig, export: ExportConfig) -> str | None:
    given = {
        "export.out_of_scope": export.out_of_scope,
        "data.out_of_scope_label": data.out_of_scope_label,
    }
    named = [key for key, value in given.items() if value is not None]
    if task.out_of_scope is not None or not named:
        return None
    return (
        f"{', '.join(named)}: the task {task.name} has no out-of-scope texts; set it to null, or set task "
        f"to one that has: {_able(lambda each: each.out_of_scope is not None)}"
    )


def _fault_of_keys(task: Task, metric: str, training: TrainingConfig, export: ExportConfig) -> str | None:
    smoothing = training.arguments.get("label_smoothing_factor")
    wrong: dict[str, tuple[bool, Callable[[Task], bool]]] = {
        f"training.arguments.label_smoothing_factor: {smoothing} given, but labels are not smoothed": (
            bool(smoothing) and not task.has_label_smoothing,
            lambda each: each.has_label_smoothing,
        ),
        "export.label_thresholds: a text has one answer": (
            export.label_thresholds is not None and not task.has_label_sets,
            lambda each: each.has_label_sets,
        ),
        f"training.balance: {training.balance!r} given, but a text has no single class": (
            training.balance != "none" and not task.has_classes,
            lambda each: each.has_classes,
        ),
        f"export.choose.min_validation_metric: lower is better in {metric}": (
            export.choose.min_validation_metric is not None and task.metric_mode(metric) == "min",
            lambda each: each.goal[1] == "max",
        ),
    }
    for fault, (is_wrong, has_it) in wrong.items():
        if is_wrong:
            return f"{fault} in the task {task.name}; remove it, or set task to one of: {_able(has_it)}"
    return None


def _fault_of_cross_fit(task: Task, data: AnyDataConfig, teacher: TeacherConfig) -> str | None:
    num_folds = data.diagnostics.cross_fit
    if num_folds is None:
        return None
    if not teacher.first.is_trained:
        kind = "checkpoint is a finished model" if teacher.first.logits is None else "logits is a file"
        kind = f"ensemble.0.{kind}" if teacher.are_different else kind
        return (
            f"data.diagnostics.cross_fit: {num_folds} given, but teacher.{kind}, which "
            "is not trained on these labels here; remove one of them, or set teacher.fine_tune.checkpoint"
        )
    if not task.has_classes:
        return (
            f"data.diagnostics.cross_fit: {num_folds} given, but labels of the task {task.name} are not diagnosed; "
            f"remove it, or set task to one of: {_able(lambda each: each.has_classes)}"
        )
    return None


def _fault_of_pairs(task: Task, teacher: TeacherConfig) -> str | None:
    paths = [
        path
        for path, each in teacher.sections()
        if each.fine_tune is not None and each.fine_tune.contrastive is not None
    ]
    if task.shares_labels or not paths:
        return None
    return (
        f"{'.'.join(paths[0])}.fine_tune.contrastive: given, but in the task {task.name} there are no labels that two "
        f"texts may share; remove it, or set task to one of: {_able(lambda each: each.shares_labels)}"
    )


def few_labels_in_words(few: FewLabels, task: Task, data: AnyDataConfig, teacher: TeacherConfig) -> str:
    """Describe how many labels have few training texts, and what a job of a task can do about it."""
    remedy = teacher.remedy_for_few_texts if task.shares_labels else None
    return f"{few.in_words()}: {few.advice(data, remedy, has_classes=task.has_classes)}"
