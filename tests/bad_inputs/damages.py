"""Ways to make a good file bad; each returns a function for ``Case.damage``, called in the case's folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[], object]
CUT = object()
"""In place of a value: the key is removed."""


def both(*damages: Damage) -> Damage:
    """One after another."""
    return lambda: [each() for each in damages]


def write(path: str, content: bytes | str) -> Damage:
    """Put something else there."""

    def damage() -> None:
        remove(path)()
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.encode("utf-8") if isinstance(content, str) else content)

    return damage


def remove(path: str) -> Damage:
    """Take it away."""

    def damage() -> None:
        found = Path(path)
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)

    return damage


def cut(path: str, keep: float = 0.5) -> Damage:
    """Keep the first part of a file."""
    return lambda: os.truncate(path, int(Path(path).stat().st_size * keep))


def flip(path: str, at: float = 0.9) -> Damage:
    """Change one byte; the size stays."""

    def damage() -> None:
        content = bytearray(Path(path).read_bytes())
        content[int(len(content) * at)] ^= 0xFF
        Path(path).write_bytes(content)

    return damage


def folder(path: str) -> Damage:
    """A directory stands in its place."""
    return both(remove(path), lambda: Path(path).mkdir(parents=True))


def fifo(path: str) -> Damage:
    """A pipe stands in its place, which nobody writes to."""
    return both(
        remove(path), lambda: Path(path).parent.mkdir(parents=True, exist_ok=True), lambda: os.mkfifo(path)
    )


def link(path: str, target: str) -> Damage:
    """A link stands in its place; to itself is a loop."""
    return both(remove(path), lambda: Path(path).symlink_to(target))


def moved_behind_link(path: str) -> Damage:
    """The file is another's: only a link to it stands there."""
    return both(
        lambda: Path(path).rename("elsewhere"), lambda: Path(path).symlink_to(Path("elsewhere").resolve())
    )


def sparse(path: str, size: int) -> Damage:
    """A file that is huge, and takes no room."""

    def damage() -> None:
        write(path, "")()
        os.truncate(path, size)

    return damage


def edit_json(path: str, keys: str, value: Any) -> Damage:
    """Set or ``CUT`` one value of a JSON file; ``keys`` is dotted, a number counts in a list."""

    def damage() -> None:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        *parents, last = [int(key) if key.isdecimal() else key for key in keys.split(".")]
        at = document
        for key in parents:
            at = at.setdefault(key, {}) if isinstance(at, dict) else at[key]
        if value is CUT:
            del at[last]
        else:
            at[last] = value
        Path(path).write_text(json.dumps(document), encoding="utf-8")

    return damage
