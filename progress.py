"""The progress of a long computation, and the callback that it is reported to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Progress:
    """Progress of a long computation at one moment.

    Attributes:
        message: One line for the user.
        values: JSON values of the message, by name. If the total is known, ``done`` and ``total`` are among them,
            counted in the same units.
    """

    message: str
    values: Mapping[str, Any] = field(default_factory=dict)


ReportProgress = Callable[[Progress], None]
"""Called with each progress report of a computation, in the process that runs it."""


def ignore(progress: Progress) -> None:
    """Discard the progress."""
