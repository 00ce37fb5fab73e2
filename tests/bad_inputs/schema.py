"""Keys and options looked up in the specification's schema and the command line, so that renaming one edits no case."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

import typer
from pydantic import BaseModel

from distiltune.cluster.app import app
from distiltune.cluster.specification.config import JobConfig
from distiltune.training.data.added_texts_config import UnlabelledConfig
from distiltune.training.section_registry import NumberOrSections, OneSection, SectionRegistry

Model = type[BaseModel]

# Sections that are valid only with a key that is not marked as required -> that key, with a value.
ALSO_NEEDED: dict[Model, dict[str, Any]] = {UnlabelledConfig: {"path": "more.txt"}}


@dataclasses.dataclass(frozen=True)
class Field:
    """A key of the specification.

    Attributes:
        model: Class of the section.
        name: Name of the key in the section.
        section: Path of the section, as keys; ``0`` is the first entry of a list.
        schema: JSON schema of the value, without ``null``.
        selects: For one of several sections, the key that selects it, with its value.
    """

    model: Model
    name: str
    section: tuple[str | int, ...]
    schema: dict[str, Any] = dataclasses.field(compare=False)
    selects: dict[str, str] = dataclasses.field(compare=False, default_factory=dict)

    @property
    def path(self) -> str:
        """Dotted path of the key, as in errors."""
        return ".".join(map(str, (*self.section, self.name)))

    @property
    def kind(self) -> str:
        """Kind of the value, a key of ``values.BY_KIND``: a JSON type, ``choice`` or ``section``."""
        if "enum" in self.schema or "const" in self.schema:
            return "choice"
        if "$ref" in self.schema:
            return "section"
        return self.schema.get("type", "any")

    def specification(self, value: Any) -> dict[str, Any]:
        """Return a specification in which this key has the value, with valid values for all other required keys."""
        job: dict[str, Any] = {}
        at: Any = job
        for place, model in _sections_on(self.section):
            key = place[-1]
            made = _least(model)
            if isinstance(key, int):
                at.append(made)
            elif _is_list(place):
                at[key] = made = []
            else:
                at[key] = made
            at = made
        at |= self.selects
        at[self.name] = value
        return job


def field(model: Model, name: str) -> Field:
    """Return the first key ``name`` of a section's class, or of a class derived from it.

    Raises:
        LookupError: The schema no longer has the key.
    """
    for each in fields():
        if issubclass(each.model, model) and each.name == name:
            return each
    raise LookupError(f"{model.__name__} has no key {name!r}, or is not part of the specification")


def key(model: Model, name: str) -> str:
    """Return the dotted path of ``field(model, name)``."""
    return field(model, name).path


@cache
def fields() -> tuple[Field, ...]:
    """Return every key of every section, in the order of the specification."""
    return tuple(_walk(JobConfig, ()))


@cache
def option(command: str, parameter: str) -> str:
    """Return the name of a command's parameter on the command line: ``option("predict", "directory")`` is DIR.

    Raises:
        LookupError: The command no longer has the parameter.
    """
    for name, found in commands().items():
        if name == command:
            for each in found.params:
                if each.name == parameter:
                    return label(each)
    raise LookupError(f"no command {command!r} with a parameter {parameter!r}")


def label(parameter: Any) -> str:
    """Return an option's long name, or an argument's metavar without brackets."""
    if is_option(parameter):
        return max(parameter.opts, key=len)
    return (parameter.metavar or parameter.name.upper()).strip("[].")


def is_option(parameter: Any) -> bool:
    """Return whether a parameter is an option, whose name begins with a dash."""
    return parameter.opts[0].startswith("-")


@cache
def commands() -> dict[str, Any]:
    """Return every command by its words, such as ``cluster up``."""

    def walk(group: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, each in group.commands.items():
            if hasattr(each, "commands"):
                yield from walk(each, (*words, name))
            else:
                yield " ".join((*words, name)), each

    return dict(walk(typer.main.get_command(app), ()))


def _walk(model: Model, section: tuple[str | int, ...]) -> Iterator[Field]:
    properties = _properties(model)
    for name, info in model.model_fields.items():
        yield Field(model, name, section, _without_null(properties[name]))
        below, is_list = _model_in(info.annotation)
        listed = next((each.section for each in info.metadata if isinstance(each, NumberOrSections)), None)
        if listed is not None:  # its other keys are those of the enclosing section
            for own in sorted(listed.model_fields.keys() - model.model_fields.keys()):
                schema = _without_null(_properties(listed)[own])
                yield Field(listed, own, (*section, name, 0), schema)
        elif below is not None:
            yield from _walk(below, (*section, name, 0) if is_list else (*section, name))
        for kinds in (each for each in info.metadata if isinstance(each, OneSection)):
            assert below is not None
            yield from _own_keys(kinds.registry, below, (*section, name))


def _own_keys(registry: SectionRegistry, base: Model, section: tuple[str | int, ...]) -> Iterator[Field]:
    """Yield the keys of a registry's sections that their base class lacks, with those of their subsections."""
    for name in registry.names:
        model = registry[name]
        for own in sorted(model.model_fields.keys() - base.model_fields.keys() - {registry.attribute}):
            schema = _without_null(_properties(model)[own])
            yield Field(model, own, section, schema, {registry.attribute: name})
            below, _ = _model_in(model.model_fields[own].annotation)
            if below is not None:
                yield from _walk(below, (*section, own))


