"""Build a model from some of another model's layers."""

from __future__ import annotations

import copy
from pathlib import Path

from transformers import PreTrainedModel

from ...errors import ModelError
from ..checkpoints.load import load_config, new_classifier
from ..models.families import family_of
from ..tasks import SINGLE_LABEL, Task


def spread_layers(teacher_dir: Path, num_layers: int) -> list[int]:
    """Return ``num_layers`` of the teacher's layers, evenly spaced from its first to its last.

    Raises:
        ModelError: The teacher has fewer layers.
    """
    have = load_config(teacher_dir).num_hidden_layers
    if not 1 <= num_layers <= have:
        raise ModelError(
            f"student.num_layers: {num_layers} given; the teacher has {have} layers; accepted: 1 to {have}"
        )
    return [round(layer * (have - 1) / max(1, num_layers - 1)) for layer in range(num_layers)]


def check_layers(layers: list[int], num_layers: int, owner: str) -> None:
    """Check that ``student.layers`` are among ``num_layers``, distinct and in ascending order.

    Raises:
        ModelError: They are not; names the layers' ``owner``.
    """
    if not layers or layers != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < num_layers:
        raise ModelError(
            f"student.layers: {layers} given; {owner} has layers 0 to {num_layers - 1}; "
            "list one or more of them, each once, in ascending order"
        )


def student_from_layers(
    teacher: PreTrainedModel, layers: list[int], owner: str = "the teacher", task: Task = SINGLE_LABEL
) -> PreTrainedModel:
    """Build a new model from the teacher's embeddings, the given layers, its pooler and its head.

    Args:
        teacher: A sequence classifier of a known family.
        layers: Layers to keep, from 0, ascending.
        owner: Name of the layers' owner, for the error message.
        task: The task of both.

    Raises:
        ModelError: The family is unknown, or a layer does not exist, is given twice or out of order.
    """
    place = f"{teacher.base_model_prefix}.{family_of(teacher, 'student.layers', 'layers').layers}"
    num_layers = teacher.config.num_hidden_layers
    check_layers(layers, num_layers, owner)
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    student = new_classifier(config, task)
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
