"""Checks of a storage before runs are stored in it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ...errors import ConfigError, StorageError, shown
from ...storage.retry import reason_of
from ...storage.store import Store

LOOK_S = 5.0  # how long a read-only command retries a storage that does not respond


def check_directory(path: Path) -> None:
    """Reject a path that is not a directory, or leads through something else; it need not exist yet.

    Raises:
        ConfigError: The path cannot be a directory.
    """
    try:
        is_directory = path.is_dir() or not os.path.lexists(path)
        path.lstat()
    except FileNotFoundError:
        return
    except OSError:  # a parent is a file, or there is a symlink loop
        is_directory = False
    if not is_directory:
        raise ConfigError(
            f"storage.path: {shown(str(path))} given, which is not a directory; choose another storage with "
            f"--storage DIR|URL"
        )


def check_writable(store: Store, key: str) -> None:
    """Check that a storage is writable, by a write and a delete below a key with few retries.

    Raises:
        ConfigError: The storage cannot be written.
    """
    probe = f"{key}/probe-{secrets.token_hex(4)}"
    try:
        quick = Store(store.url, min(store.retry_s, LOOK_S) if store.directory is None else 0)
        quick.write(probe, b"")
        quick.delete(probe)
    except (StorageError, OSError) as error:
        cause = error.__cause__ or error
        reason = getattr(cause, "strerror", None) or reason_of(cause)
        raise ConfigError(
            f"storage.path: {store} cannot be written ({reason}); choose another storage with --storage DIR|URL"
        ) from None