@cache
def _properties(model: Model) -> dict[str, Any]:
    return model.model_json_schema()["properties"]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a value without null; of a number or a word (``auto``) or sections, that of the number."""
    choices = [each for each in schema.get("anyOf", ()) if each != {"type": "null"} and "const" not in each]
    choices = [each for each in choices if "$ref" not in each.get("items", {})] or choices
    return choices[0] if len(choices) == 1 else schema


def _model_in(annotation: Any) -> tuple[Model | None, bool]:
    """Return the section in an annotation, and whether it is in a list; none for dictionaries and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    arguments = [each for each in get_args(annotation) if each is not type(None)]
    if getattr(annotation, "__origin__", None) is dict or (
        len(arguments) > 1 and _is_union_of_models(arguments)
    ):
        return None, False
    found = [each for each in map(_model_in, arguments) if each[0] is not None]
    is_list = getattr(annotation, "__origin__", None) is list
    return (found[0][0], is_list or found[0][1]) if found else (None, False)


def _is_union_of_models(arguments: list[Any]) -> bool:
    return sum(_model_in(each)[0] is not None for each in arguments) > 1


def _sections_on(section: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Model]]:
    """Yield the sections on the path to one, each with its path and class; a list precedes its first entry."""
    model: Model = JobConfig
    kinds: list[Model] = []
    for number, part in enumerate(section, 1):
        if isinstance(part, str):
            info = next(each.model_fields[part] for each in (model, *kinds) if part in each.model_fields)
            found, _ = _model_in(info.annotation)
            assert found is not None
            model = found
            kinds = [kind for each in info.metadata if isinstance(each, OneSection) for kind in each.registry]
        yield section[:number], model


@cache
def _is_list(place: tuple[str | int, ...]) -> bool:
    return any(each.section[: len(place) + 1] == (*place, 0) for each in fields())


def _least(model: Model) -> dict[str, Any]:
    """Return the required keys of a section, with valid values."""
    made = copy.deepcopy(ALSO_NEEDED.get(model, {}))
    properties = _properties(model)
    for name, info in model.model_fields.items():
        if info.is_required():
            made[name] = _example(_without_null(properties[name]))
    return made


def _example(schema: dict[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "array":
        return [_example(schema.get("items", {}))]
    lowest = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    return {"integer": lowest, "number": lowest, "string": "x"}.get(str(kind), 1)
