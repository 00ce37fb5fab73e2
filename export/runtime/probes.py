"""Write and run an artifact's probes, which show whether its graph gives the same answers here as at its export."""

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

    A probe is 1 to 64 ids drawn from the whole vocabulary, between the tokens that the tokenizer adds, so that it
    reveals nothing of the data; of a pair, the first half of the ids is the first text. Of several candidates of one
    length, the one whose logits are furthest from another answer is kept, so that a fault changes the answer but the
    rounding of another processor does not.

    Args:
        directory: An exported ONNX variant.
        classifier: The opened variant; None: it is opened.
    """
    classifier = classifier or TextClassifier.load(directory)
    template, every_id = classifier.template(), classifier.token_ids()
    num_added = sum(each is not None for each, _ in template)
    room = max(1, min(_MOST_TOKENS, classifier.max_length) - num_added)
    rng = np.random.default_rng(_SEED)
    probes = []
    for length in np.geomspace(1, room, NUM_PROBES).round().astype(int).tolist():
        candidates = []
        for _ in range(_NUM_CANDIDATES):
            drawn = rng.choice(every_id, size=length).tolist()
            ids, types = _fill(template, drawn)
            logits = classifier.logits_of_ids(ids, types)
            rounded = [float(f"{logit:.8g}") for logit in logits.ravel()]
            probe = Probe(ids, rounded, types if classifier.reads_token_types else None)
            candidates.append((classifier.decoder.margin(logits), probe))
        probes.append(max(candidates, key=lambda each: each[0])[1]._asdict())
    rows = [{name: value for name, value in probe.items() if value is not None} for probe in probes]
    (directory / PROBES_FILE).write_text(json.dumps({"probes": rows}) + "\n", encoding="utf-8")


def _fill(template: Sequence[tuple[int | None, int]], drawn: Sequence[int]) -> tuple[list[int], list[int]]:
    """Put drawn ids in the one or two places of a template, and return all ids and their token types."""
    num_places = sum(each is None for each, _ in template)
    first = len(drawn) if num_places < 2 else (len(drawn) + 1) // 2
    parts = iter([drawn[:first], drawn[first:]])
    ids: list[int] = []
    types: list[int] = []
    for fixed_id, kind in template:
        added = next(parts) if fixed_id is None else [fixed_id]
        ids += added
        types += [kind] * len(added)
    return ids, types


def run_probes(directory: Path) -> dict[str, Any]:
    """Run an artifact's probes on this machine.

    Returns:
        ``num_probes``; ``num_changed``, the number of probes whose answer differs from that at the export;
        ``max_abs_diff``, the largest difference of a logit.

    Raises:
        ArtifactError: The probes are damaged, or the artifact cannot be used.
    """
    probes, classifier = read_probes(directory), TextClassifier.load(directory)
    if not classifier.of_tokens and any(len(each.logits) != len(probes[0].logits) for each in probes):
        raise ArtifactError(
            f"{directory / PROBES_FILE}: probes differ in number of logits; pull the artifact again"
        )
    num_changed, differences = 0, []
    for probe in probes:
        found = np.atleast_2d(classifier.logits_of_ids(probe.ids, probe.types))
        if found.size != len(probe.logits):
            raise ArtifactError(
                f"{directory / PROBES_FILE}: a probe has {len(probe.logits)} logits, the graph {found.size}; pull the "
                "artifact again"
            )
        expected = np.array(probe.logits).reshape(found.shape)
        num_changed += classifier.answers(found) != classifier.answers(expected)
        differences.append(float(np.abs(found - expected).max()))
    return {"num_probes": len(probes), "num_changed": num_changed, "max_abs_diff": max(differences)}
