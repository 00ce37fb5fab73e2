"""Set environment variables for the duration of a block of code."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def environment_set(settings: Mapping[str, str | None], *also_restored: str) -> Iterator[None]:
    """Set environment variables for a block, and restore their previous values however it ends.

    Args:
        settings: Name and value; None removes the variable for the block.
        also_restored: Names of variables that the block itself may change.
    """
    before = {name: os.environ.get(name) for name in (*settings, *also_restored)}
    _apply(settings)
    try:
        yield
    finally:
        _apply(before)


def _apply(settings: Mapping[str, str | None]) -> None:
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def home_directory() -> Path | None:
    """Return the user's home directory, or None for a user without one, such as a container's numbered user."""
    try:
        return Path.home()
    except RuntimeError:
        return None


_PROCESS_GROUP = re.compile(
    r"(?:GROUP_|ROLE_|LOCAL_|NODE_|CROSS_)?(?:RANK|WORLD_SIZE|SIZE)|GROUP_WORLD_SIZE|ROLE_NAME|MASTER_(?:ADDR|PORT)"
    r"|(?:OMPI|PMI|PMIX|MV2|ACCELERATE|FSDP|TORCHELASTIC)_.*|MPI_LOCAL.*"
    r"|SLURM_(?:PROCID|LOCALID|NODEID|NTASKS.*|NPROCS|TASKS_PER_NODE|TASK_PID|STEP.*|SRUN.*|LAUNCH_NODE.*|GTIDS)"
)


def remove_process_group() -> list[str]:
    """Remove the variables by which torch and accelerate join a process group; return their names.

    torchrun, MPI, SLURM and cluster services leave them in a shell, and every ``TrainingArguments`` would then wait
    for processes that do not exist. A trial of several processes sets its own variables while it trains.
    """
    found = [name for name in os.environ if _PROCESS_GROUP.fullmatch(name)]
    for name in found:
        del os.environ[name]
    return found
