"""Transfer a specification's input files from the submitting machine to the run store, and from there to nodes."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from ...errors import DataError, DistiltuneError, ModelError, user_path
from ...storage.filesystems import is_url, refuse_userinfo
from ...storage.folders import file_sha256, new_file, new_folder, write_file
from ...storage.retry import reason_of
from ...storage.store import Store
from ..specification.config import JobConfig

INPUTS = "cache/inputs"
REFERENCE = "storage:"
_LOGITS_KEY = ("logits", "path")  # of a teacher that is a file

_CHECKPOINT_SUFFIXES = (".json", ".safetensors", ".txt", ".model")  # no optimizer state, no pickles
_DATASET_SUFFIXES = (".json", ".arrow")


def ship_inputs(config: JobConfig, store: Store) -> JobConfig:
    """Upload every local file and checkpoint of the specification to the store.

    Their keys are derived from their content, so that nothing is uploaded twice. Hub ids, ``offline:…``, URLs and
    references into the store stay as they are.

    Args:
        config: The specification.
        store: The run store.

    Returns:
        The specification with ``storage:cache/inputs/…`` in place of local paths.

    Raises:
        DataError: A data file does not exist; nothing was uploaded.
        ModelError: A checkpoint does not exist or is not valid; nothing was uploaded.
        StorageError: The store cannot be written.
    """
    from ...training.data.rows import collect

    names = _names(config)
    files = {key: name for key, name in names.items() if _is_of_texts(key) and _is_local(name)}
    found = collect([lambda key=key, name=name: _file(key, name) for key, name in files.items()])
    sources = dict(zip(files, found, strict=True))
    for key, name in names.items():
        if not _is_of_texts(key) and _is_local_checkpoint(name, ".".join(key)):
            sources[key] = _checkpoint(config, key, name)
    return _replaced(config, {key: _send(path, store) for key, path in sources.items()})


def with_local_inputs(config: JobConfig, store: Store) -> JobConfig:
    """Download a specification's inputs from the store, and its data files from URLs, to this machine.

    Returns:
        The specification with paths of this machine in their place.

    Raises:
        DataError: A data file is not in the store, or its URL cannot be read.
        ModelError: A checkpoint is not in the store.
        StorageError: The store cannot be reached.
    """
    paths = {}
    for key, name in _names(config).items():
        if name.startswith(REFERENCE):
            paths[key] = str(_fetch(key, name, store))
        elif _is_of_texts(key) and is_url(name):
            paths[key] = str(_download(key, name))
    return _replaced(config, paths)


def has_references(config: JobConfig) -> bool:
    """Return whether a specification has references into the store, which ``ship_inputs`` inserts for local paths."""
    return any(name.startswith(REFERENCE) for name in _names(config).values())


def data_is_local(config: JobConfig) -> bool:
    """Return whether this machine can read the data without network access."""
    named = [name for key, name in _names(config).items() if _is_of_texts(key)]
    unlabelled = config.data.unlabelled
    of_hub = config.data.is_remote or (unlabelled is not None and unlabelled.dataset is not None)
    return not of_hub and all(_is_local(name) for name in named)


def _names(config: JobConfig) -> dict[tuple[str, ...], str]:
    """Map the path of every key that may name a file or directory to its value.

    Raises:
        ConfigError: A URL holds credentials.
    """
    found: dict[tuple[str, ...], str | None] = {
        ("data", field): getattr(config.data, field)
        for field in (*config.data.local_files, *config.data.optional_files)
    }
    if config.data.unlabelled is not None:
        found["data", "unlabelled", "path"] = config.data.unlabelled.path
    for path, teacher in config.teacher.sections():
        found[*path, "checkpoint"] = teacher.checkpoint
        if teacher.logits is not None:
            found[*path, *_LOGITS_KEY] = teacher.logits.path
        if teacher.fine_tune is not None:
            found[*path, "fine_tune", "checkpoint"] = teacher.fine_tune.checkpoint
    found |= {("student", *path): name for path, name in config.student.checkpoints().items()}
    found["benchmark", "model2vec"] = config.benchmark.model2vec
    named = {key: name for key, name in found.items() if name is not None}
    for key, name in named.items():
        refuse_userinfo(".".join(key), name)
    return named


def _replaced(config: JobConfig, values: dict[tuple[str, ...], str]) -> JobConfig:
    for key, value in values.items():
        config = _with(config, key, value)
    return config


def _with(part: Any, key: tuple[str, ...], value: str) -> Any:
    """Return a copy of a section, or of a list of sections, with another value at the path of a key in it."""
    if not key:
        return value
    name, *rest = key
    if isinstance(part, list):
        place = int(name)
        return [*part[:place], _with(part[place], tuple(rest), value), *part[place + 1 :]]
    return part.model_copy(update={name: _with(getattr(part, name), tuple(rest), value)})


def _is_of_texts(key: tuple[str, ...]) -> bool:
    """Return whether a key names a file with texts, rather than a checkpoint."""
    return key[0] == "data" or key[-2:] == _LOGITS_KEY


def _is_local(name: str) -> bool:
    return not name.startswith(REFERENCE) and not is_url(name)


def _is_local_checkpoint(name: str, parameter: str) -> bool:
    """Return whether a checkpoint's name is, or looks like, a path; a hub id is ``name`` or ``owner/name``."""
    if name.startswith((REFERENCE, "offline:")):
        return False
    path = user_path(name, parameter, ModelError)
    return path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1


