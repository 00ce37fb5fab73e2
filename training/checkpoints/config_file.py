"""Read and check a checkpoint's ``config.json``, without the keys that would make transformers load something else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.activations import ACT2FN

from ...errors import ModelError
from ...storage.safe_reading import read_json, read_regular
from ..data.rows import nearest, shown
from ..models import convolution as convolution  # these register their model types
from ..models import static as static
from ..models.structured_pruning import KEPT_HEADS
from ..tasks.config import CONFIG_FILE as CONFIG_FILE
from ..tasks.config import MOST_BYTES
from .loading import loading

_MOST_LAYERS = 10_000
_MOST_LABELS = 1_000_000
_LARGEST = 2**31 - 1
# These keys are ignored: they name code and kernels to download, or weight and output formats that are fixed here.
_IGNORED = (
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "_attn_implementation_autoset",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
    "auto_map",
    "configuration_files",
    "dtype",
    "torch_dtype",
    "return_dict",
    "torchscript",
)
# These keys are rejected, with a remedy: their weights differ from the family's, or are stored elsewhere.
_REFUSED = {
    "quantization_config": "save it in full precision (dequantize) with save_pretrained",
    "compression_config": "save it in full precision with save_pretrained",
    "transformers_weights": "rename the weights to model.safetensors and remove this key",
    "fusion_config": "remove it",
    "per_layer_config": "use a model whose layers all have the same shape",
}
_LAYERS = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")
_NOT_NEGATIVE = ("initializer_range", "layer_norm_eps", "chunk_size_feed_forward", "type_vocab_size")
_COUNTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_dim",
    "max_position_embeddings",
)


def read_config(directory: Path) -> PreTrainedConfig:
    """Return the configuration of a checkpoint's directory.

    Raises:
        ModelError: It is missing or damaged, its family is unknown, it requires an unsupported feature (such as
            quantized weights), or its sizes or labels are impossible.
    """
    path = directory / CONFIG_FILE
    values = _read_values(path)
    for key, remedy in _REFUSED.items():
        if values.get(key) is not None:
            raise ModelError(f"{path}: {key}: {shown(values[key])} given, which is not supported; {remedy}")
    family = values.get("model_type")
    if not isinstance(family, str) or family not in CONFIG_MAPPING:
        near = nearest(family, CONFIG_MAPPING) if isinstance(family, str) else ""
        given = shown(family) + " given" if "model_type" in values else "missing"
        raise ModelError(
            f"{path}: model_type: {given}; accepted: a model type of transformers, such as bert, distilbert or "
            f"roberta{near}; correct it"
        )
    _check_numbers(path, values)
    _check_labels(path, values)
    with loading(path):
        config = CONFIG_MAPPING[family].from_dict(
            {key: value for key, value in values.items() if key not in _IGNORED}
        )
    _check_counts(path, config)
    return config


def _read_values(path: Path) -> dict[str, Any]:
    try:
        values = read_json(read_regular(path, MOST_BYTES).decode())
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(
            f"{path}: cannot be read ({shown(reason, 100)}); download the checkpoint again, or save it again with "
            "save_pretrained"
        ) from error
    return values


def _check_numbers(path: Path, values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ModelError(f"{path}: {key}: {value} given; accepted: a finite number; correct it")
        most = _MOST_LAYERS if key in _LAYERS else _LARGEST
        if isinstance(value, int) and abs(value) > most:
            raise ModelError(f"{path}: {key}: {shown(value)} given; accepted: at most {most}; correct it")
        at_most = 1.0 if "dropout" in key else math.inf
        if key in _NOT_NEGATIVE or "dropout" in key:
            is_valid = isinstance(value, int | float) and 0 <= value <= at_most
            if value is not None and not is_valid:
                accepted = "0 to 1" if at_most == 1 else "0 or more"
                raise ModelError(f"{path}: {key}: {shown(value)} given; accepted: {accepted}; correct it")


def _check_labels(path: Path, values: dict[str, Any]) -> None:
    remedy = "list in id2label each number from 0 to the number of labels - 1 with a unique name"
    names, count = values.get("id2label"), values.get("num_labels")
    if count is not None and (type(count) is not int or not 1 <= count <= _MOST_LABELS):
        raise ModelError(
            f"{path}: num_labels: {shown(count)} given; accepted: a whole number from 1 to {_MOST_LABELS}; {remedy}"
        )
    if names is None:
        return
    if not isinstance(names, dict) or not names:
        raise ModelError(
            f"{path}: id2label: {shown(names)} given; accepted: a mapping of numbers to names; {remedy}"
        )
    other = next((each for each in names.values() if not isinstance(each, str)), None)
    if other is not None or None in names.values():
        raise ModelError(f"{path}: id2label: contains {shown(other)}; accepted: names (text); {remedy}")
    expected = {str(number) for number in range(len(names))}
    if set(names) != expected:
        wrong, missing = sorted(set(names) - expected), sorted(expected - set(names))
        raise ModelError(
            f"{path}: id2label: contains {shown(wrong[0])} but not {shown(missing[0])} among its {len(names)} "
            f"labels; {remedy}"
        )
    seen: set[str] = set()
    for name in names.values():
        if name in seen:
            raise ModelError(f"{path}: id2label: {shown(name)} is the name of two labels; {remedy}")
        seen.add(name)
    if count is not None and count != len(names):
        raise ModelError(
            f"{path}: num_labels: {count} given, but id2label has {len(names)}; remove num_labels; {remedy}"
        )


def _check_counts(path: Path, config: PreTrainedConfig) -> None:
    for key in _COUNTS:
        value = getattr(config, key, None)
        if isinstance(value, int) and value < 1:
            raise ModelError(
                f"{path}: {_own_name(config, key)}: {value} given; accepted: 1 or more; correct it"
            )
    heads, kept = getattr(config, "num_attention_heads", None), getattr(config, KEPT_HEADS, None)
    width, rows = getattr(config, "hidden_size", None), getattr(config, "vocab_size", None)
    if isinstance(heads, int) and isinstance(width, int) and width % heads:
        raise ModelError(
            f"{path}: {_own_name(config, 'num_attention_heads')}: {heads} given; accepted: a divisor of "
            f"{_own_name(config, 'hidden_size')}, which is {width}; correct it"
        )
    pad = getattr(config, "pad_token_id", None)
    if isinstance(pad, int) and isinstance(rows, int) and pad >= rows:
        raise ModelError(
            f"{path}: pad_token_id: {pad} given; accepted: below vocab_size, which is {rows}; correct it"
        )
    for key in ("hidden_act", "activation"):
        value = getattr(config, key, None)
        if isinstance(value, str) and value not in ACT2FN:
            raise ModelError(
                f"{path}: {key}: {shown(value)} given; accepted: an activation of transformers, such as gelu or relu"
                f"{nearest(value, ACT2FN)}; correct it"
            )
    if kept is not None and (type(kept) is not int or not isinstance(heads, int) or not 1 <= kept <= heads):
        raise ModelError(
            f"{path}: {KEPT_HEADS}: {shown(kept)} given; accepted: a whole number from 1 to {heads}; correct it"
        )


def _own_name(config: PreTrainedConfig, key: str) -> str:
    """Return a field's name in the family's own config.json, such as ``n_heads``."""
    return config.attribute_map.get(key, key)
