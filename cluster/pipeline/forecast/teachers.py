"""Derive seconds, bytes and descriptions from the measurements of teachers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MIB = 2**20


def in_passes(*trainings: Mapping[str, Any]) -> str:
    """Describe the largest bound on passes among the trainings whose batches are split into several; else ``""``."""
    bounds = [each["passes"] for each in trainings if each.get("passes")]
    if not bounds:
        return ""
    largest = max(bounds, key=lambda each: each["bytes"])
    return f", passes of up to {largest['tokens']:,} tokens, {largest['bytes'] / MIB:,.0f} MiB"


def teacher_s(found: Mapping[str, Any]) -> float:
    """Return the seconds that preparing a teacher takes."""
    training, labelling = found["training"], found["labelling_s"]
    once = found["build_s"] + found["tokenize_s"] + found["save_s"] + labelling["validation"]
    if training is None:
        return once
    epoch = training["epoch_s"] + labelling["validation"] + 2 * training["save_s"]
    return once + training["encoder_s"] + training["epochs"] * epoch


def checkpoint_bytes(found: Mapping[str, Any]) -> int:
    """Return the bytes that an unfinished training of a teacher keeps in the storage."""
    training = found["training"]
    return 0 if training is None else training["checkpoint_bytes"] + training["model_bytes"]


def how_made(found: Mapping[str, Any]) -> str:
    """Describe how a teacher is made."""
    training = found["training"]
    if training is None:
        return "loaded and measured"
    pairs = f"{training['encoder_s']:.0f} s of pairs, " if training["encoder_s"] else ""
    return f"{pairs}{training['epochs']:g} epochs of {training['epoch_s']:.0f} s" + in_passes(training)


def unlabelled(found: Mapping[str, Any]) -> list[str]:
    """Return the kinds of texts whose logits a teacher has to compute."""
    return [name for name in found["labelling_s"] if name not in found["cached"]]


def labelling_s(found: Mapping[str, Any]) -> float:
    """Return the seconds that a teacher takes to be loaded and to label texts; 0 if it labels none."""
    kinds = unlabelled(found)
    return sum(found["labelling_s"][name] for name in kinds) + (found["build_s"] if kinds else 0.0)
