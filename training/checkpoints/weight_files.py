"""Find and read the weight files of a checkpoint's directory, whole or only their headers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ...storage.safe_reading import read_json, read_regular
from ..data.rows import shown
from .loading import loading

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_ADAPTER_FILE = "adapter_config.json"
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_MOST_INDEX_BYTES = 64 << 20


def weight_files(directory: Path) -> list[Path]:
    """Return the files that hold a checkpoint's weights: ``model.safetensors``, or the shards of its index.

    Raises:
        ModelError: There are none, they are an adapter or a pickle, or the index names something other than a
            safetensors file in this directory.
    """
    if (directory / _ADAPTER_FILE).exists():
        raise ModelError(
            f"{directory}: contains an adapter ({_ADAPTER_FILE}), which is not supported; merge it into its model "
            f"(merge_and_unload) and save the result with save_pretrained"
        )
    if (directory / WEIGHTS_FILE).is_file():
        return [directory / WEIGHTS_FILE]
    if (directory / INDEX_FILE).is_file():
        return [_shard_path(directory, name) for name in _shard_names(directory / INDEX_FILE)]
    others = sorted(path.name for kind in ("*.bin", "*.safetensors") for path in directory.glob(kind))
    pickled = (
        f"only {others[0]}, a pickle, which is not loaded" if others and others[0].endswith(".bin") else ""
    )
    found = pickled or ", ".join(others[:3]) or "none"
    raise ModelError(
        f"{directory}: weights must be safetensors ({WEIGHTS_FILE} or {INDEX_FILE}), found {found}; "
        "if you trust it, load it and save it again with save_pretrained"
    )


def weight_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in a checkpoint's weight files by name, reading only their headers.

    Raises:
        ModelError: As for :func:`weight_files`, or a file is truncated or damaged.
    """
    return _map_tensors(directory, lambda file, name: tuple(file.get_slice(name).get_shape()))


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Return each tensor of a checkpoint by its name; raise ``ModelError`` as :func:`weight_shapes` does."""
    return _map_tensors(directory, lambda file, name: file.get_tensor(name))


def finite_weights(directory: Path) -> dict[str, bool]:
    """Return whether each tensor of a checkpoint is finite, holding one tensor in memory at a time.

    Raises:
        ModelError: As for :func:`weight_shapes`.
    """
    return _map_tensors(directory, lambda file, name: is_finite(file.get_tensor(name)))


def is_finite(value: Tensor) -> bool:
    """Return whether a tensor has neither NaN nor infinite values."""
    import torch

    # The sum is quick, but may overflow although all values are finite.
    return bool(torch.isfinite(value.sum()) or torch.isfinite(value).all())


def wrapped_name(directory: Path) -> str | None:
    """Return the stored name of a weight that was saved from a training wrapper; None if there is none."""
    return next((name for name in _map_stored(directory, lambda *_: None) if name != unwrapped(name)), None)


def _map_tensors(directory: Path, get: Any) -> dict[str, Any]:
    """Return ``get(file, name)`` of each tensor by its unwrapped name, or by stored names if two would be equal."""
    found = _map_stored(directory, get)
    own = {unwrapped(name): value for name, value in found.items()}
    return own if len(own) == len(found) else found


def _map_stored(directory: Path, get: Any) -> dict[str, Any]:
    """Return ``get(file, name)`` of each tensor by its name in the file."""
    from safetensors import safe_open

    found: dict[str, Any] = {}
    for path in weight_files(directory):
        with loading(path), safe_open(str(path), framework="pt") as file:
            found.update({name: get(file, name) for name in file.keys()})  # noqa: SIM118 (no mapping)
    return found


def unwrapped(name: str) -> str:
    """Return a weight's name without the parts that training wrappers add.

    ``torch.compile`` adds ``_orig_mod.``, data parallelism ``module.`` at the beginning, and FSDP
    ``_fsdp_wrapped_module.``; the wrapped module may be the whole model or a part of it.
    """
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def _shard_names(index: Path) -> list[str]:
    remedy = "save the model again with save_pretrained"
    try:
        weight_map = read_json(read_regular(index, _MOST_INDEX_BYTES).decode())["weight_map"]
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError("weight_map lists no file")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{index}: not an index of weight files ({shown(str(error))}); {remedy}") from error
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(
                f"{index}: weight_map names {shown(name)}; accepted: names of .safetensors files in the same "
                f"directory, without a path; {remedy}"
            )
    return sorted(set(weight_map.values()))


def _shard_path(directory: Path, name: str) -> Path:
    path, home = directory / name, directory.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":  # the hub's cache links to its folder of blobs
        allowed.append(home.parent.parent / "blobs")
    try:
        is_inside, exists = path.resolve().parent in allowed, path.is_file()
    except (OSError, ValueError):  # such as a name with a NUL byte
        is_inside, exists = False, False
    if not is_inside or not exists:
        fault = "is a link to a file outside of the directory" if exists else "does not exist"
        raise ModelError(
            f"{directory / INDEX_FILE}: names {shown(name)}, which {fault}; copy the whole checkpoint, or save the "
            "model again with save_pretrained"
        )
    return path
