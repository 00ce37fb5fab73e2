"""The process group of one trial: rendezvous of its processes, and their collective operations at the same step."""

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

# Documented by PyTorch, but not in its ``__all__``.
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...storage.environment import environment_set, remove_process_group

# How long one process may wait for another, which may be evaluating, or retrying the storage.
_COLLECTIVE_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class GroupMember:
    """The rank of one process of a trial, and how it reaches the others.

    Attributes:
        rank: Rank of the process; 0 is the one that Tune runs.
        num_processes: Number of processes.
        host: Address of rank 0's node.
        port: Port of rank 0's store, which the processes use for rendezvous.
        use_gpu: Whether each process has a GPU.
        num_threads: Threads of each process.
    """

    rank: int
    num_processes: int
    host: str
    port: int
    use_gpu: bool
    num_threads: int


def listen() -> tuple[TCPStore, str]:
    """Start rank 0's store, listening only on the address that Ray has for this node; return both."""
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


def arrive(member: GroupMember) -> TCPStore:
    """Connect to rank 0's store, and register this process."""
    store = TCPStore(member.host, member.port, timeout=_COLLECTIVE_TIMEOUT)
    store.set(_arrival(member.rank), "")
    return store


def all_arrived(store: TCPStore, num_processes: int) -> bool:
    """Return whether every process but rank 0 has registered."""
    return store.check([_arrival(rank) for rank in range(1, num_processes)])


def _arrival(rank: int) -> str:
    return f"arrived/{rank}"


@contextmanager
def joined(member: GroupMember, store: TCPStore) -> Iterator[None]:
    """Join the process group inside the block, and set the environment variables that accelerate reads."""
    remove_process_group()  # variables inherited from the shell that started this node
    with environment_set(_environment(member)), _group(member, store):
        yield


@contextmanager
def _group(member: GroupMember, store: TCPStore) -> Iterator[None]:
    try:
        dist.init_process_group(
            "nccl" if member.use_gpu else "gloo",
            store=store,
            rank=member.rank,
            world_size=member.num_processes,
            timeout=_COLLECTIVE_TIMEOUT,
            device_id=torch.device("cuda", 0) if member.use_gpu else None,
        )
        yield
    except BaseException:
        if member.use_gpu:
            abort()  # NCCL's regular shutdown waits for the others, which may be gone
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def abort() -> None:
    """Abort pending NCCL operations, in any thread; gloo's connections break by themselves."""
    if dist.is_initialized() and dist.group.WORLD is not None:
        dist.group.WORLD.abort()


def _environment(member: GroupMember) -> dict[str, str]:
    environment = {
        "RANK": str(member.rank),
        "WORLD_SIZE": str(member.num_processes),
        # Each process sees only its own GPU (``own_device``), which is number 0, so each is local rank 0.
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": member.host,
        "MASTER_PORT": str(member.port),
        # Otherwise accelerate sets the number of threads itself.
        "OMP_NUM_THREADS": str(member.num_threads),
    }
    # By default gloo uses the address of the host name, and NCCL the first interface, which other nodes often cannot
    # reach. NCCL takes the text as a prefix unless it begins with "=".
    interface = _interface(get_node_ip_address())
    if interface is not None:
        for name, value in (("GLOO_SOCKET_IFNAME", interface), ("NCCL_SOCKET_IFNAME", f"={interface}")):
            environment[name] = os.environ.get(name, value)
    return environment


def _interface(address: str) -> str | None:
    """Return the name of the network interface with an address."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return name
    return None


class KeepStep(TrainerCallback):
    """Callback for collective operations, which every process must do at the same step."""

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log the epoch's last steps, for which the losses of all processes are gathered."""
        control.should_log = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Gather every process's random state into the checkpoint, which only rank 0 keeps.

        The last checkpoint has no random states, since it is not resumed.
        """
        if args.save_only_model:
            return
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        states: list[Any] = [None] * args.world_size
        dist.all_gather_object(states, (folder / _random_state(args.process_index)).read_bytes())
        if args.process_index > 0:
            shutil.rmtree(folder)
            return
        for rank, content in enumerate(states):
            (folder / _random_state(rank)).write_bytes(content)


def _random_state(rank: int) -> str:
    """Return the name of the file in which transformers saves, and from which it restores, a random state."""
    return f"rng_state_{rank}.pth"
