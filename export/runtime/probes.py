"""Write and run an artifact's probes, which show whether its graph answers here as it did where it was exported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ArtifactError
from ..artifact.manifest import PROBES_FILE
from .classifier import TextClassifier
from .probe_file import Probe, read_probes

NUM_PROBES = 32
_NUM_CANDIDATES = 4  # for each probe
_MOST_TOKENS = 64
_SEED = 0


def write_probes(directory: Path, classifier: TextClassifier | None = None) -> None:
    """Write the probes of a variant beside its graph.

    Each is 1 to 64 ids drawn from the whole vocabulary, between the tokens that the tokenizer adds, so that it shows
    nothing of the data; for pairs the first half of them stands for the first text. Of several candidates of one
    length, the one whose logits are furthest from another answer is kept: a fault changes its answer, the rounding of
    another processor does not.

    Args:
        directory: An exported ONNX variant.
        classifier: The opened variant; None: it is opened.
    """
    classifier = classifier or TextClassifier.load(directory)
    template, every_id = classifier.template(), classifier.token_ids()
    num_added = sum(each is not None for each, _ in template)
    room = max(1, min(_MOST_TOKENS, classifier.max_length) - num_added)
    rng = np.random.default_rng(_SEED)
    rows = []
    for length in np.geomspace(1, room, NUM_PROBES).round().astype(int).tolist():
        candidates = []
        for _ in range(_NUM_CANDIDATES):
            drawn = rng.choice(every_id, size=length).tolist()
            ids, types = _filled(template, drawn)
            found = classifier.logits_of_ids(ids, types)
            logits = [float(f"{logit:.8g}") for logit in found.ravel()]
            probe = Probe(ids, logits, types if classifier.reads_token_types else None)
            candidates.append((classifier.decoder.margin(found), probe))
        rows.append(max(candidates, key=lambda each: each[0])[1]._asdict())
    rows = [{name: value for name, value in row.items() if value is not None} for row in rows]
    (directory / PROBES_FILE).write_text(json.dumps({"probes": rows}) + "\n", encoding="utf-8")


def _filled(template: Sequence[tuple[int | None, int]], drawn: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return ids and token types of a template whose places, one or two, have the drawn ids."""
    num_places = sum(each is None for each, _ in template)
    first = len(drawn) if num_places < 2 else (len(drawn) + 1) // 2
    parts = iter([drawn[:first], drawn[first:]])
    ids: list[int] = []
    types: list[int] = []
    for each, kind in template:
        added = next(parts) if each is None else [each]
        ids += added
        types += [kind] * len(added)
    return ids, types


def run_probes(directory: Path) -> dict[str, Any]:
    """Run an artifact's probes on this machine.

    Returns:
        ``num_probes``; ``num_changed``, those whose answer is another one than where it was exported;
        ``max_abs_diff``, the largest difference of a logit.

    Raises:
        ArtifactError: The probes are damaged, or the artifact cannot be used.
    """
    probes, classifier = read_probes(directory), TextClassifier.load(directory)
    if not classifier.of_tokens and any(len(each.logits) != len(probes[0].logits) for each in probes):
        raise ArtifactError(
            f"{directory / PROBES_FILE}: probes differ in number of logits; pull the artifact again"
        )
    changed, differences = 0, []
    for probe in probes:
        found = np.atleast_2d(classifier.logits_of_ids(probe.ids, probe.types))
        if found.size != len(probe.logits):
            raise ArtifactError(
                f"{directory / PROBES_FILE}: a probe has {len(probe.logits)} logits, the graph {found.size}; pull the "
                "artifact again"
            )
        expected = np.array(probe.logits).reshape(found.shape)
        changed += classifier.answers(found) != classifier.answers(expected)
        differences.append(float(np.abs(found - expected).max()))
    return {"num_probes": len(probes), "num_changed": changed, "max_abs_diff": max(differences)}
