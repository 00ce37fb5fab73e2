"""The additional processes of a trial: actors in its placement group, monitored while they train."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch
from ray import tune
from ray.exceptions import RayError, RayTaskError
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ...storage.temporary import TemporaryDirectory
from .device import own_device
from .inputs import TrialInputs
from .process_group import GroupMember, TCPStore, abort, all_arrived, arrive, joined, listen

_START_WITHIN_S = 300.0
_DONE_WITHIN_S = 10.0
_CLEARED_WITHIN_S = 3.0
_NOTICED_WITHIN_S = 5.0  # connections break at once, and Ray reports the reason a moment later
_STUCK_AFTER_S = 60.0


class RankLostError(RuntimeError):
    """A process of a trial was lost, so the trial is retried."""


@dataclass(frozen=True)
class SharedInputs:
    """Inputs in the object store, where each process of a trial reads them without a copy of its own.

    Attributes:
        reference: Reference to the ``TrialInputs``; wrapped, since Ray would replace a bare reference with its value.
    """

    reference: ray.ObjectRef

    @classmethod
    def put(cls, inputs: TrialInputs) -> SharedInputs:
        """Put the inputs into the object store, where they are kept as long as the result is referenced."""
        return cls(ray.put(inputs))


def opened(inputs: TrialInputs | SharedInputs) -> TrialInputs:
    """Return the inputs themselves, from the object store if needed."""
    return ray.get(inputs.reference) if isinstance(inputs, SharedInputs) else inputs


@contextmanager
def data_parallel(
    num_processes: int,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    *,
    use_gpu: bool,
    num_threads: int,
    log: Callable[[str], None],
) -> Iterator[None]:
    """Start additional processes that run ``function``, and join them, as rank 0, while the block runs.

    Each is an actor in one of the bundles of the trial's placement group. They end with the block, however it
    ends, and with this process. Inside the block, the ``Trainer`` of each process shares its steps with the others.

    Args:
        num_processes: Total number of processes; with 1, nothing is done.
        function: Called in every additional process with ``arguments`` and a folder of its own.
        arguments: Arguments of ``function``.
        use_gpu: Whether each process has a GPU.
        num_threads: Threads of each process.
        log: Function that adds a line to the trial's log.

    Raises:
        RankLostError: A process was lost, or failed in a way that a retry may fix.
        Exception: Any other exception that made a process fail.
    """
    if num_processes == 1:
        yield
        return
    store, host = listen()
    member = GroupMember(0, num_processes, host, store.port, use_gpu, num_threads)
    others = _Others(member, function, arguments, log)
    try:
        with others.explaining():
            others.wait_until_arrived(store)
            with joined(member, store):
                try:
                    with others.explaining():
                        yield
                        others.wait_until_done()
                finally:
                    others.end()  # before this process leaves the group, so that it does not wait for them
    finally:
        others.end()


class _Others:
    """The additional processes, managed by rank 0."""

    def __init__(
        self,
        member: GroupMember,
        function: Callable[..., None],
        arguments: tuple[Any, ...],
        log: Callable[[str], None],
    ) -> None:
        self._member = member
        self._log = log
        self._failure: Exception | None = None
        self._failed, self._ending, self._ended = threading.Event(), threading.Event(), threading.Event()
        bundles = tune.get_context().get_trial_resources().bundles
        self._actors = [_actor(rank, bundles[rank]) for rank in range(1, member.num_processes)]
        self._running: dict[ray.ObjectRef, int] = {
            actor.train.remote(replace(member, rank=rank), function, arguments): rank
            for rank, actor in enumerate(self._actors, start=1)
        }
        self._watcher = threading.Thread(target=self._watch, name="ranks", daemon=True)
        self._watcher.start()

    def wait_until_arrived(self, store: TCPStore) -> None:
        """Wait for every process to register in the store."""
        deadline = time.monotonic() + _START_WITHIN_S
        while not all_arrived(store, self._member.num_processes):
            if self._failed.wait(0.02):
                assert self._failure is not None
                raise self._failure
            if time.monotonic() > deadline:
                raise RankLostError(
                    f"the {self._member.num_processes} processes of the trial did not start within "
                    f"{_START_WITHIN_S:g} s"
                )

    def wait_until_done(self) -> None:
        """Give every process time to finish; rank 0 already has all results."""
        ray.wait(list(self._running), num_returns=len(self._running), timeout=_DONE_WITHIN_S)

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Replace the error of a broken connection inside the block with the reason why the other process failed."""
        try:
            yield
        except RuntimeError as error:
            if not self._ending.is_set():
                self._failed.wait(_NOTICED_WITHIN_S)
            if self._failure is None or self._failure is error:
                raise
            raise self._failure from error

    def end(self) -> None:
        """End every process; a second call does nothing."""
        if self._ending.is_set():
            return
        self._ending.set()
        self._end_actors()
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        pending = dict(self._running)
        while pending and not self._ending.is_set():
            done, _ = ray.wait(list(pending), timeout=0.5)
            for each in done:
                rank = pending.pop(each)
                try:
                    ray.get(each)
                except RayError as error:
                    if not self._ending.is_set():
                        self._fail(rank, error)
                    return

    def _fail(self, rank: int, error: RayError) -> None:
        """Record the failure, and unblock rank 0, which may be waiting for the failed process."""
        self._failure = _explained(rank, self._member.num_processes, error)
        self._failed.set()
        self._log(f"process {rank} of {self._member.num_processes} failed: {str(error).strip()}")
        self._end_actors()
        if self._member.use_gpu:
            abort()
        if not self._ended.wait(_STUCK_AFTER_S):
            # There is no other way to end a blocked call. Tune sees a lost worker, and retries the trial.
            os._exit(1)

    def _end_actors(self) -> None:
        cleared = [actor.clear.remote() for actor in self._actors]
        ray.wait(cleared, num_returns=len(cleared), timeout=_CLEARED_WITHIN_S)
        for actor in self._actors:
            ray.kill(actor)


def _actor(rank: int, bundle: dict[str, float]) -> Any:
    """Create an actor that uses the whole bundle of its rank in the trial's placement group."""
    group = get_current_placement_group()
    assert group is not None, "Tune makes one for every trial"
    return (
        ray.remote(Rank)
        .options(
            num_cpus=bundle.get("CPU", 0),
            num_gpus=bundle.get("GPU", 0),
            resources={name: amount for name, amount in bundle.items() if name not in ("CPU", "GPU")},
            max_concurrency=2,  # so that ``clear`` can run while it trains
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
        )
        .remote()
    )


def _explained(rank: int, num_processes: int, error: RayError) -> Exception:
    """Return the exception that the trial raises: the original for a fault of its arguments, else RankLostError."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, Exception) and not isinstance(cause, RuntimeError | RayError):
        return cause
    lines = str(cause).strip().splitlines()
    reason = f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__
    return RankLostError(f"process {rank} of the trial's {num_processes} was lost: {reason}")


class Rank:
    """An additional process of a trial."""

    def __init__(self) -> None:
        self._work = TemporaryDirectory("trial")

    def train(self, member: GroupMember, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Join the process group, and train."""
        torch.set_num_threads(member.num_threads)
        with own_device(use_gpu=member.use_gpu), joined(member, arrive(member)):
            function(*arguments, self._work.path)

    def clear(self) -> None:
        """Delete this process's files on the node."""
        self._work.remove()
