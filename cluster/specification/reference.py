"""Generate `docs/reference.md`: every key of a job with its type, default and description."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from ...training.section_registry import NumberOrSections, OneSection
from .config import JobConfig
from .sections import SEED, section_of

_HEAD = """# Every key of a job

```bash
distiltune config job.yaml          # the keys that matter, with their values
distiltune config job.yaml --all    # every key, with its value
distiltune config --schema          # a JSON schema, for editors
distiltune config --reference       # this page
```

A dot stands for a level: `search.num_trials` is written `search: {num_trials: 20}` in a file and
`--set search.num_trials=20` on the command line. Paths are relative to the job's file, but `storage.path` and paths
given with `--set` are relative to the working directory. Every `seed` that is not given is the job's `seed`.
"""


def as_markdown() -> str:
    """Return the page as Markdown."""
    lines = [_HEAD, *_table("The job", "", [(JobConfig, _own_keys(JobConfig))])]
    for name, field in JobConfig.model_fields.items():
        lines += _section(name, field)
    return "\n".join(lines).rstrip("\n") + "\n"


def _section(path: str, field: FieldInfo) -> Iterator[str]:
    """Yield the tables of a key's section and of all sections below it."""
    kinds = next((each for each in field.metadata if isinstance(each, OneSection)), None)
    found: list[tuple[str, type[BaseModel]]] = []
    attribute = None
    listed = next((each for each in field.metadata if isinstance(each, NumberOrSections)), None)
    if listed is not None:
        own = listed.section.__annotations__  # its other keys are those of the enclosing section
        yield from _table(f"`{path}`, each of a list", f"{path}.N.", [(listed.section, list(own))])
    if kinds is not None:
        attribute = kinds.registry.attribute
        found = [(f"`{path}`, {attribute} `{name}`", kinds.registry[name]) for name in kinds.registry.names]
    elif (below := section_of(field)) is not None:
        found = [(f"`{path}`", below)]
    seen: set[tuple[str, str | None]] = set()  # with descriptions: kinds may define the same key differently
    for title, section in found:
        keys = {name: (name, each.description) for name, each in section.model_fields.items()}
        fresh = [name for name, key in keys.items() if key not in seen and not (seen and name == attribute)]
        own = [name for name in _own_keys(section) if name in fresh]
        yield from _table(title, f"{path}.", [(section, own)])
        for name in fresh:
            if name not in own or _is_list_of_sections(section.model_fields[name]):
                yield from _section(f"{path}.{name}", section.model_fields[name])
        seen |= set(keys.values())


def _own_keys(section: type[BaseModel]) -> list[str]:
    """Return the keys that hold a value rather than a section."""
    return [
        name
        for name, field in section.model_fields.items()
        if section_of(field) is None and not any(isinstance(each, OneSection) for each in field.metadata)
    ]


def _is_list_of_sections(field: FieldInfo) -> bool:
    return any(isinstance(each, NumberOrSections) for each in field.metadata)


def _table(title: str, prefix: str, sections: list[tuple[type[BaseModel], list[str]]]) -> Iterator[str]:
    for section, names in sections:
        yield f"\n## {title}\n"
        yield " ".join((section.__doc__ or "").split())
        if names:
            yield "\n| Key | Accepts | Default | |\n| --- | --- | --- | --- |"
        for name in names:
            field = section.model_fields[name]
            shown = (
                f"`{prefix}{name}`",
                _accepts(section, name),
                _default(f"{prefix}{name}", field),
                _cell(field.description or ""),
            )
            yield f"| {' | '.join(shown)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _accepts(section: type[BaseModel], name: str) -> str:
    """Describe the values that a key accepts, from its JSON schema."""
    field = section.model_fields[name]
    annotation: Any = field.rebuild_annotation()
    schema = TypeAdapter(annotation, config=section.model_config).json_schema()
    kinds = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    return _cell(" or ".join(dict.fromkeys(_kind(each, annotation) for each in kinds)))


def _kind(schema: dict[str, Any], annotation: Any) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(str(each) for each in schema.get("enum", [schema.get("const")]))
    if get_origin(annotation) is Literal:
        return ", ".join(str(each) for each in get_args(annotation))
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false"}
    kind = names.get(
        schema.get("type", ""), {"array": "list", "object": "mapping"}.get(schema.get("type", ""), "any")
    )
    lower = next((f"{sign} {schema[key]:g}" for key, sign in _LOWER.items() if key in schema), "")
    upper = next(
        (f"{sign} {schema[key]:g}" for key, sign in _UPPER.items() if schema.get(key, 1e9) < 1e4), ""
    )
    bounds = ", ".join(filter(None, (lower if schema.get("minimum", 0) > -1e9 else "", upper)))
    return f"{kind} {bounds}".strip() if kind.endswith("number") else kind


_LOWER = {"minimum": "≥", "exclusiveMinimum": ">"}
_UPPER = {"maximum": "≤", "exclusiveMaximum": "<"}


def _default(name: str, field: FieldInfo) -> str:
    if name.endswith(f".{SEED}"):
        return "`seed`"
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return ""
    plain = TypeAdapter(Any).dump_python(value, mode="json", warnings=False)
    text = json.dumps(plain, ensure_ascii=False) if not isinstance(plain, str) else plain
    return f"`{text}`" if len(text) <= 60 else "see the text"
