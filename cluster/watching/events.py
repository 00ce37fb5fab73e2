"""Events that a running job sends to its listener."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class StageEvent:
    """Start, progress or end of a stage, or, if ``begun``, the start of the run; ``text`` is one line for the user.

    ``values`` are those of the ``Progress``: ``done`` and ``total``, if known, and ``parts`` of parallel tasks.
    """

    stage: str
    state: Literal["begun", "started", "progress", "finished", "reused", "failed", "stopped"]
    text: str = ""
    seconds: float = 0.0
    values: Mapping[str, Any] = field(default_factory=dict)


Listener = Callable[[StageEvent], None]
