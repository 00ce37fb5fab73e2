"""Describe the machine of a measurement: processor, instruction sets, operating system, versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ..training.machine import gpus, num_usable_cores

# Instruction sets by which ONNX Runtime and oneDNN select matrix kernels: x86 names first, then Arm's.
_INSTRUCTION_SETS = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "asimdhp",
    "bf16",
    "i8mm",
    "sve",
    "sve2",
)
_LIBRARIES = (
    "distiltune",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tokenizers",
    "torch",
    "transformers",
)


def without_load(machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of ``describe_machine`` without the load average, which changes by the minute."""
    return {name: fact for name, fact in machine.items() if name != "load_average"}


def describe_machine() -> dict[str, Any]:
    """Describe this machine and the libraries installed on it.

    Returns:
        ``cpu`` (model name), ``num_cores`` (of the system), ``num_usable_cores`` (available to this process),
        ``memory_gib``, ``instruction_sets``, ``os``, ``python``, ``versions`` (library → version) and
        ``load_average`` over the last minute, which shows whether the machine was busy. ``gpus`` has name,
        ``memory_gib``, ``driver`` and ``cuda`` version of each GPU, also of those that this process may not use.
    """
    model, flags = _processor()
    return {
        "cpu": model,
        "num_cores": os.cpu_count() or 1,
        "num_usable_cores": num_usable_cores(),
        "memory_gib": _memory_gib(),
        "instruction_sets": [name for name in _INSTRUCTION_SETS if name in flags],
        "gpus": [each.to_json() for each in gpus()],
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": _versions(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _processor() -> tuple[str, set[str]]:
    """Return the model name and feature flags, from ``/proc/cpuinfo`` where it exists."""
    fields: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    model = fields.get("model name") or platform.processor() or platform.machine()
    return model, set((fields.get("flags") or fields.get("Features") or "").split())


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
