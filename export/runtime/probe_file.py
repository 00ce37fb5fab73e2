"""Read the probes of an artifact: random token ids with the logits of its graph at the export."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ...errors import ArtifactError
from ..artifact.files import MAX_JSON_BYTES, parse_object, read_regular
from ..artifact.manifest import PROBES_FILE


class Probe(NamedTuple):
    """Random token ids, the graph's logits [C] for them, and their token types where the graph reads these."""

    ids: list[int]
    logits: list[float]
    types: list[int] | None = None


def read_probes(directory: Path) -> list[Probe]:
    """Read the probes of an artifact.

    Raises:
        ArtifactError: They are missing, cannot be read, or are not probes.
    """
    path = directory / PROBES_FILE
    rows = parse_object(read_regular(path, MAX_JSON_BYTES)[0], path).get("probes")
    if not isinstance(rows, list) or not rows or not all(map(_is_probe, rows)):
        raise ArtifactError(
            f"{path}: probes must be a list of objects with ids and logits; pull the artifact again"
        )
    return [Probe(row["ids"], row["logits"], row.get("types")) for row in rows]


def _is_probe(row: Any) -> bool:
    if not isinstance(row, dict) or set(row) - {"types"} != {"ids", "logits"}:
        return False
    ids, logits, types = row["ids"], row["logits"], row.get("types", [])
    if not all(isinstance(each, list) for each in (ids, logits, types)) or not ids or not logits:
        return False
    if "types" in row and len(types) != len(ids):
        return False
    return all(type(each) is int and 0 <= each < 2**31 for each in (*ids, *types)) and all(
        type(each) in (int, float) for each in logits
    )
