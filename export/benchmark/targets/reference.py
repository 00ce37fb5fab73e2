"""Target of an untrained BERT-base with the tokenizer of a model's checkpoint, for latency and size only."""

from __future__ import annotations

import json

from ..processes import run_module
from .base import Preparation, Prepared, Target, register
from .pytorch import open_checkpoint


def _prepare(given: Preparation) -> Prepared:
    from .reference_model import SIZE_FILE

    directory = given.scratch / "reference"
    arguments = [given.directory, str(directory), str(given.num_outputs), given.task]
    run_module("benchmark.targets.reference_model", arguments, what=given.name, num_threads=given.num_threads)
    size = json.loads((directory / SIZE_FILE).read_text(encoding="utf-8"))["bytes"]
    return Prepared(str(directory), size / 2**20)


register(
    Target(
        "reference",
        "an untrained BERT-base in PyTorch, for latency and size only",
        open_checkpoint,
        _prepare,
        has_accuracy=False,
    )
)
