"""Descriptions of teachers and their mixture, for the summaries of stages and the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..tasks import title_of

KINDS: Final = {
    "checkpoint": "as given",
    "fine_tune": "fine-tuned",
    "scratch": "trained from scratch",
    "logits": "logits of a file",
}
"""Kind of a teacher -> how it was made."""


def describe_teachers(records: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Describe the teachers of a job by their records.

    Args:
        records: What ``prepare_teacher`` returns for each.
        metric: The job's metric.
    """
    reached = f"validation {title_of(metric)} {_range([each[f'validation_{metric}'] for each in records])}"
    if len(records) > 1:
        kinds = Counter(KINDS[each["kind"]] for each in records)
        how = ", ".join(f"{num} {kind}" for kind, num in kinds.items())
        how = f"each {next(iter(kinds))}" if len(kinds) == 1 else how
        return f"{len(records)} teachers, {how}, {reached}"
    record = records[0]
    lacking = [f"{num:,} of {kind}" for kind, num in record.get("missing", {}).items() if num]
    text = f"{KINDS[record['kind']]}, {reached}"
    return f"{text}; without a row: {', '.join(lacking)}" if lacking else text


def describe_mixture(found: Mapping[str, Any]) -> str:
    """Describe a mixture, as measured by ``measure_mixture``: its weights and its metric on the validation split."""
    members, metric, measured = found["members"], found["metric"], found["mixture"]["validation"]
    weights = [each["weight"] for each in members]
    text = f"mean of {len(members)} teachers"
    if len(set(weights)) > 1:
        how = "fitted " if found["weights"] == "fit" else ""
        text += f" with {how}weights {', '.join(f'{weight:.2f}' for weight in weights)}"
    value = None if measured is None else measured[metric]
    return f"{text}: validation {title_of(metric)} {_range([value])}"


def _range(values: Sequence[float | None]) -> str:
    """Format a value, or the smallest and the largest of several; unknown ones are left out."""
    known = [value for value in values if value is not None]
    if not known:
        return "not known"
    return f"{known[0]:.4f}" if len(values) == 1 else f"{min(known):.4f} to {max(known):.4f}"
