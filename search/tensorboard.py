"""TensorBoard event files of a search: the space at the root, one run a trial, written while it trains."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from .config import Choice, Fixed, Parameter

# Generated without type stubs.
_event: Any = event_pb2
_summary: Any = summary_pb2
_api: Any = api_pb2
_plugin: Any = plugin_data_pb2

# Reported metric -> tag.
TAGS = {
    "train_loss": "loss/total",
    "train_cross_entropy": "loss/cross_entropy",
    "train_distillation": "loss/distillation",
    "learning_rate": "learning_rate",
    "validation_accuracy": "validation/accuracy",
    "validation_in_scope_accuracy": "validation/in_scope_accuracy",
    "validation_oos_recall": "validation/oos_recall",
    "validation_loss": "validation/loss",
    "examples_per_second": "examples_per_second",
}

# Columns of the HParams tab; the best epoch's value first, since that epoch is what goes on.
_COLUMNS = (
    "best/accuracy",
    "validation/accuracy",
    "validation/in_scope_accuracy",
    "validation/oos_recall",
    "validation/loss",
    "examples_per_second",
)

_STATUS = {"success": _api.Status.STATUS_SUCCESS, "failure": _api.Status.STATUS_FAILURE}


def write_experiment(directory: Path, space: dict[str, Parameter]) -> None:
    """Write the searched space and the metrics to ``directory`` once, as the HParams tab's columns."""
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.glob("events.out.tfevents.*")):
        return
    experiment = _api.Experiment(
        time_created_secs=time.time(),
        hparam_infos=[_hparam(name, parameter) for name, parameter in space.items()],
        metric_infos=[_api.MetricInfo(name=_api.MetricName(tag=tag), display_name=tag) for tag in _COLUMNS],
    )
    writer = EventFileWriter(str(directory))
    _write_hparams(writer, metadata.EXPERIMENT_TAG, _plugin.HParamsPluginData(experiment=experiment))
    writer.close()


class TrialEvents:
    """Writes one trial's run: its parameters at once, scalars as they come, its end.

    Args:
        directory: The run's directory; runs are named after their trials.
        parameters: Searched and fixed arguments of the trial.
        first_step: Step that a resumed trial goes on from; scalars beyond it, of the interrupted try, are
            dropped.
    """

    def __init__(self, directory: Path, parameters: dict[str, Any], *, first_step: int = 0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(directory), flush_secs=10)
        if first_step:
            log = _event.SessionLog(status=_event.SessionLog.START)
            self._writer.add_event(_event.Event(wall_time=time.time(), step=first_step + 1, session_log=log))
        start = _plugin.SessionStartInfo(start_time_secs=time.time(), group_name=directory.name)
        for name, value in parameters.items():
            _set_value(start.hparams[name], value)
        _write_hparams(
            self._writer, metadata.SESSION_START_INFO_TAG, _plugin.HParamsPluginData(session_start_info=start)
        )
        self._writer.flush()

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Write ``{tag: value}`` at a step, and make it visible at once."""
        items = [_summary.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        event = _event.Event(wall_time=time.time(), step=step, summary=_summary.Summary(value=items))
        self._writer.add_event(event)
        self._writer.flush()

    def end(self, status: Literal["success", "failure"]) -> None:
        """Mark the trial as ended."""
        end = _plugin.SessionEndInfo(status=_STATUS[status], end_time_secs=time.time())
        _write_hparams(
            self._writer, metadata.SESSION_END_INFO_TAG, _plugin.HParamsPluginData(session_end_info=end)
        )

    def close(self) -> None:
        """Write what is buffered; without ``end`` the trial stays marked as running."""
        self._writer.close()


def mark_failed(directory: Path) -> None:
    """Mark a trial as failed that was lost before it could do so itself."""
    writer = EventFileWriter(str(directory))
    end = _plugin.SessionEndInfo(status=_STATUS["failure"], end_time_secs=time.time())
    _write_hparams(writer, metadata.SESSION_END_INFO_TAG, _plugin.HParamsPluginData(session_end_info=end))
    writer.close()


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


def _write_hparams(writer: EventFileWriter, tag: str, content: Any) -> None:
    value = _summary.Summary.Value(
        tag=tag, metadata=metadata.create_summary_metadata(content), tensor=metadata.NULL_TENSOR
    )
    writer.add_event(_event.Event(wall_time=time.time(), step=0, summary=_summary.Summary(value=[value])))
