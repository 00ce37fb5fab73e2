"""The sections ``resources`` and ``storage``: where a job runs, its tasks' resources, and where its runs are stored."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from ...search.trial.packing import AUTO
from ...training.section import Amount, Name, PositiveAmount, Section, Threads

_MOST_GPUS = 10**9


def _gpu_share(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value == AUTO or (is_number and 0 <= value <= _MOST_GPUS):
        return value
    raise ValueError(f"accepted: {AUTO}, or a number from 0 to {_MOST_GPUS:,}")


GpuShare = Annotated[Amount | Literal["auto"], BeforeValidator(_gpu_share)]


class TaskResources(Section):
    """The resources that one task takes on a node."""

    cpu: PositiveAmount = Field(default=1, description="CPUs, also the number of threads.")
    gpu: Amount | None = Field(
        default=None, description="GPUs; a fraction shares one; default: one if the cluster has any."
    )
    custom: dict[Name, Amount] = Field(
        default_factory=dict,
        max_length=100,
        description="Ray custom resources that the node must have, for example {benchmark_node: 1}.",
    )

    def gpus(self, default: float) -> float:
        """Return the requested GPUs, or the default if no number is given."""
        return self.gpu if isinstance(self.gpu, int | float) else default


class OneProcessResources(TaskResources):
    """The resources of a task that one process computes."""

    work: ClassVar[str]
    """What the process does, for the message."""

    @model_validator(mode="after")
    def _one_gpu(self) -> OneProcessResources:
        if self.gpu is not None and self.gpu > 1:
            raise ValueError(
                f"gpu {self.gpu:g} given, but {self.work} by one process, which computes on one GPU; set gpu to 1 or "
                "less"
            )
        return self


class TeacherResources(OneProcessResources):
    """The resources that each teacher takes on a node."""

    work: ClassVar[str] = "a teacher is trained"


class ExportResources(OneProcessResources):
    """The resources that building a variant takes on a node; no GPU unless it is requested."""

    work: ClassVar[str] = "a variant is built"
    gpu: Amount | None = Field(
        default=0, description="GPUs; a fraction shares one; null: one if the cluster has any."
    )


class BenchmarkResources(OneProcessResources):
    """The resources that a measurement takes on a node, at least."""

    work: ClassVar[str] = "a model is measured"
    gpu: Amount | None = Field(
        default=None,
        description="GPUs that all measurements reserve; default: none. Those of a GPU target in `benchmark.targets` "
        "reserve one in any case.",
    )

    def gpus(self, default: float) -> float:
        """Return the requested GPUs, by default none, whatever the cluster has."""
        return super().gpus(0)


class NodeResources(TaskResources):
    """The resources of a node."""

    cpu: PositiveAmount = Field(default=1, description="CPUs.")
    gpu: Amount | None = Field(default=0, description="GPUs.")


class TrialResources(TaskResources):
    """The resources of a trial: each of its processes takes ``cpu``, ``gpu`` and ``custom`` on a node."""

    gpu: GpuShare = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=AUTO,
        description="GPUs; a fraction shares one. `auto`: as many trials share a GPU as its free memory and the CPUs "
        "of its node allow; none if the cluster has no GPU.",
    )
    processes: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="Data-parallel processes of a trial, each with an equal part of every batch, on one or several "
        "nodes.",
    )

    @model_validator(mode="after")
    def _one_gpu_for_each_process(self) -> TrialResources:
        gpu = self.gpus(1)
        if self.processes > 1 and gpu not in (0, 1):
            raise ValueError(
                f"gpu {gpu:g} given with processes {self.processes}, but each process needs a GPU of its own, and "
                "computes on no other; set gpu to 0 or 1, or processes to 1"
            )
        if gpu > 1:
            raise ValueError(
                f"gpu {gpu:g} given with processes 1, but a process computes on one GPU; set processes to "
                f"{math.ceil(gpu)} and gpu to 1"
            )
        return self


class ResourcesConfig(Section):
    """Where the job runs, and the resources of each task."""

    address: Name | None = Field(
        default=None, description="Ray cluster to attach to (host:port or auto); null starts a local one."
    )
    num_cpus: Threads | None = Field(
        default=None, description="CPUs of the local Ray; default: all CPUs of this machine."
    )
    trial: TrialResources = Field(default_factory=TrialResources, description="One trial of the search.")
    teacher: TeacherResources | None = Field(
        default=None,
        description="Training a teacher, computing its logits, and pretraining a student; default: all CPUs of a node "
        "and a GPU if there are any; several teachers share the CPUs, with at least 4, or a GPU, for each.",
    )
    mps: bool = Field(
        default=False,
        description="Run CUDA's Multi-Process Service on the nodes with GPUs during the search, where "
        "nvidia-cuda-mps-control is installed: kernels of several trials then run on a GPU at the same time. Trials of "
        "several processes, each with a GPU of its own, do not use it.",
    )
    measure_packing: bool = Field(
        default=False,
        description="With `trial.gpu: auto`, also measure 1, 2, 4, ... trials in parallel on a GPU, until doubling "
        "their number no longer pays; takes up to a few minutes.",
    )
    export: ExportResources = Field(default_factory=ExportResources, description="Building one variant.")
    benchmark: BenchmarkResources = Field(
        default_factory=BenchmarkResources,
        description="Minimum size of the node on which models are measured; all its CPUs are reserved meanwhile.",
    )
    autoscaling: list[NodeResources] = Field(
        default_factory=list,
        max_length=1000,
        description="Types of nodes that the cluster adds on demand: a job that fits one of them is accepted, and "
        "their GPUs count as GPUs of the cluster.",
    )

    @property
    def gpus_on_demand(self) -> float:
        """GPUs of the types of nodes that the cluster adds on demand."""
        return sum(node.gpus(0) for node in self.autoscaling)


class StorageConfig(Section):
    """Where runs are stored."""

    path: Name = Field(
        default="distiltune-runs",
        description="Directory or URL (s3://, gs://, any that pyarrow or fsspec knows) of all runs and caches.",
    )
    reuse: bool = Field(
        default=True,
        description="Whether the search, each variant and each measurement of other runs in this storage are reused "
        "if their inputs are the same.",
    )
    retry_s: float = Field(
        default=60,
        ge=0,
        le=10**7,
        description="Seconds to retry a storage operation before a stage fails.",
    )
    checkpoint_every_s: float = Field(
        default=0,
        ge=0,
        le=10**7,
        description="Seconds after which an epoch of a trial gets a checkpoint to resume from even if it is neither "
        "the best so far nor the last; 0: every epoch gets one.",
    )
