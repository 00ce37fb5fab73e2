"""Render Markdown from templates; values are escaped, so that they cannot break a table or become a link."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

NONE = "–"  # noqa: RUF001
_LINE_BREAKS = re.compile(r"[\r\n]+")
# Characters to escape: those that open code, emphasis, a link, HTML, mathematics or an entity, that end a
# table cell, or that turn a bare address into a link. An underscore within a word opens nothing.
_SPECIAL = re.compile(r"[\\`*\[<|~$&@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=[wW]{3})\.")


class Markdown(str):
    """Text that is already Markdown and must not be escaped."""

    __slots__ = ()


def escape(value: object) -> Markdown:
    """Escape a value to Markdown that shows its text on one line; return :class:`Markdown` unchanged.

    Do not put the result at the beginning of a line, where ``-`` and ``#`` are syntax.
    """
    if isinstance(value, Markdown):
        return value
    return Markdown(_SPECIAL.sub(r"\\\g<0>", _on_one_line(value)))


def code(value: object) -> Markdown:
    """Return a value as a code span, whatever backticks it contains; not for table cells."""
    text = _on_one_line(value)
    if not text.strip():
        text = f'"{text}"'  # a code span cannot be empty
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if {text[0], text[-1]} & {"`", " "} else ""
    return Markdown(f"{fence}{space}{text}{space}{fence}")


def bold(value: object) -> Markdown:
    """Return a value in bold."""
    return Markdown(f"**{escape(value)}**")


def number(value: Any, digits: int = 4) -> Any:
    """Format a float with ``digits`` significant digits; return anything else unchanged."""
    return f"{value:.{digits}g}" if isinstance(value, float) else value


def fixed(value: float | None, digits: int) -> str:
    """Format a number with ``digits`` decimals, and None as a dash."""
    return NONE if value is None else f"{value:.{digits}f}"


def times_faster(found: Mapping[str, Any]) -> str:
    """Return ``faster`` with its interval, such as ``20.8x (20.1 to 21.5)``; without one, such as ``20.8x``."""
    times, low, high = (found.get(name) for name in ("faster", "low", "high"))
    digits = 1 if (times or 0.0) >= 10 else 2
    limits = "" if low is None or high is None else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{times:.{digits if limits else 1}f}x{limits}"


def table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, left: Collection[int] = (0,)
) -> Markdown:
    """Return a Markdown table.

    Args:
        headers: Column headers.
        rows: One cell for each column; escaped.
        left: Indices of left-aligned columns; the others are right-aligned.
    """
    rule = ["---" if i in left else "---:" for i in range(len(headers))]
    lines = [[escape(header) for header in headers], rule, *([escape(cell) for cell in row] for row in rows)]
    return Markdown("".join(f"| {' | '.join(cells)} |\n" for cells in lines))


def render(
    module: str,
    name: str,
    values: Mapping[str, Any],
    filters: Mapping[str, Callable[..., Any]] | None = None,
) -> str:
    """Render a template as Markdown.

    Each ``{{ value }}`` is escaped by :func:`escape`, unless a filter returned it as :class:`Markdown`.

    Args:
        module: Dotted module name; the template is in the folder ``templates`` beside that module.
        name: File name of the template.
        values: Template variables; a missing one is an error.
        filters: Filters in addition to Jinja's and ``number``, ``fixed``, ``code``, ``bold`` and ``table``.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(module.rpartition(".")[0]),
        undefined=StrictUndefined,
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    own = {"number": number, "fixed": fixed, "code": code, "bold": bold, "table": table}
    environment.filters.update(own | dict(filters or {}))
    return environment.get_template(name).render(values)


def _on_one_line(value: object) -> str:
    return _LINE_BREAKS.sub(" ", str(value)).replace("\0", "\N{REPLACEMENT CHARACTER}")
