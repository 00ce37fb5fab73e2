"""Events that a running job sends to its listener."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class StageEvent:
    """Start, progress or end of a stage; ``text`` is one line for the user. ``begun`` concerns the whole run."""

    stage: str
    state: Literal["begun", "started", "progress", "finished", "reused", "failed", "stopped"]
    text: str = ""
    seconds: float = 0.0


Listener = Callable[[StageEvent], None]
