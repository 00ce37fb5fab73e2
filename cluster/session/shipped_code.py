"""Stage the running code so that Ray ships it to other machines."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...search.driver.nodes import RAY_WORKER_ENV
from ...storage.temporary import temporary_directory

PACKAGE = "distiltune"  # Ray uses the directory's name as that of the module
FOLDERS = ("cluster", "export", "search", "storage", "training")
ROOT = Path(__file__).parents[2]


@contextmanager
def staged_code(root: Path = ROOT) -> Iterator[Path]:
    """Yield a temporary directory ``distiltune`` with exactly the files of the running code.

    Ray names its uploads by a hash of the directory's content: changed code is never confused with older code,
    and the same code is uploaded only once.
    """
    with temporary_directory("code") as directory:
        staged = directory / PACKAGE
        staged.mkdir()
        for path in sorted(root.glob("*.py")):
            shutil.copyfile(path, staged / path.name)
        for folder in FOLDERS:
            shutil.copytree(
                root / folder,
                staged / folder,
                ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*"),
                copy_function=shutil.copyfile,
            )
        yield staged


@contextmanager
def runtime_env(root: Path = ROOT) -> Iterator[dict[str, Any]]:
    """Yield the runtime environment of workers on other machines: this code, and the workers' variables."""
    with staged_code(root) as code:
        yield {"py_modules": [str(code)], "env_vars": dict(RAY_WORKER_ENV)}
