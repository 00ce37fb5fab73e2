"""Fake GPUs, reported by torch and by a made-up ``nvidia-smi``."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from distiltune.training import machine

GIB = 2**30

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU on this machine")


def fake_cuda(monkeypatch: pytest.MonkeyPatch, num: int = 4, *, initialised: bool = False) -> None:
    """Make torch report some GPUs, of which it counts those that CUDA_VISIBLE_DEVICES names."""

    def count() -> int:
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        return num if named is None else len([each for each in named.split(",") if each])

    properties = SimpleNamespace(name="NVIDIA H200", total_memory=141 * GIB, major=9, minor=0)
    for name, answer in (
        ("device_count", count),
        ("is_available", lambda: count() > 0),
        ("is_initialized", lambda: initialised),
        ("current_device", lambda: 0),
        ("get_device_properties", lambda _: properties),
        ("get_device_name", lambda _: properties.name),
        ("get_device_capability", lambda _: (properties.major, properties.minor)),
    ):
        monkeypatch.setattr(torch.cuda, name, answer)


def fake_command(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, script: str) -> Path:
    """Put a shell script first on the PATH, under the name of a command."""
    folder.mkdir(exist_ok=True)
    command = folder / name
    command.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return command


def fake_driver(monkeypatch: pytest.MonkeyPatch, folder: Path, answer: str, status: int = 0) -> None:
    """Make ``nvidia-smi`` print a text and exit with a status."""
    (folder / "answer.xml").write_text(answer, encoding="utf-8")
    fake_command(monkeypatch, folder / "bin", "nvidia-smi", f'cat "{folder}/answer.xml"; exit {status}')
    machine.gpus.cache_clear()


TWO_GPUS = """<?xml version="1.0" ?>
<nvidia_smi_log>
  <driver_version>570.86.15</driver_version>
  <cuda_version>12.8</cuda_version>
  <attached_gpus>2</attached_gpus>
  <gpu id="00000000:18:00.0">
    <product_name>NVIDIA H200</product_name>
    <fb_memory_usage><total>143771 MiB</total><used>4 MiB</used></fb_memory_usage>
  </gpu>
  <gpu id="00000000:2A:00.0">
    <product_name>NVIDIA L4</product_name>
    <fb_memory_usage><total>N/A</total></fb_memory_usage>
  </gpu>
</nvidia_smi_log>
"""
