"""The presets: job files in the package. Imports nothing heavy, since the command line's help lists them."""

from __future__ import annotations

from importlib.resources import files
from typing import Any


def preset_folder() -> Any:
    """Return the folder of the preset files."""
    return files("distiltune.cluster.specification") / "presets"


def preset_names() -> list[str]:
    """Return the names of the presets, which can be given in place of a file."""
    names = (path.name for path in preset_folder().iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))
