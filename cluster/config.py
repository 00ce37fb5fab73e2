"""The job's specification: its sections, presets, ``--set`` overrides, and one error for all faults of a file."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError

from ..errors import ConfigError
from ..export.config import BenchmarkConfig, ExportConfig
from ..search.config import SearchConfig
from ..training.config import DataConfig, Section, StudentConfig, TeacherConfig, TrainingConfig


class TaskResources(Section):
    """What one task takes of a node."""

    cpu: float = Field(default=1, ge=0, description="CPUs, also the number of threads it computes with.")
    gpu: float = Field(default=0, ge=0, description="GPUs; a fraction shares one.")


class ResourcesConfig(Section):
    """Where the work runs and how much of it each task takes."""

    address: str | None = Field(
        default=None, description="Ray cluster to attach to (host:port or auto); none starts a local one."
    )
    num_cpus: int | None = Field(
        default=None, ge=1, description="CPUs of the local Ray; default: all of this machine."
    )
    trial: TaskResources = Field(default_factory=TaskResources, description="One trial of the search.")
    teacher: TaskResources | None = Field(
        default=None,
        description="Fine-tuning the teacher and computing its logits; default: a whole node's CPUs.",
    )
    export: TaskResources = Field(default_factory=TaskResources, description="Making one variant.")


class StorageConfig(Section):
    """Where runs are kept."""

    path: str = Field(
        default="distiltune-runs", description="Directory that holds every run and the shared caches."
    )


class JobConfig(Section):
    """A whole job; every key has a default."""

    data: DataConfig = Field(default_factory=DataConfig, description="The labelled texts.")
    teacher: TeacherConfig = Field(
        default_factory=lambda: TeacherConfig.model_validate({}), description="The teacher."
    )
    student: StudentConfig = Field(
        default_factory=lambda: StudentConfig.model_validate({}), description="The student."
    )
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="One training.")
    search: SearchConfig = Field(default_factory=SearchConfig, description="The search.")
    export: ExportConfig = Field(default_factory=ExportConfig, description="The variants.")
    benchmark: BenchmarkConfig = Field(default_factory=BenchmarkConfig, description="The measurements.")
    storage: StorageConfig = Field(default_factory=StorageConfig, description="The run store.")
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig, description="Machines.")


def preset_names() -> list[str]:
    """Names that can stand in place of a file."""
    return sorted(p.name.removesuffix(".yaml") for p in _presets().iterdir() if p.name.endswith(".yaml"))
