"""Check that a search may be resumed from the files in its folder: unpickling them runs code."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ...errors import PermanentStorageError
from ...storage.store import Store


def refuse_untrusted(store: Store, experiment: str) -> None:
    """Refuse to resume a search whose files another user may have written.

    Tune's ``tuner.pkl``, ``searcher-state-*.pkl``, ``experiment_state-*.json`` (which holds pickles too) and
    ``error.pkl`` are unpickled, checkpoints are loaded by torch. So every file of the experiment, and every directory
    from there up to the store's root, must belong to this user or to root, must not be writable by others, and must
    not be a link. It may be writable by the user's private group, as with a umask of 002: a group with the user's name
    and no other members. A directory above the experiment may be writable by others if it is sticky, as /tmp and a
    new tmpfs are: others can add files to it, but cannot replace existing ones. The permissions of an object store are
    not known here; it has to be trusted.

    Args:
        store: The run store.
        experiment: Key of Tune's folder, which need not exist yet.

    Raises:
        PermanentStorageError: A file is not trusted; the message has the file, the reason and the remedy.
    """
    if store.directory is None:
        return
    folder = store.directory / experiment
    above = [folder.parent, *folder.parent.parents]
    directories = above[: above.index(store.directory) + 1]
    private = _private_group()
    for directory in reversed(directories):
        if directory.exists():
            about = directory.resolve().stat()
            sticky = bool(about.st_mode & stat.S_ISVTX)
            _check(directory.resolve(), about, private, others_may_add=sticky)
    for path in _all_below(folder):
        _check(path, path.lstat(), private)


def _all_below(folder: Path) -> Iterator[Path]:
    if not os.path.lexists(folder):
        return
    yield folder
    for parent, folders, files in os.walk(folder, onerror=_raise):
        for name in (*folders, *files):
            yield Path(parent) / name


def _raise(error: OSError) -> None:
    raise PermanentStorageError(
        f"storage {error.filename}: {error.strerror}; resume the run as the user who started it"
    ) from error


def _check(
    path: Path, about: os.stat_result, private_group: int | None, *, others_may_add: bool = False
) -> None:
    user = os.geteuid()
    if stat.S_ISLNK(about.st_mode):
        raise _untrusted(path, "is a symbolic link", "replace it by what it points to")
    if about.st_uid not in (user, 0):
        raise _untrusted(
            path,
            f"belongs to {_user_name(about.st_uid)}, but this process runs as {_user_name(user)}",
            "resume the run as its owner, or take ownership with `chown -R` if you trust all of it",
        )
    by_group = about.st_mode & stat.S_IWGRP and about.st_gid not in (0, private_group)
    if (about.st_mode & stat.S_IWOTH or by_group) and not others_may_add:
        raise _untrusted(
            path,
            f"can be written by {'others' if about.st_mode & stat.S_IWOTH else 'its group'} "
            f"(mode {stat.S_IMODE(about.st_mode):o})",
            "run `chmod -R go-w` on the run if you trust all of it",
        )


def _untrusted(path: Path, why: str, remedy: str) -> PermanentStorageError:
    return PermanentStorageError(
        f"storage {path}: {why}; resuming the search would execute code from that file or folder; {remedy}"
    )


def _private_group() -> int | None:
    """Return the id of the user's private group, which some distributions create; None if there is none."""
    import grp
    import pwd

    try:
        user = pwd.getpwuid(os.geteuid())
        group = grp.getgrgid(user.pw_gid)
    except KeyError:
        return None
    alone = group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
    return group.gr_gid if alone else None


def _user_name(user: int) -> str:
    import pwd

    try:
        return f"{pwd.getpwuid(user).pw_name} (uid {user})"
    except KeyError:
        return f"uid {user}"
