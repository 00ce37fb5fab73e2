"""The values of the job's keys ``task``, the name of a registered task, and ``metric``."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from . import TASKS


class _Registered:
    """Pydantic metadata of a string that is the name of a registered task."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_after_validator_function(_known, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> Any:
        return {
            "type": "string",
            "enum": TASKS.names,
            "enumDescriptions": [task.description for task in TASKS],
        }


def _known(name: str) -> str:
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS.names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(TASKS.names)}"
        raise ValueError(f"not a task; {hint}")
    return name


TaskName = Annotated[str, _Registered()]


def metric_description() -> str:
    """Describe the key ``metric`` with the names that each task accepts."""
    names = dict.fromkeys(name for task in TASKS for name in task.metric_names)
    kinds = dict.fromkeys(f"{kind}.LABEL" for task in TASKS for kind in task.label_metrics)
    return (
        f"Metric by which epochs, trials and exported variants are selected: {', '.join([*names, *kinds])}. Default: "
        "the first of the task."
    )
