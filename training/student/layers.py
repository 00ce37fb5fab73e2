"""Build a model from some of another model's layers."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel

from ...errors import ModelError
from ..checkpoints.load import load_config, new_classifier
from ..models.families import family_of, with_layers
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


def check_layers(layers: list[int], source: PreTrainedConfig, owner: str) -> None:
    """Check that ``student.layers`` are layers of a model, distinct and in ascending order.

    Args:
        layers: The layers, from 0.
        source: Configuration of the model.
        owner: Its name, for the error message.

    Raises:
        ModelError: They are not, the model's layers cannot be selected, or its first layer is required and missing.
    """
    family, num_layers = family_of(source, "student.layers", "layers"), source.num_hidden_layers
    if not layers or layers != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < num_layers:
        raise ModelError(
            f"student.layers: {layers} given; {owner} has layers 0 to {num_layers - 1}; "
            "list one or more of them, each once, in ascending order"
        )
    if family.own_first_layer and layers[0] != 0:
        raise ModelError(
            f"student.layers: {layers} given, but the first layer of a {family.name} differs from the others and must "
            f"stay the first; begin with 0"
        )


def student_from_layers(
    teacher: PreTrainedModel, layers: list[int], owner: str = "the teacher", task: Task = SINGLE_LABEL
) -> PreTrainedModel:
    """Build a new model from the teacher's embeddings, the given layers, its pooler and its head.

    If all the given layers share weights in the teacher, they do so in the student; otherwise each has its own weights.

    Args:
        teacher: A sequence classifier of a known family.
        layers: Layers to keep, from 0, ascending.
        owner: Name of the layers' owner, for the error message.
        task: The task of both.

    Raises:
        ModelError: As :func:`check_layers`.
    """
    check_layers(layers, teacher.config, owner)
    family, config = family_of(teacher), with_layers(teacher.config, layers)
    place = f"{teacher.base_model_prefix}.{family.layers}"
    student, weights = new_classifier(config, task), teacher.state_dict()
    source_of = {
        f"{place}.{family.place_of_layer(config, number)}.": f"{place}.{family.place_of_layer(teacher.config, layer)}."
        for number, layer in enumerate(layers)
    }
    copied = {}
    for name in student.state_dict():
        prefix = next((prefix for prefix in source_of if name.startswith(prefix)), "")
        copied[name] = weights[source_of.get(prefix, "") + name.removeprefix(prefix)]
    student.load_state_dict(copied)
    return student.eval()
