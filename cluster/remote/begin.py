"""Begin a Ray task: report that it has a place on a node before its libraries are loaded, which takes seconds."""

from __future__ import annotations

import socket
from typing import Any

from ...storage.store import Store


def begin(store: Store, progress: str, work: list[Any]) -> Any:
    """Record that a task has been placed, then load what it needs and run it.

    Args:
        store: The run store.
        progress: Key of the task's progress record.
        work: A reference to function, task and arguments, in a list so that Ray does not load them before this call.

    Returns:
        What the function returns.
    """
    import ray

    store.write_json(progress, {"text": f"loading libraries on {socket.gethostname()}"})
    function, task, arguments = ray.get(work[0])
    from .tasks import call

    return call(function, task, *arguments)
