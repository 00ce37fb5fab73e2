"""TensorBoard event files of a search: the space at the root, and one run per trial, written while it trains."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, Self

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from ...errors import StorageError
from ...storage.store import Store
from ...storage.temporary import TemporaryDirectory
from ...training import tasks
from ..parameters import Choice, Fixed, Parameter
from ..space.space import VALIDATION, metrics_of

logger = logging.getLogger(__name__)

_EVENTS = "events.out.tfevents."

# Generated without type stubs.
_event: Any = event_pb2
_summary: Any = summary_pb2
_api: Any = api_pb2
_plugin: Any = plugin_data_pb2

_LOSS_TAGS = {
    "train_loss": "loss/total",
    "train_cross_entropy": "loss/cross_entropy",
    "train_distillation": "loss/distillation",
}

_STATUS = {"success": _api.Status.STATUS_SUCCESS, "failure": _api.Status.STATUS_FAILURE}


def tag_of(metric: str) -> str:
    """Return the tag of a reported metric: ``validation_accuracy`` is shown as ``validation/accuracy``."""
    return _LOSS_TAGS.get(metric) or metric.replace("validation_", "validation/", 1)


def best_tag(metric: str) -> str:
    """Return the tag for the best value of a task's metric so far."""
    return f"best/{metric}"


def write_experiment(
    store: Store,
    key: str,
    space: dict[str, Parameter],
    task: str,
    metrics: Sequence[str] = (),
    *,
    with_threshold: bool = False,
) -> None:
    """Write the search space and the metrics of a task under ``key`` once, as the HParams tab's columns.

    The best epoch's value leads, since that epoch is the one to export.

    Args:
        store: The run store.
        key: The runs' folder.
        space: Arguments of the search.
        task: Name of the task.
        metrics: The job's metric, then further metrics besides those of every epoch; default: the task's first metric.
        with_threshold: Whether ``THRESHOLD_METRIC`` is measured.

    Raises:
        StorageError: The storage does not respond.
    """
    if any(name.startswith(_EVENTS) for name in store.names(key)):
        return
    goal = metrics[0] if metrics else tasks.get(task).goal[0]
    reported = metrics_of(task, metrics, with_threshold=with_threshold)
    measured = [name for name in reported if name.startswith(VALIDATION)]
    tags = [best_tag(goal), *map(tag_of, (*measured, "examples_per_second"))]
    experiment = _api.Experiment(
        time_created_secs=time.time(),
        hparam_infos=[_hparam(name, parameter) for name, parameter in space.items()],
        metric_infos=[_api.MetricInfo(name=_api.MetricName(tag=tag), display_name=tag) for tag in tags],
    )
    with _Run(store, key) as run:
        run.hparams(metadata.EXPERIMENT_TAG, _plugin.HParamsPluginData(experiment=experiment))
        run.send()


