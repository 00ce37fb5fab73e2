"""Markdown from templates: what comes from data is escaped, so that it can neither break a table nor become a link."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

NONE = "–"  # noqa: RUF001
_LINE_BREAKS = re.compile(r"[\r\n]+")
# Escaped: what opens code, emphasis, a link, HTML, mathematics or an entity, or ends a table's cell; what makes a bare
# address a link. An underscore within a word opens nothing.
_SPECIAL = re.compile(r"[\\`*\[<|~$&@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=[wW]{3})\.")


class Markdown(str):
    """Text that is Markdown already and must not be escaped."""

    __slots__ = ()


def escape(value: object) -> Markdown:
    """Return a value as Markdown that shows its text on one line; :class:`Markdown` as it is.

    It must not stand at the beginning of a line, where ``-`` or ``#`` have a meaning.
    """
    if isinstance(value, Markdown):
        return value
    return Markdown(_SPECIAL.sub(r"\\\g<0>", _on_one_line(value)))


def code(value: object) -> Markdown:
    """Return a code span that shows a value, whatever backticks are in it; not for cells of a table."""
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
    """Return a float with that many significant digits, and anything else as it is."""
    return f"{value:.{digits}g}" if isinstance(value, float) else value


def fixed(value: float | None, digits: int) -> str:
    """Return a number with that many decimals, and a dash for None."""
    return NONE if value is None else f"{value:.{digits}f}"


def table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, left: Collection[int] = (0,)
) -> Markdown:
    """Return a table.

    Args:
        headers: Of the columns.
        rows: One cell for each column; escaped.
        left: Columns that are aligned to the left; the others hold numbers.
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

    Each ``{{ value }}`` is escaped by :func:`escape`, unless a filter made :class:`Markdown` of it.

    Args:
        module: Dotted name; the template is in the folder ``templates`` beside it.
        name: Of the template.
        values: Its variables; one that is not there is an error.
        filters: More of them, beside those of Jinja and ``number``, ``fixed``, ``code``, ``bold`` and ``table``.
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
