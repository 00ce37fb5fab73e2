"""The precision of a search's trials: chosen by the first trial, and kept by the others and by a resumed run."""

from __future__ import annotations

import logging
from typing import Any

from ...storage.store import Store
from ...training.distillation.arguments import hardware_has_bf16
from ...training.machine import describe_device

logger = logging.getLogger(__name__)


def precision_key(experiment: str) -> str:
    """Return the key of a search's precision record: ``bf16``, and the ``device`` that it was chosen on."""
    return f"{experiment}-precision.json"


def settled_bf16(store: Store, experiment: str, *, use_gpu: bool) -> bool:
    """Return whether the trials of a search train in bfloat16, if neither the job nor the space gives a precision.

    The first trial chooses it by its hardware, and records it. Otherwise trials on other devices, and runs that are
    resumed on other devices, would train in another precision without notice. A trial deviates from the record, with a
    warning in its log, only on a device that cannot multiply bfloat16.

    Args:
        store: The run store.
        experiment: Key of the search.
        use_gpu: Whether this trial has a GPU.
    """
    key, possible = precision_key(experiment), hardware_has_bf16(use_cpu=not use_gpu)
    record = store.read_json(key)
    if record is None:
        store.write_json(key, {"bf16": possible, "device": describe_device(use_gpu=use_gpu)})
        return possible
    if record["bf16"] and not possible:
        logger.warning(
            "this trial trains in float32, while the search began in bfloat16 on %s: %s does not multiply bfloat16; "
            "to compare all trials in one precision, set training.arguments.bf16 to false",
            record["device"],
            describe_device(use_gpu=use_gpu),
        )
        return False
    return record["bf16"]


def precision_of(args: Any) -> str:
    """Describe the precision of a training's multiplications: ``bfloat16``, ``float16``, ``float32`` or ``TF32``."""
    if args.bf16 or args.fp16:
        return "bfloat16" if args.bf16 else "float16"
    return "TF32" if args.tf32 else "float32"