class TrialEvents:
    """Writes one trial's TensorBoard run: its parameters, its scalars and its end.

    If the store is a directory, everything is visible at once; otherwise, when ``send`` returns.

    Args:
        store: Store to write to.
        key: The run's folder; runs are named after their trials.
        parameters: Searched and fixed arguments of the trial.
        first_step: Step from which the trial is resumed; later scalars, of an interrupted attempt, are dropped.
    """

    def __init__(self, store: Store, key: str, parameters: dict[str, Any], *, first_step: int = 0) -> None:
        # Without retries: an unavailable storage must not delay a trial because of its plots.
        self._run = _Run(store.once, key)
        # Written even if no epoch was saved, since an earlier attempt may have written scalars.
        log = _event.SessionLog(status=_event.SessionLog.START)
        self._run.event(step=first_step + 1, session_log=log)
        start = _plugin.SessionStartInfo(start_time_secs=time.time(), group_name=key.rpartition("/")[2])
        for name, value in parameters.items():
            _set_value(start.hparams[name], value)
        data = _plugin.HParamsPluginData(session_start_info=start)
        self._run.hparams(metadata.SESSION_START_INFO_TAG, data)
        self.send()

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Write ``{tag: value}`` at a step."""
        items = [_summary.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._attempt(lambda: self._run.event(step=step, summary=_summary.Summary(value=items)))
        self._attempt(self._run.flush)

    def end(self, status: Literal["success", "failure"]) -> None:
        """Mark the trial as ended."""
        self._attempt(lambda: self._run.end(status))

    def send(self) -> None:
        """Upload new events; if that fails, the next call uploads them."""
        self._attempt(self._run.send)

    def close(self) -> None:
        """Upload the remaining events; without ``end``, the trial stays marked as running."""
        self.send()
        with suppress(OSError):
            self._run.close()

    def _attempt(self, operation: Callable[[], None]) -> None:
        try:
            operation()
        except StorageError as error:
            logger.warning("TensorBoard is delayed: %s", error)
        except OSError as error:
            logger.warning("TensorBoard is missing some points: %s", error)
            with suppress(OSError):
                self._run.reopen()


def mark_ended(store: Store, key: str, status: Literal["success", "failure"]) -> None:
    """Mark a trial as ended that was lost or stopped before it could do so itself."""
    with _Run(store, key) as run:
        run.end(status)
        run.send()


class _Run:
    """One event file: written in place if the store is a directory, else written locally and uploaded as a whole."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._sent: dict[str, int] = {}
        self._temporary = None if store.directory else TemporaryDirectory("events")
        self._folder = self._temporary.path if self._temporary else store.local(key)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(self._folder), flush_secs=10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reopen(self) -> None:
        """Continue in a new file: a writer whose write failed cannot be used again."""
        self._writer = EventFileWriter(str(self._folder), flush_secs=10)

    def event(self, **content: Any) -> None:
        self._writer.add_event(_event.Event(wall_time=time.time(), **content))

    def hparams(self, tag: str, content: Any) -> None:
        value = _summary.Summary.Value(
            tag=tag, metadata=metadata.create_summary_metadata(content), tensor=metadata.NULL_TENSOR
        )
        self.event(step=0, summary=_summary.Summary(value=[value]))

    def end(self, status: str) -> None:
        end = _plugin.SessionEndInfo(status=_STATUS[status], end_time_secs=time.time())
        self.hparams(metadata.SESSION_END_INFO_TAG, _plugin.HParamsPluginData(session_end_info=end))

    def flush(self) -> None:
        self._writer.flush()

    def send(self) -> None:
        self.flush()
        if not self._temporary:
            return
        for path in self._folder.iterdir():
            content = path.read_bytes()
            if len(content) > self._sent.get(path.name, 0):
                self._store.write(f"{self._key}/{path.name}", content)
                self._sent[path.name] = len(content)

    def close(self) -> None:
        self._writer.close()
        if self._temporary:
            self._temporary.remove()


def _hparam(name: str, parameter: Parameter) -> Any:
    values = parameter.values if isinstance(parameter, Choice) else []
    values = [parameter.value] if isinstance(parameter, Fixed) else values
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        kind = _api.DataType.DATA_TYPE_BOOL
    elif kinds <= {int, float}:
        kind = _api.DataType.DATA_TYPE_FLOAT64
    else:
        kind = _api.DataType.DATA_TYPE_STRING
    info = _api.HParamInfo(name=name, type=kind)
    if isinstance(parameter, Choice | Fixed):
        for value in values:
            _set_value(
                info.domain_discrete.values.add(),
                str(value) if kind == _api.DataType.DATA_TYPE_STRING else value,
            )
    else:
        info.domain_interval.CopyFrom(_api.Interval(min_value=parameter.low, max_value=parameter.high))
    return info


def _set_value(target: Any, value: Any) -> None:
    if isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int | float):
        target.number_value = value
    else:
        target.string_value = str(value)
