"""What a running job tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class StageEvent:
    """A stage began, moved on, or ended; ``text`` is one line for a person. ``begun`` is the run itself."""

    stage: str
    state: Literal["begun", "started", "progress", "finished", "reused", "failed", "stopped"]
    text: str = ""
    seconds: float = 0.0


Listener = Callable[[StageEvent], None]
