"""Dispatch of a stage's work as Ray tasks: send them, wait for their results, retry lost ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ...errors import DistiltuneError, RunFailedError, first_line
from ...progress import Progress, ReportProgress
from ...search.trial.device import DeviceError
from ..remote.begin import begin
from ..remote.tasks import COUNTS, Task
from ..session.ray_session import num_gpus, whole_node
from ..specification.config import JobConfig
from ..specification.resources import TaskResources
from ..store.runs import Run

# Messages for the status line until a stage's task reports its own progress.
_DEFAULT_MESSAGES = {
    "teacher": "preparing the teacher",
    "logits": "labelling the texts with the teacher",
    "student": "making the student",
    "export": "exporting",
    "benchmark": "measuring the models",
    "gate": "timing models in turns",
}
_TRIES = 3
_PATIENCE_S = 10.0  # a worker may take this long to start; after that, its task is reported as waiting
_MOST_SHOWN = 8  # parallel tasks in a progress message


class Dispatcher:
    """Sends the tasks of one run."""

    def __init__(self, config: JobConfig, run: Run) -> None:
        self._config = config
        self._run = run
        # Polling a directory is cheap; polling an object store costs a request each time.
        self._period_s = 0.5 if run.store.directory is not None else 2.0

    def do(
        self,
        stage: str,
        function: Callable[..., Any],
        wanted: TaskResources,
        *arguments: Any,
        report: ReportProgress,
    ) -> Any:
        """Send a task and wait for its result, as ``send`` and ``wait`` do."""
        return self.wait(stage, self.send(stage, function, wanted, *arguments), report, wanted)

    def do_alone(
        self,
        stage: str,
        function: Callable[..., Any],
        wanted: TaskResources,
        *arguments: Any,
        report: ReportProgress,
        part: str = "",
    ) -> Any:
        """Run a task as ``do`` does, but reserve all CPUs of a node for it, and the GPUs that it requests.

        It is retried on another node if it is lost. ``part`` distinguishes it from other tasks of the same stage.
        """
        from ray.exceptions import RayTaskError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        for tried in range(1, _TRIES + 1):
            node, cpus = whole_node(wanted, report)
            strategy = NodeAffinitySchedulingStrategy(node, soft=False)
            whole = TaskResources(cpu=cpus, gpu=wanted.gpus(0), custom=wanted.custom)
            task = self.send(stage, function, whole, *arguments, part=part, scheduling_strategy=strategy)
            try:
                return self.wait(stage, task, report, whole, part)
            except RunFailedError as error:
                lost = error.__cause__ is not None and not isinstance(error.__cause__, RayTaskError)
                if not lost or tried == _TRIES:
                    raise
                report(Progress("its node was lost; retrying on another"))
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

        gpus = wanted.gpus(default=min(1, num_gpus(self._config.resources)))
        progress = self._run.key(self._progress(stage, part))
        self._run.store.delete(progress)
        task = Task(
            store=self._run.store,
            config=self._config,
            log=self._run.stage_log(stage, part),
            unfinished=self._run.key("/".join(filter(None, ["unfinished", stage, part]))),
            progress=progress,
            num_threads=max(1, int(wanted.cpu)),
            use_gpu=gpus > 0,
        )
        remote = _in_worker(begin, gpus).options(
            num_cpus=wanted.cpu, num_gpus=gpus, resources=wanted.custom, max_retries=2, **options
        )
        return remote.remote(self._run.store, progress, [ray.put((function, task, arguments))])

    def wait(
        self,
        stage: str,
        sent: Any,
        report: ReportProgress,
        wanted: TaskResources | None = None,
        part: str = "",
    ) -> Any:
        """Return a task's result; report its progress meanwhile, and what it waits for before it has begun.

        Raises:
            DistiltuneError: The task raised it.
            RunFailedError: The task failed in another way.
        """
        import ray

        began = time.monotonic()
        while not ray.wait([sent], timeout=self._period_s)[0]:
            progress = self.state(stage, wanted, time.monotonic() - began, part=part)
            if progress is not None:
                report(progress)
        return _result_of(sent)

    def do_parts(
        self,
        stage: str,
        function: Callable[..., Any],
        wanted: TaskResources,
        parts: Mapping[str, tuple[Any, ...]],
        *,
        name: str,
        report: ReportProgress,
    ) -> list[Any]:
        """Send a task for each of several equal parts, and wait for all; they run in parallel as resources allow.

        Each part has its own log, progress record and, while it trains, unfinished checkpoint.

        Args:
            stage: Stage of the tasks.
            function: As for ``send``.
            wanted: Resources of each task.
            parts: Arguments of each task, by its part.
            name: What a part is, for the status line: ``teacher``, as in ``teacher 2 of 4``.
            report: Called with the progress of all tasks; ``parts`` in its values has a line for each working task.

        Returns:
            The results in the order of the parts.

        Raises:
            DistiltuneError: A task raised it; the others are not waited for.
            RunFailedError: A task failed in another way.
        """
        import ray

        left = {part: self.send(stage, function, wanted, *each, part=part) for part, each in parts.items()}
        found: dict[str, Any] = {}
        began = time.monotonic()
        while left:
            ended = ray.wait(list(left.values()), timeout=self._period_s)[0]
            for part in [part for part, sent in left.items() if sent in ended]:
                found[part] = _result_of(left.pop(part))
            waited_s = time.monotonic() - began
            states = {
                f"{name} {number} of {len(parts)}": self.state(stage, wanted, waited_s, part=part)
                for number, part in enumerate(parts, 1)
                if part in left
            }
            progress = together(states, len(found))
            if progress is not None:
                report(progress)
        return [found[part] for part in parts]

    def state(
        self, stage: str, wanted: TaskResources | None, waited_s: float, *, part: str = ""
    ) -> Progress | None:
        """Return a task's progress, or the resources that it waits for; None while it may just be starting.

        Args:
            stage: Stage of the task.
            wanted: Resources that it needs; None if they are certainly available.
            waited_s: Seconds since it was sent.
            part: Which of the stage's parallel tasks.
        """
        record = self._run.read(self._progress(stage, part))
        if record is not None:
            message = record["text"] or " ".join(
                filter(None, [_DEFAULT_MESSAGES[stage], part if stage == "export" else ""])
            )
            counts = {name: record[name] for name in COUNTS if record.get(name) is not None}
            return Progress(message, {"waiting_for": None, **counts})
        if wanted is None or waited_s <= _PATIENCE_S:
            return None
        resources = describe(wanted)
        return Progress(f"waiting for {resources}", {"waiting_for": resources})

    def _progress(self, stage: str, part: str = "") -> str:
        return f"stages/{'-'.join(filter(None, [stage, part]))}.task-progress.json"


def _in_worker(function: Callable[..., Any], gpus: float) -> Any:
    """Return a function as a Ray task; with a GPU, its worker process exits afterwards, to release the GPU's memory.

    ``options(num_gpus=…)`` alone would keep the process. A task whose worker cannot use its GPU is retried on another.
    """
    import ray

    if not gpus:
        return ray.remote(function)
    options: dict[str, Any] = {"max_calls": 1, "retry_exceptions": [DeviceError]}
    return ray.remote(**options)(function)


def _result_of(sent: Any) -> Any:
    """Return the result of a task that has ended, or raise its error as ``Dispatcher.wait`` does."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(sent)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, DistiltuneError):
            raise cause from None
        raise RunFailedError(f"{type(cause).__name__}: {first_line(cause)}") from error
    except RayError as error:
        raise RunFailedError(f"a worker was lost: {first_line(error)}") from error


