"""Dispatch of a stage's work as Ray tasks: send them, wait for their results, retry lost ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from ...errors import DistiltuneError, RunFailedError, first_line
from ..remote.tasks import Task, call
from ..session.ray_session import num_gpus, whole_node
from ..specification.config import JobConfig, TaskResources
from ..store.runs import Run

_TRIES = 3
_PATIENCE_S = (
    10.0  # a worker takes some seconds to start; a task that has not begun by then is reported as waiting
)


class Tell(Protocol):
    """Callback for a stage's progress: one line of text, and further values for the record."""

    def __call__(self, text: str, /, **more: Any) -> None:
        """Report progress."""


class Dispatcher:
    """Sends the tasks of one run."""

    def __init__(self, config: JobConfig, run: Run) -> None:
        self._config = config
        self._run = run
        # Polling a directory is cheap; polling an object store costs a request each time.
        self._period_s = 0.5 if run.store.directory is not None else 2.0

    def do(
        self, stage: str, function: Callable[..., Any], wanted: TaskResources, *arguments: Any, tell: Tell
    ) -> Any:
        """Send a task and wait for its result, as ``send`` and ``wait`` do."""
        return self.wait(stage, self.send(stage, function, wanted, *arguments), tell, wanted)

    def do_alone(
        self, stage: str, function: Callable[..., Any], wanted: TaskResources, *arguments: Any, tell: Tell
    ) -> Any:
        """Run a task as ``do`` does, but reserve all CPUs of a node for it; retry on another node if it is lost."""
        from ray.exceptions import RayTaskError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        for tried in range(1, _TRIES + 1):
            node, cpus = whole_node(wanted, lambda text: tell(text, waiting_for=text))
            strategy = NodeAffinitySchedulingStrategy(node, soft=False)
            whole = TaskResources(cpu=cpus, gpu=0, custom=wanted.custom)
            task = self.send(stage, function, whole, *arguments, scheduling_strategy=strategy)
            try:
                return self.wait(stage, task, tell, whole)
            except RunFailedError as error:
                lost = error.__cause__ is not None and not isinstance(error.__cause__, RayTaskError)
                if not lost or tried == _TRIES:
                    raise
                tell("its node was lost; once more on another")
        raise AssertionError("unreachable")

    def send(
        self,
        stage: str,
        function: Callable[..., Any],
        wanted: TaskResources,
        *arguments: Any,
        part: str = "",
        **options: Any,
    ) -> Any:
        """Send a function of ``tasks`` to a node with the resources that it needs; retry it if its worker is lost.

        ``part`` distinguishes it from other tasks of the same stage that run in parallel.
        """
        import ray

        gpus = min(1, num_gpus()) if wanted.gpu is None else wanted.gpu
        told = self._run.key(self._told(stage, part))
        self._run.store.delete(told)
        task = Task(
            store=self._run.store,
            config=self._config,
            log=self._run.stage_log(stage, part),
            told=told,
            num_threads=max(1, int(wanted.cpu)),
            use_gpu=gpus > 0,
        )
        remote = ray.remote(call).options(
            num_cpus=wanted.cpu, num_gpus=gpus, resources=wanted.custom, max_retries=2, **options
        )
        return remote.remote(function, task, *arguments)

    def wait(
        self, stage: str, sent: Any, tell: Tell, wanted: TaskResources | None = None, part: str = ""
    ) -> Any:
        """Return a task's result; report its progress meanwhile, and what it waits for before it has begun.

        Raises:
            DistiltuneError: The task raised it.
            RunFailedError: The task failed in another way.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        began = time.monotonic()
        while not ray.wait([sent], timeout=self._period_s)[0]:
            told = self._run.read(self._told(stage, part))
            if told is not None:
                tell(told["text"], waiting_for=None)
            elif wanted is not None and time.monotonic() - began > _PATIENCE_S:
                line = f"waiting for {describe(wanted)}"
                tell(line, waiting_for=describe(wanted))
        try:
            return ray.get(sent)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, DistiltuneError):
                raise cause from None
            raise RunFailedError(f"{type(cause).__name__}: {first_line(cause)}") from error
        except RayError as error:
            raise RunFailedError(f"a worker was lost: {first_line(error)}") from error

    def _told(self, stage: str, part: str = "") -> str:
        return f"stages/{'-'.join(filter(None, [stage, part]))}.told.json"


def describe(wanted: TaskResources) -> str:
    """Describe the resources of a task, such as ``2 CPUs and 1 GPU on one node``."""
    parts = [f"{wanted.cpu:g} CPU{'s' if wanted.cpu != 1 else ''}"]
    if wanted.gpu:
        parts.append(f"{wanted.gpu:g} GPU{'s' if wanted.gpu != 1 else ''}")
    parts += [f"{amount:g} {name}" for name, amount in wanted.custom.items()]
    return " and ".join(parts) + " on one node"
