"""The sealed artifact: a plain folder whose manifest holds the SHA-256 of every file in it."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from ..storage.folders import new_folder
from .runtime import CONFIG_FILE, MODEL_FILE, TOKENIZER_FILE

MANIFEST_FILE = "manifest.json"
CARD_FILE = "README.md"
FORMAT_VERSION = 1

_REQUIRED = (MODEL_FILE, TOKENIZER_FILE, CONFIG_FILE)
_OPTIONAL = (MODEL_FILE + ".data",)


@dataclass(frozen=True)
class Manifest:
    """What a sealed artifact holds, and what made it.

    Attributes:
        format_version: of the folder's layout.
        files: name → ``{"sha256": hex, "bytes": int}`` of every file but the manifest.
        made_from: data hash, teacher, hyperparameters, versions; free of form.
        measurements: the chosen variant's row of the report.
    """

    format_version: int
    files: dict[str, dict[str, Any]]
    made_from: dict[str, Any]
    measurements: dict[str, Any]


def seal_artifact(
    source_dir: str | Path,
    out_dir: str | Path,
    *,
    made_from: dict[str, Any],
    measurements: dict[str, Any],
    session: dict[str, Any] | None = None,
    num_threads: int | None = None,
) -> Path:
    """Seal an exported ONNX variant into ``out_dir``, with a manifest and a model card.

    An artifact that stands in ``out_dir`` is replaced, so that a stage that was cut off can be repeated.

    Args:
        source_dir: a variant: ``model.onnx``, ``tokenizer.json``, ``config.json``; other files stay behind.
        out_dir: the artifact's folder; it appears complete or not at all.
        made_from: what made it; JSON values.
        measurements: what was measured on it; JSON values.
        session: session options that it was measured with, for its ``config.json``.
        num_threads: intra-op threads that it was measured with, likewise.

    Returns:
        ``out_dir``.

    Raises:
        ArtifactError: ``source_dir`` lacks a file.
    """
    source, target = Path(source_dir), Path(out_dir)
    names = [*_REQUIRED, *(name for name in _OPTIONAL if (source / name).is_file())]
    for name in names:
        if not (source / name).is_file():
            raise ArtifactError(f"{source}: {name} is missing; only an exported ONNX variant can be sealed")
    config = json.loads((source / CONFIG_FILE).read_text(encoding="utf-8"))
    with new_folder(target) as folder:
        for name in names:
            shutil.copyfile(source / name, folder / name)
        measured_with = {"session": session or None, "num_threads": num_threads}
        told = {name: value for name, value in measured_with.items() if value is not None}
        if told:
            text = json.dumps(config | told, indent=2, ensure_ascii=False) + "\n"
            (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
        card = _model_card(config.get("labels", []), made_from, measurements)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        files = {name: _fingerprint(folder / name) for name in sorted([*names, CARD_FILE])}
        manifest = Manifest(FORMAT_VERSION, files, made_from, measurements)
        text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
    return target


def verify_artifact(directory: str | Path) -> Manifest:
    """Check every file of the artifact against its manifest.

    Raises:
        ArtifactError: a file is missing, is not listed, or differs; the message names it.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ArtifactError(f"{directory}: no such folder; give the folder of an artifact")
    manifest = _read_manifest(directory / MANIFEST_FILE)
    present = {entry.name for entry in directory.iterdir()} - {MANIFEST_FILE}
    for name in sorted(present - set(manifest.files)):
        raise ArtifactError(
            f"{directory}: {name} is not in the manifest; remove it or pull the artifact again"
        )
    for name, expected in sorted(manifest.files.items()):
        path = directory / name
        if path.is_symlink() or not path.is_file():
            raise ArtifactError(f"{directory}: {name} is missing; pull the artifact again")
        if _fingerprint(path) != {"sha256": expected.get("sha256"), "bytes": expected.get("bytes")}:
            raise ArtifactError(
                f"{directory}: {name} was changed, its SHA-256 is not the manifest's; pull the artifact again"
            )
    return manifest


def copy_artifact(source: str | Path, target: str | Path) -> Path:
    """Copy a sealed artifact; it appears under ``target`` only after every hash was verified.

    Raises:
        ArtifactError: the copy does not match its manifest, ``target`` exists, or cannot be written.
    """
    source, target = Path(source), Path(target)
    if target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ArtifactError(f"{target} exists already; give a folder that does not")
    manifest = _read_manifest(source / MANIFEST_FILE)
    for name in manifest.files:
        if not (source / name).is_file():
            raise ArtifactError(f"{source}: {name} is missing; the artifact is incomplete, seal it again")
    try:
        with _folder_beside(target) as folder:
            for name in [*manifest.files, MANIFEST_FILE]:
                shutil.copyfile(source / name, folder / name)
            verify_artifact(folder)
            folder.rename(target)
    except OSError as error:
        raise ArtifactError(f"{target}: cannot write the artifact ({error})") from error
    return target


def _read_manifest(path: Path) -> Manifest:
    if not path.is_file():
        raise ArtifactError(f"{path.parent}: {path.name} is missing; this is not a sealed artifact")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(**content)
        names = list(manifest.files)
        whole = all(isinstance(entry, dict) for entry in manifest.files.values())
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: not a manifest ({error}); pull the artifact again") from error
    if manifest.format_version != FORMAT_VERSION:
        raise ArtifactError(
            f"{path}: format_version is {manifest.format_version!r}, this distiltune reads {FORMAT_VERSION}"
        )
    for name in names:
        # A name with a directory in it could make a copy write outside its folder.
        if name in ("", ".", "..", MANIFEST_FILE) or "/" in name or "\\" in name or not whole:
            raise ArtifactError(f"{path}: entry {name!r} is not allowed; pull the artifact again")
    for name in _REQUIRED:
        if name not in manifest.files:
            raise ArtifactError(f"{path}: {name} is not listed; pull the artifact again")
    return manifest


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """A temporary folder on the target's own file system, so that a rename can put it in place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        folder.chmod(0o755)  # mkdtemp's 0700 would stay on the artifact
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _model_card(labels: list[str], made_from: dict[str, Any], measurements: dict[str, Any]) -> str:
    lines = [
        "---",
        "library_name: onnxruntime",
        "pipeline_tag: text-classification",
        "tags: [distiltune, distillation, onnx]",
        "---",
        "",
        "# Text classifier",
        "",
        f"Puts a text under one of {len(labels)} labels. Made by distiltune; needs only onnxruntime,",
        "tokenizers and numpy:",
        "",
        "```",
        "pip install onnxruntime tokenizers numpy && pip install --no-deps distiltune",
        "```",
        "",
        "```python",
        "from distiltune import TextClassifier",
        "",
        'classifier = TextClassifier.load(".")',
        'classifier("your text")  # {"label": …, "score": …}',
        "```",
        "",
        *_card_table("Measured", measurements),
        *_card_table("Made from", made_from),
        "## Labels",
        "",
        ", ".join(f"`{label}`" for label in labels),
        "",
    ]
    return "\n".join(lines)


def _card_table(title: str, values: dict[str, Any]) -> list[str]:
    rows = [f"| {name} | {value} |" for name, value in _flatten(values)]
    return [f"## {title}", "", "| | |", "| --- | --- |", *rows, ""] if rows else []


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        elif value is not None:
            text = f"{value:.5g}" if isinstance(value, float) else str(value)
            yield f"{prefix}{name}", text.replace("|", "\\|").replace("\n", " ")
