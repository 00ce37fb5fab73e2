"""Output of `distiltune config`: the keys of a job as YAML, each below a comment that describes it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from .config import JobConfig
from .sections import chosen_keys, keys_of_kinds, section_of

_WIDTH = 110
# Keys that matter for every job, shown whether they were given or not.
_DECISIONS = (
    "seed",
    "task",
    "data.source",
    "search.num_trials",
    "search.space",
    "export.variants",
    "storage.path",
)


def as_yaml(config: JobConfig, *, all_keys: bool = False) -> str:
    """Return a job as a commented YAML file that reads back as the same job.

    Args:
        config: The job.
        all_keys: Whether to include every key; otherwise only those that differ from their defaults, those whose
            default depends on the kind of student, and those that matter for every job.
    """
    always = (*_DECISIONS, *keys_of_kinds(dict(config)))
    values = config.model_dump(mode="json") if all_keys else chosen_keys(config, config.seed, always)
    return "\n".join(_lines(JobConfig, values, "")) + "\n"


def _lines(section: type[BaseModel], values: Mapping[str, Any], indent: str) -> Iterator[str]:
    shown = [name for name in section.model_fields if name in values]
    for name in shown:
        value, field = values[name], section.model_fields[name]
        if not indent and name != shown[0]:
            yield ""
        comment = f"{indent}# "
        yield from textwrap.wrap(
            field.description or "", _WIDTH, initial_indent=comment, subsequent_indent=comment
        )
        below = section_of(field, value) if isinstance(value, dict) else None
        if below is None or not value:
            # None: the innermost lists and mappings stand on one line each.
            flow = None if isinstance(value, dict | list) else False
            text = yaml.safe_dump(
                {name: value},
                sort_keys=False,
                width=_WIDTH - len(indent),
                allow_unicode=True,
                default_flow_style=flow,
            )
            yield textwrap.indent(text.rstrip("\n"), indent)
        else:
            yield f"{indent}{name}:"
            yield from _lines(below, value, f"{indent}  ")
