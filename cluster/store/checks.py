"""What a storage must be before runs are kept in it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ...errors import ConfigError, StorageError, shown
from ...storage.retry import reason_of
from ...storage.store import Store

LOOK_S = 5.0  # how long a command that only looks tries a storage that is away


def check_directory(path: Path) -> None:
    """Refuse what is, or leads through, something else than a directory; nothing need stand there yet.

    Raises:
        ConfigError: It does.
    """
    try:
        is_directory = path.is_dir() or not os.path.lexists(path)
        path.lstat()
    except FileNotFoundError:
        return
    except OSError:  # a part of it is a file, or links go round in circles
        is_directory = False
    if not is_directory:
        raise ConfigError(
            f"storage.path: {shown(str(path))} given, which is not a directory; choose another with --storage DIR|URL"
        )


def check_writable(store: Store, key: str) -> None:
    """Write and delete something below a key, with little patience.

    Raises:
        ConfigError: It cannot be done.
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
            f"storage.path: {store} cannot be written ({reason}); choose another with --storage DIR|URL"
        ) from None
