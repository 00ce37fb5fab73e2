"""The registry of model types whose graphs are written node by node."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....training.registry import Registry
from ..parts import Part
from ..writer import GraphWriter


@dataclass(frozen=True)
class WrittenGraph:
    """How the graph of a model type is written, which takes milliseconds; PyTorch's exporter takes seconds.

    These models have no attention, so that their graphs have nothing to fuse.

    Attributes:
        model_type: As in ``config.json``.
        write: Adds the nodes of a model to a writer, ``write(writer, model)``, and returns the name of the logits.
        parts: Pattern of the names of a part's parameters, name and group of the part; a group ``layer`` in the
            pattern is the number of its layer. The first match counts.
    """

    model_type: str
    write: Callable[[GraphWriter, Any], str]
    parts: tuple[tuple[str, str, str], ...]

    def part_of(self, name: str) -> Part | None:
        """Return the part that a parameter belongs to, or None where no pattern matches."""
        for pattern, part, group in self.parts:
            if found := re.search(pattern, name):
                return Part(part, group, int(found["layer"]) if "layer" in found.groupdict() else None)
        return None


GRAPHS: Registry[WrittenGraph] = Registry("model_type")
"""Every registered model type; filled when the package is imported."""

register = GRAPHS.register


def written_graphs() -> list[WrittenGraph]:
    """Return how each registered model type's graph is written."""
    return list(GRAPHS)


def find_graph(model_type: str) -> WrittenGraph | None:
    """Return how the graph of a model type is written, or None where PyTorch's exporter makes it."""
    return next((each for each in GRAPHS if each.model_type == model_type), None)
