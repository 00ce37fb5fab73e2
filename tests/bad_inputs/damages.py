"""Ways to damage a good file; each returns a function for ``Case.damage``, which is called in the case's folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[], object]
ABSENT = object()
"""Value for ``edit_json`` that removes the key."""


def both(*damages: Damage) -> Damage:
    """Apply several damages in order."""
    return lambda: [each() for each in damages]


def write(path: str, content: bytes | str) -> Damage:
    """Write a file, in place of whatever is there."""

    def damage() -> None:
        remove(path)()
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.encode("utf-8") if isinstance(content, str) else content)

    return damage


def remove(path: str) -> Damage:
    """Remove a file or a folder."""

    def damage() -> None:
        found = Path(path)
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)

    return damage


def cut(path: str, keep: float = 0.5) -> Damage:
    """Truncate a file to a share of its size."""
    return lambda: os.truncate(path, int(Path(path).stat().st_size * keep))


def flip(path: str, at: float = 0.9) -> Damage:
    """Change one byte of a file, at a share of its size."""

    def damage() -> None:
        content = bytearray(Path(path).read_bytes())
        content[int(len(content) * at)] ^= 0xFF
        Path(path).write_bytes(content)

    return damage


def folder(path: str) -> Damage:
    """Put an empty directory in the place of a file."""
    return both(remove(path), lambda: Path(path).mkdir(parents=True))


def fifo(path: str) -> Damage:
    """Put a pipe without a writer in the place of a file."""
    return both(
        remove(path), lambda: Path(path).parent.mkdir(parents=True, exist_ok=True), lambda: os.mkfifo(path)
    )


def link(path: str, target: str) -> Damage:
    """Put a symbolic link in the place of a file; a link to itself is a loop."""
    return both(remove(path), lambda: Path(path).symlink_to(target))


def moved_behind_link(path: str) -> Damage:
    """Move a file elsewhere and put a symbolic link to it in its place."""
    return both(
        lambda: Path(path).rename("elsewhere"), lambda: Path(path).symlink_to(Path("elsewhere").resolve())
    )


def sparse(path: str, size: int) -> Damage:
    """Write a sparse file of ``size`` bytes, which takes no disk space."""

    def damage() -> None:
        write(path, "")()
        os.truncate(path, size)

    return damage


def edit_json(path: str, keys: str, value: Any) -> Damage:
    """Set one value of a JSON file, or remove it with ``ABSENT``; ``keys`` is a dotted path, with indices for lists."""

    def damage() -> None:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        *parents, last = [int(key) if key.isdecimal() else key for key in keys.split(".")]
        at = document
        for key in parents:
            at = at.setdefault(key, {}) if isinstance(at, dict) else at[key]
        if value is ABSENT:
            del at[last]
        else:
            at[last] = value
        Path(path).write_text(json.dumps(document), encoding="utf-8")

    return damage
