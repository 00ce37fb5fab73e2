"""Target of baselines: trained before the measurement in a process of their own, and measured in another."""

from __future__ import annotations

from pathlib import Path

from .base import Opened, OpenOptions, Preparation, Prepared, Target, register

BASELINE = "baseline"
"""Name of the target; a measurement has the name of its baseline."""


def _prepare(given: Preparation) -> Prepared:
    from ...baselines.fit import TEXTS_FILE
    from ..processes import call_in_process

    folder = given.scratch / BASELINE
    arguments = {
        "name": given.name,
        "texts": str(Path(given.directory) / TEXTS_FILE),
        "folder": str(folder),
    }
    trained = call_in_process(
        "baselines.fit", "train", arguments, what=given.name, num_threads=given.num_threads
    )
    return Prepared(str(folder), trained["bytes"] / 2**20, trained)


def _open(options: OpenOptions) -> Opened:
    from ...baselines.fit import MODEL_FILE, open_baseline

    folder = Path(options.directory)
    opened = open_baseline(folder)
    weights = folder / MODEL_FILE
    return Opened(opened, opened.logits, opened.labels, weights=weights, at_length=lambda _: opened)


register(
    Target(
        BASELINE,
        "a classical baseline on the CPU",
        _open,
        _prepare,
        preparation="training",
        is_optional=True,
        color="#54a24b",
    )
)
