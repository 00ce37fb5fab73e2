"""The goals of a job, metrics and out-of-scope thresholds, and checks that its data suffice for them and the gate."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ConfigError, InputError, shown
from ...export.artifact.licences import is_non_commercial
from ...export.out_of_scope.thresholds import AccuracyWithThreshold, ScopeGoal, scope_goal
from ...export.selection.gate import check_gate
from ...texts import texts_of
from ...training.tasks import get as get_task
from .config import JobConfig

if TYPE_CHECKING:
    from ...export.runtime.scores import ScoreName
    from ...training.data.text_data import TextData
    from ...training.tasks import Task

logger = logging.getLogger(__name__)


def goal_of(config: JobConfig, data: TextData) -> ScopeGoal | None:
    """Return the goal of threshold selection, or None if there is no threshold to select.

    Raises:
        ConfigError: The specification does not fit the data.
    """
    outside = data.out_of_scope_id
    num_outside = 0 if outside is None else data.splits["validation"]["label"][:].count(outside)
    return scope_goal(config.export.out_of_scope, data.out_of_scope_label, data.label_names, num_outside)


def score_of(config: JobConfig, data: TextData) -> ScoreName | None:
    """Return the score of the job's thresholds, or None if there is no threshold to select.

    Raises:
        ConfigError: The specification does not fit the data.
    """
    goal = goal_of(config, data)
    if goal is None or goal.config.score is not None:
        return None if goal is None else goal.config.score
    return "margin" if _missing_for_margin(data, goal.label) is None else "energy"


def _missing_for_margin(data: TextData, label: str | None) -> str | None:
    """Return what the data lack for the score ``margin``, in words; None if nothing."""
    if label is None:
        return "the data has no out-of-scope label (data.out_of_scope_label)"
    if label not in data.class_names:
        return f"no training text has the label {shown(label)}, so that no model has an output for it"
    labels = data.splits["validation"]["label"][:]
    num_outside = labels.count(data.out_of_scope_id)
    if num_outside in (0, len(labels)):
        kind = "every" if num_outside else "no"
        return f"{kind} text of the validation split has the label {shown(label)}"
    return None


def accuracy_with_threshold(config: JobConfig, data: TextData) -> AccuracyWithThreshold | None:
    """Return the function that evaluates an epoch with its threshold, or None if there is no threshold to select.

    Raises:
        ConfigError: The specification does not fit the data.
    """
    goal = goal_of(config, data)
    if goal is None:
        return None
    names = list(dict.fromkeys([*data.label_names, goal.label]))
    return AccuracyWithThreshold(config.task, goal, names.index(goal.label))


def check_goals(config: JobConfig, data: TextData) -> None:
    """Reject thresholds and a gate that the data cannot test; warn if the data allow no threshold.

    Raises:
        ConfigError: The data do not suffice; the message has the remedy.
    """
    goal, section = goal_of(config, data), config.export.out_of_scope
    if section is not None and section.score == "margin":
        missing = _missing_for_margin(data, data.out_of_scope_label or section.label)
        if missing is not None:
            raise ConfigError(
                f"export.out_of_scope.score: margin given, but {missing}; remove the key, or use energy"
            )
    if goal is None and config.export.out_of_scope is not None and data.out_of_scope_label is not None:
        logger.warning(
            "export.out_of_scope: no text of the validation split has the out-of-scope label %r, so there will be "
            "no threshold; add some to data.validation, or set export.out_of_scope.max_in_scope_refused, such as "
            "0.02",
            data.out_of_scope_label,
        )
    of_teachers = [(".".join((*path, "licence")), each.licence) for path, each in config.teacher.sections()]
    for key, licence in (("data.licence", config.data.licence), *of_teachers):
        if is_non_commercial(licence):
            logger.warning("%s: %s excludes commercial use, and so does the artifact", key, licence)
    check_gate(config.export.choose, num_tested(config, data), has_threshold=goal is not None)


def num_tested(config: JobConfig, data: TextData) -> int:
    """Return the number of validation texts that the job's metric covers."""
    task = get_task(config.task)
    labels = _validation_labels(task, data)
    metric = task.metric(config.metric, data.label_names, data.out_of_scope_id)
    return int(metric.concerns(labels).sum()) if metric.concerns else len(labels)


def _validation_labels(task: Task, data: TextData) -> np.ndarray:
    rows = data.splits["validation"]
    return task.measured_labels(texts_of(rows), rows["label"][:])


def check_metrics(config: JobConfig, data: TextData) -> None:
    """Reject a metric of a label that the data lacks, or that no training or no validation text has.

    Raises:
        ConfigError: The message has the key, the metric and its remedy.
    """
    from ...search.space.space import VALIDATION, key_that_names, named_metrics
    from ...training import tasks

    _check_threshold_metric(config, data)
    task = tasks.get(config.task)
    labels = _validation_labels(task, data)
    for name in dict.fromkeys((config.metric, *named_metrics(config.search, config.task))):
        own = key_that_names(f"{VALIDATION}{name}", config.search)
        key = "metric" if own is None or name == config.metric else own
        try:
            metric = task.metric(name, data.label_names, data.out_of_scope_id)
        except InputError as error:
            raise ConfigError(str(error).replace("metric: ", f"{key}: ", 1)) from None
        _check_out_of_scope(key, name, data)
        concerned = metric.concerns is None or bool(metric.concerns(labels).any())
        if not concerned or (metric.of_counts is None and metric.measure(labels, labels) is None):
            raise ConfigError(
                f"{key}: {shown(name)} given, but no text of the validation split has that label; add some, or use "
                "another metric"
            )


def _check_out_of_scope(key: str, metric: str, data: TextData) -> None:
    """Reject a metric of out-of-scope texts if no model learns that class."""
    outside = data.out_of_scope_label
    if metric == "oos_recall" and outside is None:
        raise ConfigError(
            f"{key}: {shown(metric)} given, but the data has no out-of-scope label; set data.out_of_scope_label, or "
            "use another metric"
        )
    if outside in (None, *data.class_names) or (
        metric != "oos_recall" and metric.partition(".")[2] != outside
    ):
        return
    raise ConfigError(
        f"{key}: {shown(metric)} given, but no training text has the label {shown(outside)}, so that only a threshold "
        "predicts it, and the metric is 0 in training; add training texts with that label, or use another metric"
    )


def _check_threshold_metric(config: JobConfig, data: TextData) -> None:
    """Reject a search by accuracy with a threshold if the job has no threshold."""
    from ...search.space.space import THRESHOLD_METRIC, key_that_names

    key = key_that_names(THRESHOLD_METRIC, config.search)
    # With this value of `choose.accuracy` the metric is the default, and `check_gate` reports the fault.
    if key is None or config.export.choose.accuracy == "with_threshold" or goal_of(config, data) is not None:
        return
    raise ConfigError(
        f"{key}: {shown(THRESHOLD_METRIC)} given, but this job has no out-of-scope threshold; use another metric, or "
        "set export.out_of_scope and data.out_of_scope_label, or export.out_of_scope.label and max_in_scope_refused"
    )
