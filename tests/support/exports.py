"""Plain ONNX graphs of tiny checkpoints, each exported once for all tests and processes of a session."""

import hashlib
import json
from pathlib import Path

from filelock import FileLock

from distiltune.export.onnx.convert import export_onnx
from distiltune.training.checkpoints.load import load_model


def exported(student: Path, max_length: int, folder: Path) -> Path:
    """Return the plain graph of a checkpoint, a file in ``folder`` that equal weights and shapes share."""
    config = json.loads((student / "config.json").read_text())
    shape = {name: value for name, value in config.items() if name not in ("id2label", "label2id")}
    content = hashlib.sha256(json.dumps([shape, max_length], sort_keys=True).encode())
    content.update((student / "model.safetensors").read_bytes())
    folder.mkdir(exist_ok=True)
    path = folder / f"{content.hexdigest()}.onnx"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            export_onnx(load_model(student).eval(), path, max_length=max_length)
    return path
