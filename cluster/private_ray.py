"""A Ray of one job alone, on this machine."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import RunFailedError, first_line
from ..search.tuner import RAY_WORKER_ENV

_PREFIX, _LOCK = "dt-", "distiltune.lock"
_NEW_S = 60.0  # a lock that is younger may be about to be taken


class PrivateDirectory:
    """A temporary directory for one Ray, locked while its process lives."""

    def __init__(self) -> None:
        """Make one; first delete those that killed processes left behind."""
        # Ray's sockets need a short path, which TMPDIR often is not.
        parent = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())
        for left in parent.glob(f"{_PREFIX}*/{_LOCK}"):
            try:
                if time.time() - left.stat().st_mtime < _NEW_S:
                    continue
                with FileLock(left, timeout=0):
                    shutil.rmtree(left.parent, ignore_errors=True)
            except (Timeout, OSError):
                continue
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock = FileLock(self.path / _LOCK)
        self._lock.acquire()

    def remove(self) -> None:
        """Delete it."""
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


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
        with _groups_of_their_own():
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                runtime_env={"env_vars": dict(RAY_WORKER_ENV)},
                logging_level=logging.ERROR,
                log_to_driver=False,
                _temp_dir=str(directory.path),
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
