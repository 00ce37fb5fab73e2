"""Bad values for every key of the specification, made from its schema: of another type, out of bounds, not finite."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from distiltune.cluster.specification.config import JobConfig
from distiltune.search.config import Budget
from distiltune.training.teacher.config import TeacherConfig

from .case import Case
from .schema import Field, Model, fields, key

# Values that are valid for a key although they are bad for its type, each with the reason.
GOOD_AFTER_ALL: dict[tuple[Model, str], set[str]] = {
    (Budget, "target_value"): {"huge"},  # a metric has no upper bound
    (TeacherConfig, "logits"): {"word"},  # the path of a file
}
COMMANDS = (
    *["config"] * 9,
    "run",
    *["config"] * 9,
    "train",
    *["config"] * 9,
    "plan",
    *["config"] * 9,
    "submit",
)
LONG = "y" * 5000
# A fault in this section is found by a check of the whole search, which needs the libraries of training.
SEARCH = key(JobConfig, "search")


def _numbers(field: Field) -> Iterator[tuple[str, Any]]:
    schema = field.schema
    yield "word", "many"
    yield "digits-in-quotes", "8"
    yield "truth", True
    yield "list", [1]
    yield "not-a-number", math.nan
    yield "infinite", math.inf
    yield "huge", 10**30 if field.kind == "integer" else 1e308
    if field.kind == "integer":
        yield "fraction", 2.5
    if "minimum" in schema:
        yield "below", schema["minimum"] - max(1, abs(schema["minimum"]))
    elif "exclusiveMinimum" in schema:
        yield "below", schema["exclusiveMinimum"]
    elif field.name == "seed":
        yield "below", -1
    if "maximum" in schema:
        yield "above", schema["maximum"] + max(1, abs(schema["maximum"]))
    elif "exclusiveMaximum" in schema:
        yield "above", schema["exclusiveMaximum"]


def _sections(field: Field) -> Iterator[tuple[str, Any]]:
    yield "list", [1, 2]
    yield "word", "everything"
    yield "unknown-key", {"no_such_key": 1}


BY_KIND: dict[str, Callable[[Field], Iterator[tuple[str, Any]]]] = {
    "integer": _numbers,
    "number": _numbers,
    "boolean": lambda _: iter([("word", "perhaps"), ("number", 7), ("list", [True])]),
    "choice": lambda _: iter([("word", "no_such_choice"), ("long", LONG), ("number", 99), ("list", ["x"])]),
    "string": lambda _: iter([("list", ["x"]), ("number", 3.5), ("section", {"x": 1})]),
    "array": lambda _: iter([("word", "everything"), ("number", 3), ("section", {"x": 1})]),
    "object": lambda _: iter([("word", "everything"), ("number", 3), ("list", [1])]),
    "section": _sections,
}


def _shown(value: Any) -> tuple[str, ...]:
    """Return how an error may show a value: as in Python or YAML, and only the beginning of a long one."""
    if isinstance(value, bool):
        return str(value), str(value).lower()
    if isinstance(value, float):
        return tuple({f"{value:g}", repr(value)})
    if isinstance(value, str):
        return (value[:20],)
    if isinstance(value, list):
        return str(value), json.dumps(value), "list"
    return (str(value)[:20],)


def _write(specification: dict[str, Any]) -> None:
    Path("job.yaml").write_text(yaml.safe_dump(specification), encoding="utf-8")


def _cases() -> Iterator[Case]:
    turn, seen = itertools.cycle(COMMANDS), set()
    for field in fields():
        if field.path in seen:  # a key that several kinds of a section have
            continue
        seen.add(field.path)
        for how, value in BY_KIND.get(field.kind, lambda _: iter(()))(field):
            if how in GOOD_AFTER_ALL.get((field.model, field.name), ()):
                continue
            shows = () if isinstance(value, dict) else (_shown(value),)
            named = f"{field.path}.no_such_key" if how == "unknown-key" else field.path
            yield Case(
                f"value/{field.path}/{how}",
                (next(turn), "job.yaml"),
                names=(named, *shows),
                damage=partial(_write, field.specification(value)),
                # The error may also have the fault of a missing required key.
                most=600 if how == "unknown-key" else 400,
                heavy=field.path.startswith(SEARCH),
            )


CASES: tuple[Case, ...] = tuple(_cases())
