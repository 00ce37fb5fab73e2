"""The name of a registered baseline as a value of the specification."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from . import BASELINES


class _Registered:
    """Pydantic annotation of a string: the name of a registered baseline."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_after_validator_function(_known, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> Any:
        return {
            "type": "string",
            "enum": BASELINES.names,
            "enumDescriptions": [each.description for each in BASELINES],
        }


def _known(name: str) -> str:
    if name not in BASELINES:
        near = difflib.get_close_matches(name, BASELINES.names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(BASELINES.names)}"
        raise ValueError(f"not a baseline; {hint}")
    return name


BaselineName = Annotated[str, _Registered()]
