"""Find a checkpoint by directory, hub id or package; load it, save it and hash its contents."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from ...errors import ModelError, user_path
from ...storage.folders import file_sha256
from ..models.families import first_position
from ..models.runtime import quiet
from ..models.structured_pruning import classifier_class
from ..tasks import SINGLE_LABEL, Task
from .config_file import CONFIG_FILE, read_config
from .loading import loading
from .model_weights import fill_model
from .offline import OFFLINE_PREFIX, offline_directory
from .weight_files import WEIGHTS_FILE, read_weights, weight_files
from .word_pieces import check_pieces, check_table, check_tokenizer_files

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt")
_HUB_FILES = [
    CONFIG_FILE,
    "*.safetensors",
    "*.safetensors.index.json",
    *_TOKENIZER_FILES,
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
]


def resolve_checkpoint(name: str, sha256: str | None = None) -> str:
    """Resolve a checkpoint's name to a directory that transformers can load, or to a hub id.

    Args:
        name: A directory, a hub id, or ``offline:NAME`` for a model that the extra ``offline`` installs.
        sha256: Expected hash of ``model.safetensors``; an ``offline:`` model is always checked against its own.

    Raises:
        ModelError: There is no such directory or package, it is not a checkpoint, or its weights' hash differs.
    """
    if name.startswith(OFFLINE_PREFIX):
        directory, expected = offline_directory(name.removeprefix(OFFLINE_PREFIX))
        _check_sha256(directory, expected, name)
    elif (path := user_path(name, "checkpoint", ModelError)).is_dir():
        directory = path
    elif name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists():
        raise ModelError(
            f"{name!r}: no such checkpoint directory; give a directory that contains {CONFIG_FILE} and "
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


def load_classifier(directory: str | Path, task: Task = SINGLE_LABEL) -> tuple[PreTrainedModel, Any]:
    """Load a task's trained model, in 32 bits and evaluation mode, and its tokenizer.

    Raises:
        ModelError: It cannot be loaded, weights (such as its classification head) are missing or do not match its
            configuration's shapes, or it has fewer embeddings than token ids.
    """
    model, tokenizer = load_model(directory, complete=True, task=task), load_tokenizer(directory)
    check_table(tokenizer, model.config, directory)
    return model, tokenizer


def load_config(name: str | Path) -> PreTrainedConfig:
    """Load a checkpoint's configuration; raise ``ModelError`` if it cannot be loaded."""
    return read_config(local_directory(name))


def load_model(
    name: str | Path, *, complete: bool = False, task: Task = SINGLE_LABEL, **config: Any
) -> PreTrainedModel:
    """Load a task's model in 32 bits and evaluation mode; a missing head is newly initialized.

    Always load students with this function: transformers alone rejects a model with pruned attention heads.

    Args:
        name: Directory or hub id.
        complete: Reject a checkpoint that lacks a head.
        task: The task that its head is for.
        **config: Fields of the model's configuration to set, for example ``id2label``; a head whose shape no longer
            fits is then newly initialized.

    Raises:
        ModelError: It cannot be loaded, its weights are not finite, or encoder weights are missing or do not match
            the configuration's shapes.
    """
    directory = local_directory(name)
    own = read_config(directory)
    model_class = classifier_class(own, task)
    fits = not config and has_own_head(model_class, own)
    for field, value in config.items():
        setattr(own, field, value)
    weights = read_weights(directory)
    return fill_model(model_class, own, weights, name, complete=complete, head_fits=fits)[0]


def has_own_head(model_class: Any, config: PreTrainedConfig) -> bool:
    """Return whether a checkpoint's configuration names this model class, so that its head must fit."""
    named = config.architectures
    return isinstance(named, list) and model_class.__name__ in named


def new_classifier(config: PreTrainedConfig, task: Task = SINGLE_LABEL) -> PreTrainedModel:
    """Build a task's untrained model of these shapes; seed torch first."""
    return classifier_class(config, task)(config)


def load_tokenizer(name: str | Path) -> Any:
    """Load the fast tokenizer of a checkpoint.

    Raises:
        ModelError: It is missing or empty, cannot be loaded, is not a fast tokenizer, or cannot pad.
    """
    directory = local_directory(name)
    check_tokenizer_files(directory)
    # Without a configuration, transformers would read the unchecked config.json to choose the tokenizer's class.
    config = read_config(directory) if (directory / CONFIG_FILE).is_file() else None
    with loading(name):
        tokenizer = AutoTokenizer.from_pretrained(
            str(directory), config=config, trust_remote_code=False, local_files_only=True
        )
    if not tokenizer.is_fast:
        raise ModelError(f"{name}: has no fast tokenizer; save it with tokenizer.json")
    check_pieces(tokenizer, directory)
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{name}: its tokenizer has no padding token; set pad_token and save it again")
    return tokenizer


def save_checkpoint(model: PreTrainedModel, tokenizer: Any, directory: Path) -> None:
    """Write weights (safetensors), configuration and tokenizer."""
    # The settings of its last use would otherwise be saved too, and change the hash of the checkpoint.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    with quiet():
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def label_names(model: PreTrainedModel | PreTrainedConfig) -> list[str]:
    """Return the label names of a classifier, or of its configuration, in the order of its logits."""
    config: Any = getattr(model, "config", model)
    names: dict[Any, str] = config.id2label or {}
    return [str(names[index]) for index in sorted(names)]


def most_tokens(model: PreTrainedModel) -> int | None:
    """Return the largest number of tokens that a model has positions for; None if there is no limit."""
    positions = getattr(model.config, "max_position_embeddings", None)
    return None if positions is None else positions - first_position(model)


def check_max_length(model: PreTrainedModel, max_length: int, what: str) -> None:
    """Raise ``ModelError`` if ``max_length`` tokens exceed the model's positions."""
    positions = most_tokens(model)
    if positions is not None and max_length > positions:
        raise ModelError(
            f"training.max_length: {max_length} given; the {what} takes at most {positions} tokens; "
            f"set it to {positions} or less"
        )


def checkpoint_fingerprint(directory: str | Path) -> str:
    """Return a SHA-256 over a checkpoint's weights, configuration and tokenizer files, independent of its path."""
    directory = Path(directory)
    weights = sorted(path.name for path in directory.glob("*.safetensors"))
    digest = hashlib.sha256()
    for name in (*weights, CONFIG_FILE, *_TOKENIZER_FILES):
        path = directory / name
        digest.update(f"{name}:{file_sha256(path) if path.is_file() else ''}\n".encode())
    return digest.hexdigest()


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
    if not (directory / CONFIG_FILE).is_file():
        raise ModelError(
            f"{directory}: not a checkpoint: it has no {CONFIG_FILE}; give the directory of a model"
        )
    weight_files(directory)


def local_directory(name: str | Path) -> Path:
    """Return a checkpoint's local directory, downloading a hub id to the hub's cache once.

    Raises:
        ModelError: There is no such directory, and the hub has no such model or cannot be reached.
    """
    return Path(name) if Path(name).is_dir() else Path(_download(str(name)))


def _download(name: str) -> str:
    from huggingface_hub import snapshot_download

    with loading(name):
        return snapshot_download(name, allow_patterns=_HUB_FILES, ignore_patterns=["*/*"])