def _file(key: tuple[str, ...], name: str) -> Path:
    from ...training.data.sources.files import existing_data, existing_file

    existing = existing_file if "unlabelled" in key else existing_data
    return existing(name, ".".join(key)).absolute()


def _checkpoint(config: JobConfig, key: tuple[str, ...], name: str) -> Path:
    from ...training.checkpoints.load import resolve_checkpoint
    from ...training.checkpoints.loading import naming

    tuned = (each.fine_tune for path, each in config.teacher.sections() if key[:-1] == (*path, "fine_tune"))
    sha256 = next((each.sha256 for each in tuned if each is not None), None)
    with naming(".".join(key)):
        return Path(resolve_checkpoint(name, sha256)).absolute()


def _send(path: Path, store: Store) -> str:
    files = _files_of(path)
    digest = hashlib.sha256(f"{path.name}\n".encode())
    for file in files:
        digest.update(
            f"{file.relative_to(path) if path.is_dir() else path.name}:{file_sha256(file)}\n".encode()
        )
    key = f"{INPUTS}/{digest.hexdigest()}"
    if not store.has_folder(key):
        with new_folder(store.local(key), keep_existing=True) as folder:
            for file in files:
                target = folder / path.name / file.relative_to(path) if path.is_dir() else folder / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        store.publish(key, shared=True)
    return f"{REFERENCE}{key}/{path.name}"


def _files_of(path: Path) -> list[Path]:
    """Return the files that are sent: a file itself, those of a saved dataset, or those of a checkpoint."""
    from ...training.data.sources.files import is_saved

    if path.is_file():
        return [path]
    of_data = is_saved(path)
    suffixes = _DATASET_SUFFIXES if of_data else _CHECKPOINT_SUFFIXES
    return sorted(
        file
        for file in (path.rglob("*") if of_data else path.iterdir())
        if file.is_file() and file.suffix in suffixes and not file.name.startswith(".")
    )


def _fetch(key: tuple[str, ...], name: str, store: Store) -> Path:
    folder, _, file = name.removeprefix(REFERENCE).rpartition("/")
    try:
        path = store.fetch(folder) / file
    except FileNotFoundError:
        path = None
    if path is None or not path.exists():
        fault = DataError if _is_of_texts(key) else ModelError
        raise fault(
            f"{'.'.join(key)}: {name} does not exist in {store}; submit the job again from a machine that has the "
            f"file"
        )
    return path


def _download(key: tuple[str, ...], url: str) -> Path:
    """Download the file at a URL to this machine, unless the local copy is up to date."""
    base, question, query = url.partition("?")
    parent, _, name = base.rpartition("/")
    address = f"{parent}{question}{query}"
    parameter = ".".join(key)
    try:
        store = Store(address, retry_s=5)
        if store.directory is not None:
            return store.directory / name
        return _updated_copy(store, name)
    except FileNotFoundError:
        reason = "there is no such file"
    except (DistiltuneError, OSError) as error:
        cause = error.__cause__ or error
        reason = reason_of(cause)
    raise DataError(f"{parameter}: {base} cannot be read ({reason}); check the URL and its credentials")


def _updated_copy(store: Store, name: str) -> Path:
    """Return the local copy of a file, after downloading it if its size or time of modification has changed."""
    info = store.filesystem.get_file_info(store.at(name))
    target = store.local(name)
    stamp = target.with_name(f"{name}.stamp")
    version = f"{info.size} {info.mtime_ns}"
    has_copy = info.mtime_ns is not None and target.is_file() and stamp.is_file()
    if has_copy and stamp.read_text(encoding="utf-8") == version:
        return target
    with new_file(target) as incoming:
        store.download(name, incoming)
    write_file(stamp, version)
    return target
