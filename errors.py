"""Every exception that distiltune raises on purpose, in one tree.

``DistiltuneError`` is the root: catching it catches all of them. The command line turns each into one to
three lines on stderr; ``exit_status`` is the status it then exits with.
"""

from __future__ import annotations


class DistiltuneError(Exception):
    """Root of the tree."""

    exit_status = 1


class InputError(DistiltuneError, ValueError):
    """Something that the person gave is not usable as it is; the message says which, and what to do."""

    exit_status = 2


class ConfigError(InputError):
    """The job's specification has a fault; all faults of one file are listed together."""


class DataError(InputError):
    """A dataset cannot be used; the message names file, row and remedy."""


class ModelError(InputError):
    """A teacher or student checkpoint cannot be used with this job."""


class ArtifactError(InputError):
    """An artifact is missing, incomplete, or does not match its manifest."""


class RunNotFoundError(InputError):
    """The storage has no run of that name."""


class RunFailedError(DistiltuneError):
    """A run stopped in one of its stages; what was complete before stays."""


class StorageError(RunFailedError):
    """The storage cannot be reached, refuses, is full, or gives back something else than was put there."""


class RunInterruptedError(DistiltuneError):
    """A run was interrupted with Ctrl-C or SIGTERM; it can be gone on with."""

    exit_status = 130


class ExportError(RunFailedError):
    """A variant could not be made, or differs from its original by more than the tolerance."""


def listed(faults: list[str]) -> str:
    """All faults in one line, numbered where there are several."""
    if len(faults) == 1:
        return faults[0]
    return f"{len(faults)} faults: " + "; ".join(f"({n}) {fault}" for n, fault in enumerate(faults, 1))


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its type's name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
