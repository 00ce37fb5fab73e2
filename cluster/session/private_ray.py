"""A Ray of one job alone, on this machine."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import RunFailedError, first_line
from ...search.driver.nodes import RAY_WORKER_ENV
from ...storage.temporary import TemporaryDirectory, remove_abandoned, short_temporary_directory
from ..nodes.ports import LOOPBACK
from .watchdog import Watchdog, end_users_of

_PREFIX = "dt-"


class PrivateDirectory:
    """A temporary directory for one Ray; what uses it is ended, and it is removed, when this process is killed.

    Ray opens its own directory to everybody, so it gets one inside of this one, which only this user enters.
    """

    def __init__(self) -> None:
        """Make one; first end what killed processes left behind, and delete it."""
        parent = short_temporary_directory()
        remove_abandoned(parent, _PREFIX, before=lambda path: end_users_of([path]))
        self._directory = TemporaryDirectory("", parent, _PREFIX)
        self.path = self._directory.path
        self._watchdog = Watchdog([self.path])

    @property
    def for_ray(self) -> Path:
        """Where Ray keeps its session."""
        return self.path / "r"

    def remove(self) -> None:
        """Delete it."""
        end_users_of([self.path])
        self._directory.remove()
        self._watchdog.dismiss()


def start_private_ray(num_cpus: int | None) -> PrivateDirectory:
    """Start a Ray and attach to it; it ends with this process at the latest.

    Args:
        num_cpus: CPUs that it gives to tasks; None: all of this machine.

    Returns:
        Where it keeps its files, to be removed after ``ray.shutdown()``.

    Raises:
        RunFailedError: It does not start.
    """
    try:
        try:
            return _start(num_cpus)
        except RuntimeError:  # on a busy machine its own processes may answer too late
            return _start(num_cpus)
    except Exception as error:
        raise RunFailedError(
            f"resources.address: no Ray cluster on this machine: {first_line(error)}"
        ) from error


def _start(num_cpus: int | None) -> PrivateDirectory:
    import ray

    directory = PrivateDirectory()
    try:
        # Ray's processes inherit it. Without it the locks of all users of this machine would lie in one directory,
        # which belongs to the first of them.
        os.environ["RAY_TMPDIR"] = str(directory.path)
        with _groups_of_their_own():
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
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


_shielded: set[int] = set()  # processes whose children begin a group of their own


def _leave_group() -> None:
    if os.getppid() in _shielded:
        os.setpgid(0, 0)


if (
    sys.platform == "linux"
):  # where Ray's processes end with their parent; elsewhere its reaper needs the group
    os.register_at_fork(after_in_child=_leave_group)


@contextmanager
def _groups_of_their_own() -> Iterator[None]:
    """Keep signals to this process's group from Ray's processes, which the way out still needs.

    ``timeout``, service managers and shells signal whole groups.
    """
    _shielded.add(os.getpid())
    try:
        yield
    finally:
        _shielded.discard(os.getpid())
