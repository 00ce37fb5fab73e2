"""The process group of one trial: how its processes find one another, and what each does at the same step."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from ray.util import get_node_ip_address

# Documented by PyTorch, and not in its ``__all__``.
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...storage.environment import environment_set

# How long one process may wait for another, which may be evaluating, or trying the storage again.
_COLLECTIVE_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Seat:
    """The place of one process among those of a trial.

    Attributes:
        rank: Its number; 0 is the process that Tune talks with.
        num_processes: How many there are.
        host: Address of the node where rank 0 is.
        port: Of rank 0's store, where the processes find one another.
        use_gpu: Whether each has a GPU.
        num_threads: Threads of each.
    """

    rank: int
    num_processes: int
    host: str
    port: int
    use_gpu: bool
    num_threads: int


def listen() -> tuple[TCPStore, str]:
    """Rank 0's store, and the address where it listens: the one by which Ray knows this node, and no other."""
    host = get_node_ip_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    store = TCPStore(
        host,
        listener.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        timeout=_COLLECTIVE_TIMEOUT,
        master_listen_fd=listener.detach(),
    )
    return store, host


def arrive(seat: Seat) -> TCPStore:
    """Come to rank 0's store, and say so."""
    store = TCPStore(seat.host, seat.port, timeout=_COLLECTIVE_TIMEOUT)
    store.set(_arrival(seat.rank), "")
    return store


def all_arrived(store: TCPStore, num_processes: int) -> bool:
    """Whether every process but rank 0 has come."""
    return store.check([_arrival(rank) for rank in range(1, num_processes)])


def _arrival(rank: int) -> str:
    return f"arrived/{rank}"


@contextmanager
def joined(seat: Seat, store: TCPStore) -> Iterator[None]:
    """Be in the group inside the block, and in the environment from which accelerate learns of it."""
    with environment_set(_environment(seat)), _group(seat, store):
        yield


@contextmanager
def _group(seat: Seat, store: TCPStore) -> Iterator[None]:
    try:
        dist.init_process_group(
            "nccl" if seat.use_gpu else "gloo",
            store=store,
            rank=seat.rank,
            world_size=seat.num_processes,
            timeout=_COLLECTIVE_TIMEOUT,
            device_id=torch.device("cuda", 0) if seat.use_gpu else None,
        )
        yield
    except BaseException:
        if seat.use_gpu:
            abort()  # NCCL's orderly end waits for the others, which may be gone
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def abort() -> None:
    """End what NCCL waits for, in any thread; gloo's connections break by themselves."""
    if dist.is_initialized() and dist.group.WORLD is not None:
        dist.group.WORLD.abort()


def _environment(seat: Seat) -> dict[str, str]:
    environment = {
        "RANK": str(seat.rank),
        "WORLD_SIZE": str(seat.num_processes),
        # Ray shows each process its own GPUs alone, so each is the first where it is.
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": seat.host,
        "MASTER_PORT": str(seat.port),
        # Or accelerate sets the number of threads itself.
        "OMP_NUM_THREADS": str(seat.num_threads),
    }
    # By itself gloo takes the address of the host's name, which other nodes often do not reach.
    interface = _interface(get_node_ip_address())
    if interface is not None:
        environment["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", interface)
    return environment


def _interface(address: str) -> str | None:
    """Name of the network interface that has an address."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return name
    return None


class KeepStep(TrainerCallback):
    """What every process does at the same step, since the others wait for it there."""

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log the epoch's last steps: the losses are gathered from all."""
        control.should_log = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Bring every process's random state into the checkpoint, which rank 0 alone keeps."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        states: list[Any] = [None] * args.world_size
        dist.all_gather_object(states, (folder / _random_state(args.process_index)).read_bytes())
        if args.process_index > 0:
            shutil.rmtree(folder)
            return
        for rank, content in enumerate(states):
            (folder / _random_state(rank)).write_bytes(content)


def _random_state(rank: int) -> str:
    """The name that transformers gives, and looks for when it resumes."""
    return f"rng_state_{rank}.pth"
