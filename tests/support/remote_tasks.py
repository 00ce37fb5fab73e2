"""What a remote task of a run works with, in a directory of this machine."""

from pathlib import Path

from distiltune.cluster.remote.tasks import Task
from distiltune.cluster.specification.config import JobConfig
from distiltune.storage.store import Store


def task(directory: Path, config: JobConfig) -> Task:
    """Return a task of one thread whose run store is ``directory``."""
    return Task(
        Store(str(directory)),
        config,
        "log",
        "progress",
        num_threads=1,
        use_gpu=False,
        unfinished="unfinished",
    )
