"""The progress of a long computation, and the callback that it is reported to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Progress:
    """Progress of a long computation at one moment.

    Attributes:
        message: One line for a person.
        values: The values that the message was made from, by name; JSON values. Where the end is known, ``done`` and
            ``total`` count the same units, whatever they are.
    """

    message: str
    values: Mapping[str, Any] = field(default_factory=dict)


ReportProgress = Callable[[Progress], None]
"""Called with each progress of a computation, in the process that runs it."""


def ignore(progress: Progress) -> None:
    """Report to nobody."""
