"""Start a Ray task: report that it has been placed on a node before loading its libraries, which takes seconds."""

from __future__ import annotations

import socket
from typing import Any

from ...storage.store import Store


def begin(store: Store, progress: str, work: list[Any]) -> Any:
    """Record that a task has been placed on a node, then load its libraries and arguments, and run it.

    Args:
        store: The run store.
        progress: Key of the task's progress record.
        work: A reference to function, task and arguments, in a list so that Ray does not load them before this call.

    Returns:
        The return value of the function.
    """
    import ray

    store.write_json(progress, {"text": f"loading libraries on {socket.gethostname()}"})
    function, task, arguments = ray.get(work[0])
    from .tasks import call

    return call(function, task, *arguments)