def together(states: Mapping[str, Progress | None], num_ended: int) -> Progress | None:
    """Combine the progress of several equal tasks into one; None if none of them has any.

    Args:
        states: Progress of each task that has not ended, by its title; None where it may just be starting.
        num_ended: Number of tasks that have ended.

    Returns:
        The messages of the working tasks, or, if none works, of the first one that waits for resources. ``done`` and
        ``total`` count over all tasks, including those that have ended.
    """
    known = {title: each for title, each in states.items() if each is not None}
    working = {title: each for title, each in known.items() if not each.values.get("waiting_for")}
    shown = list((working or dict(list(known.items())[:1])).items())
    if not shown:
        return None
    lines = [": ".join(filter(None, [title, each.message])) for title, each in shown[:_MOST_SHOWN]]
    lines += [f"{len(shown) - _MOST_SHOWN} more"] if len(shown) > _MOST_SHOWN else []
    values = {**shown[0][1].values, "parts": lines}
    counts = [each.values for each in working.values() if each.values.get("total")]
    if counts:
        total = max(each["total"] for each in counts)
        done = sum(round(each["done"] / each["total"] * total) for each in counts)
        values |= {"done": num_ended * total + done, "total": (num_ended + len(states)) * total}
    return Progress("; ".join(lines), values)


def describe(wanted: TaskResources) -> str:
    """Describe the resources of a task, such as ``2 CPUs and 1 GPU on one node``."""
    parts = [f"{wanted.cpu:g} CPU{'s' if wanted.cpu != 1 else ''}"]
    if wanted.gpu:
        parts.append(f"{wanted.gpu:g} GPU{'s' if wanted.gpu != 1 else ''}")
    parts += [f"{amount:g} {name}" for name, amount in wanted.custom.items()]
    return " and ".join(parts) + " on one node"
