"""Report several teachers and their mixture: a table, and lines that state the gain of the mixture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...training.tasks import title_of
from ..markdown import Markdown, fixed, table

_SCOPE = {"in_scope_accuracy": "in-scope", "oos_recall": "oos recall"}
_SPLITS = ("validation", "test")


def teachers_table(found: Mapping[str, Any]) -> Markdown:
    """Return a table of the teachers and their mixture: ``report["teachers"]``.

    The last columns are the metrics on the test split of the mixture without that teacher.
    """
    metric, scope = found["metric"], _scope(found)
    headers = ["teacher", "weight", "temperature", *(f"{split} {title_of(metric)}" for split in _SPLITS)]
    headers += [f"test {_SCOPE[name]}" for name in scope]
    headers += [f"{name} without it" for name in ("mixture", *(_SCOPE[each] for each in scope))]
    rows = [
        [
            each["teacher"],
            fixed(each["weight"], 2),
            fixed(each["temperature"], 2),
            *_metrics(each, metric, scope),
            *_of_test(each["others"], [metric, *scope]),
        ]
        for each in found["members"]
    ]
    rows.append(["mixture", "", "", *_metrics(found["mixture"], metric, scope), *[""] * (1 + len(scope))])
    return table(headers, rows)


def lacking_in_words(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each teacher that lacks texts of the validation or the test split."""
    for each in found["members"]:
        lacking = [f"{num:,} of {split}" for split, num in each["missing"].items() if num]
        if lacking:
            yield f"{each['teacher']} lacks {' and '.join(lacking)}; it is measured on the others"


def gain_in_words(found: Mapping[str, Any]) -> str:
    """State how much better the mixture is on the test split than the teacher that is best on the validation split."""
    metric, mixture, best = found["metric"], found["mixture"]["test"], found["best"]
    is_whole = best is not None and not any(found["members"][best]["missing"].values())
    alone = found["members"][best]["test"] if is_whole else None
    values = [None if each is None else each[metric] for each in (mixture, alone)]
    if values[0] is None or values[1] is None or best is None:
        return "The gain of the mixture is not known: its teachers lack texts of the validation or the test split"
    title, name = title_of(metric), found["members"][best]["teacher"]
    return (
        f"On the test split the mixture has {title} {values[0]:.4f}, and its best teacher on the validation split "
        f"({name}) {values[1]:.4f}: a difference of {values[0] - values[1]:+.4f}"
    )


def teacher_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each teacher, and one for the mixture, for the terminal."""
    for each in found["members"]:
        yield f"teacher {each['teacher']}: weight {each['weight']:.2f}, {_reached(each, found['metric'])}"
    yield f"mixture of {len(found['members'])} teachers: {_reached(found['mixture'], found['metric'])}"


def _reached(measured: Mapping[str, Any], metric: str) -> str:
    """Return the metric on both splits, in words."""
    values = [None if measured[split] is None else measured[split][metric] for split in _SPLITS]
    parts = [f"{split} {fixed(value, 4)}" for split, value in zip(_SPLITS, values, strict=True)]
    return f"{title_of(metric)} {', '.join(parts)}"


def _scope(found: Mapping[str, Any]) -> list[str]:
    """Return the names of the in-scope and out-of-scope metrics to show; none without out-of-scope texts on test."""
    rows = [*found["members"], found["mixture"]]
    has_any = any((row["test"] or {}).get("oos_recall") is not None for row in rows)
    return [name for name in _SCOPE if has_any and name != found["metric"]]


def _metrics(measured: Mapping[str, Any], metric: str, scope: list[str]) -> list[str]:
    validation = (measured["validation"] or {}).get(metric)
    return [fixed(validation, 4), *_of_test(measured, [metric, *scope])]


def _of_test(measured: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [fixed((measured["test"] or {}).get(name), 4) for name in names]
