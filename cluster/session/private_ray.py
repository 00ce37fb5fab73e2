"""Start a private Ray instance on this machine for one job."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import RunFailedError, first_line
from ...search.driver.nodes import RAY_WORKER_ENV
from ...storage.reading import entries_of
from ...storage.temporary import (
    TemporaryDirectory,
    abandoned,
    remove_abandoned,
    remove_if_abandoned,
    short_temporary_directory,
)
from ...training.machine import num_visible_gpus
from ..nodes.ports import LOOPBACK
from .watchdog import Watchdog, end_users_of

_PREFIX = "dt-"


class PrivateDirectory:
    """A temporary directory for one Ray instance, cleaned up even if this process is killed.

    The cleanup kills the processes that use the directory, then deletes it. Ray makes its own directory accessible
    to all users, so it gets a subdirectory of this one, which only this user can access.
    """

    def __init__(self) -> None:
        """Create the directory, after cleaning up what killed processes left behind."""
        parent = short_temporary_directory()
        remove_abandoned(parent, _PREFIX, before=lambda path: end_users_of([path]))
        self._directory = TemporaryDirectory("", parent, _PREFIX)
        self.path = self._directory.path
        self._watchdog = Watchdog([self.path])

    @property
    def for_ray(self) -> Path:
        """Directory in which Ray keeps its session."""
        return self.path / "r"

    def remove(self) -> None:
        """Delete the directory, after killing the processes that use it."""
        end_users_of([self.path])
        self._directory.remove()
        self._watchdog.dismiss()


def old_directories(older_than_s: float) -> dict[Path, int]:
    """Return this user's temporary directories on this machine whose processes were killed, with sizes in bytes.

    Args:
        older_than_s: Minimum time in seconds since their last change.
    """
    found = abandoned(Path(tempfile.gettempdir()), older_than_s=older_than_s)
    found += abandoned(short_temporary_directory(), _PREFIX, older_than_s)
    return {path: sum(size or 0 for _, size in entries_of(path, recursive=True)) for path in found}


def remove_old_directory(path: Path) -> None:
    """Delete one of ``old_directories``, after killing the processes that still use it; keep it if it has an owner."""
    remove_if_abandoned(path, before=lambda path: end_users_of([path]))


def own_job_config() -> Any:
    """Return a job configuration that keeps workers from importing modules of the command's working directory.

    By default Ray puts that directory first on their ``sys.path``, where a user's own ``datasets.py`` would shadow the
    package.
    """
    from ray.job_config import JobConfig

    class OwnCodeAlone(JobConfig):
        def _runtime_env_has_working_dir(self) -> bool:  # so that Ray adds no directory of the driver
            return True

    return OwnCodeAlone()


def start_private_ray(num_cpus: int | None) -> PrivateDirectory:
    """Start a Ray instance and connect to it; it ends at the latest with this process.

    Args:
        num_cpus: CPUs that it offers to tasks; None for all CPUs of this machine.

    Returns:
        The directory with its files, to be removed after ``ray.shutdown()``.

    Raises:
        RunFailedError: Ray does not start.
    """
    try:
        try:
            return _start(num_cpus)
        except RuntimeError:  # on a busy machine its processes may respond too late
            return _start(num_cpus)
    except Exception as error:
        raise RunFailedError(
            f"resources.address: no Ray cluster on this machine: {first_line(error)}"
        ) from error


def _start(num_cpus: int | None) -> PrivateDirectory:
    import ray

    directory = PrivateDirectory()
    try:
        # Ray's processes inherit this variable. Without it the locks of all users of this machine would share
        # one directory, which belongs to the first user.
        os.environ["RAY_TMPDIR"] = str(directory.path)
        with _groups_of_their_own():
            ray.init(
                address="local",
                num_cpus=num_cpus,
                # The GPUs that torch sees. If it sees none, Ray counts, and the job's checks reject unusable ones.
                num_gpus=num_visible_gpus() or None,
                include_dashboard=False,
                job_config=own_job_config(),
                runtime_env={"env_vars": dict(RAY_WORKER_ENV)},
                logging_level=logging.ERROR,
                log_to_driver=False,
                _temp_dir=str(directory.for_ray),
                _node_ip_address=LOOPBACK,
            )
    except BaseException:
        ray.shutdown()
        directory.remove()
        raise
    return directory


_shielded: set[int] = set()  # ids of processes whose children start their own process groups


def _leave_group() -> None:
    if os.getppid() in _shielded:
        os.setpgid(0, 0)


# On Linux, Ray's processes end with their parent; on other systems Ray's reaper needs the process group.
if sys.platform == "linux":
    os.register_at_fork(after_in_child=_leave_group)


@contextmanager
def _groups_of_their_own() -> Iterator[None]:
    """Start Ray's processes in their own process groups, since they are still needed during shutdown.

    ``timeout``, service managers and shells send signals to whole groups.
    """
    _shielded.add(os.getpid())
    try:
        yield
    finally:
        _shielded.discard(os.getpid())
