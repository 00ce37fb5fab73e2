"""ONNX Runtime's execution providers: which are installed, whether a session has one, where its nodes run."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Sequence
from importlib import import_module, metadata, util
from typing import TYPE_CHECKING, Any

from ....errors import InputError

if TYPE_CHECKING:
    import onnxruntime as ort

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
NOT_INSTALLED = (
    "onnxruntime is not installed; run `pip install 'distiltune[cpu]'`, or with an NVIDIA GPU "
    "`pip install 'distiltune[gpu]'`"
)
_OF_NVIDIA = (CUDA, TENSORRT)
_PACKAGES = ("onnxruntime", "onnxruntime-gpu")  # both hold the module onnxruntime
_NEEDS = {
    CUDA: "an NVIDIA driver, and the CUDA and cuDNN libraries that this onnxruntime-gpu was built for",
    TENSORRT: "an NVIDIA driver, and the CUDA and TensorRT libraries that this onnxruntime-gpu was built for",
}
_GPU_INSTEAD = "run `pip uninstall -y onnxruntime`, then `pip install 'distiltune[gpu]'`"
RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"
"""Entry of a session's configuration, ``1`` or ``0``: whether it records which provider each node was assigned to."""


def installed_packages() -> dict[str, str]:
    """Return the installed distributions that contain the module ``onnxruntime``, with their versions."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def mixed_installation() -> str | None:
    """Return what is wrong, with the remedy, where both distributions are installed; None otherwise."""
    found = installed_packages()
    if len(found) < 2:
        return None
    both = " and ".join(f"{name} {version}" for name, version in found.items())
    return (
        f"{both} are both installed and overwrite each other's files; run `pip uninstall -y {' '.join(found)}`, then "
        "`pip install 'distiltune[gpu]'`, or 'distiltune[cpu]' without an NVIDIA GPU"
    )


def missing_provider(name: str) -> str | None:
    """Return why the installed ONNX Runtime has no such provider, and the remedy; None where it has it."""
    if util.find_spec("onnxruntime") is None:
        return NOT_INSTALLED
    import onnxruntime as ort

    available = ort.get_available_providers()
    if name in available:
        return mixed_installation() if name in _OF_NVIDIA else None
    reason = f"{name:.60} is not in this ONNX Runtime; it has {', '.join(available)}"
    if name not in _OF_NVIDIA:
        return reason
    return f"{reason}; {mixed_installation() or _GPU_INSTEAD}"


def provider_names(providers: Any) -> list[str]:
    """Return the names in a list of providers, or of pairs of name and options.

    Raises:
        InputError: It is not such a list, or the installed ONNX Runtime lacks one of them.
    """
    try:
        if isinstance(providers, str):
            raise TypeError
        names = [each if isinstance(each, str) else each[0] for each in providers]
        if not names or not all(isinstance(name, str) for name in names):
            raise TypeError
    except (TypeError, LookupError):
        raise InputError(
            f"providers is {providers!r:.60}; give a list of names, or of pairs of name and options"
        ) from None
    for name in names:
        if (reason := missing_provider(name)) is not None:
            raise InputError(f"providers: {reason}")
    return names


def check_started(session: ort.InferenceSession, name: str) -> None:
    """Check that a session runs on the provider that was requested first: ONNX Runtime falls back without an error.

    Raises:
        InputError: It runs on others; the message names them and what the requested one needs.
    """
    started = session.get_providers()
    if started[:1] == [name]:
        return
    needs = f"; it needs {_NEEDS[name]}" if name in _NEEDS else ""
    raise InputError(
        f"providers: {name} does not start on this machine, where ONNX Runtime would use {', '.join(started)}{needs}"
    )


def load_libraries(names: Sequence[str]) -> None:
    """Load the libraries of CUDA and TensorRT that were installed as Python packages, where a provider needs them.

    A library that cannot be loaded is reported when the session is opened.
    """
    if not set(names) & set(_OF_NVIDIA):
        return
    import onnxruntime as ort

    preload = getattr(ort, "preload_dlls", None)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        if preload is not None:
            preload()
    if TENSORRT in names and util.find_spec("tensorrt") is not None:
        with contextlib.suppress(Exception):
            import_module("tensorrt")


def count_nodes(session: ort.InferenceSession) -> dict[str, int] | None:
    """Count the nodes of a session's graph by the provider that they were assigned to.

    Args:
        session: A session whose options had ``RECORD_ASSIGNMENT``.

    Returns:
        Provider → number of nodes; None where this version of ONNX Runtime, or this session, has not recorded it.
    """
    read = getattr(session, "get_provider_graph_assignment_info", None)
    if read is None:
        return None
    counts: Counter[str] = Counter()
    try:
        for part in read():
            counts[part.ep_name] += len(part.get_nodes())
    except Exception:  # its errors share no base class but Exception
        return None
    return dict(counts)
