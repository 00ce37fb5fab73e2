"""The model families whose parts are known."""

from __future__ import annotations

from transformers import PreTrainedModel

from ...errors import ModelError

# Model family -> where its list of layers lies below the base model.
FAMILIES = {
    "bert": "encoder.layer",
    "distilbert": "transformer.layer",
    "roberta": "encoder.layer",
}


def family_of(model: PreTrainedModel) -> str:
    """The model type, such as ``bert``.

    Raises:
        ModelError: It is not one of those whose layers are known.
    """
    family = model.config.model_type
    if family not in FAMILIES:
        raise ModelError(f"student: its family is {family!r}; supported: {', '.join(FAMILIES)}")
    return family
