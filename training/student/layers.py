"""Some of a model's layers as a model of their own."""

from __future__ import annotations

import copy
from pathlib import Path

from transformers import PreTrainedModel

from ...errors import ModelError
from ..checkpoints.load import load_config, new_classifier
from ..models.families import family_of


def spread_layers(teacher_dir: Path, num_layers: int) -> list[int]:
    """So many of the teacher's layers, evenly spaced from its first to its last.

    Raises:
        ModelError: The teacher has fewer.
    """
    have = load_config(teacher_dir).num_hidden_layers
    if not 1 <= num_layers <= have:
        raise ModelError(
            f"student.num_layers: {num_layers} given; the teacher has {have} layers; accepted: 1 to {have}"
        )
    return [round(layer * (have - 1) / max(1, num_layers - 1)) for layer in range(num_layers)]


def check_layers(layers: list[int], num_layers: int, key: str, owner: str) -> None:
    """Refuse layers that are not some of ``num_layers``, each once, in rising order.

    Raises:
        ModelError: They are not; it names the ``key`` of the specification and whose layers they are.
    """
    if not layers or layers != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < num_layers:
        raise ModelError(
            f"{key}: {layers} given; {owner} has layers 0 to {num_layers - 1}; "
            "name one or more of them, each once, in rising order"
        )


def student_from_layers(
    teacher: PreTrainedModel,
    layers: list[int],
    key: str = "student.from_teacher.layers",
    owner: str = "the teacher",
) -> PreTrainedModel:
    """A new model with the teacher's embeddings, the layers named, its pooler and its head.

    Args:
        teacher: A sequence classifier of a known family.
        layers: Its layers from 0, rising.
        key: Of the specification, for the error.
        owner: Likewise.

    Raises:
        ModelError: The family is not known; a layer does not exist, is named twice or out of order.
    """
    place = f"{teacher.base_model_prefix}.{family_of(teacher, key, 'layers').layers}"
    num_layers = teacher.config.num_hidden_layers
    check_layers(layers, num_layers, key, owner)
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    student = new_classifier(config)
    kept = {f"{place}.{layer}.": f"{place}.{number}." for number, layer in enumerate(layers)}
    weights = {}
    for name, value in teacher.state_dict().items():
        if not name.startswith(f"{place}."):
            weights[name] = value
        for old, new in kept.items():
            if name.startswith(old):
                weights[new + name.removeprefix(old)] = value
    student.load_state_dict(weights)
    return student.eval()
