"""The sections ``resources`` and ``storage``: where a job runs, what its tasks take, and where its runs are stored."""

from __future__ import annotations

from pydantic import Field, model_validator

from ...training.section import Amount, Name, PositiveAmount, Section, Threads


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


class TrialResources(TaskResources):
    """What a trial takes: ``cpu``, ``gpu`` and ``custom`` are what each of its processes takes of a node."""

    processes: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="Data-parallel processes of a trial, each with an equal part of every batch, on one or several "
        "nodes.",
    )

    @model_validator(mode="after")
    def _whole_gpus(self) -> TrialResources:
        if self.processes > 1 and self.gpu is not None and self.gpu % 1:
            raise ValueError(
                f"gpu {self.gpu:g} given with processes {self.processes}, but each process needs a GPU of its own; "
                "set gpu to 0 or 1, or processes to 1"
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
    teacher: TaskResources | None = Field(
        default=None,
        description="Training a teacher, computing its logits, and pretraining a student; default: all CPUs of a node, "
        "of which each teacher of an ensemble has a share of at least 4, or a GPU with a share.",
    )
    export: TaskResources = Field(
        default_factory=lambda: TaskResources(gpu=0), description="Building one variant."
    )
    benchmark: TaskResources = Field(
        default_factory=lambda: TaskResources(gpu=0),
        description="Minimum size of the node on which models are measured; all its CPUs are reserved meanwhile.",
    )
    autoscaling: list[TaskResources] = Field(
        default_factory=list,
        max_length=1000,
        description="Types of nodes that the cluster adds on demand: a job that fits one of them is accepted.",
    )


class StorageConfig(Section):
    """Where runs are stored."""

    path: Name = Field(
        default="distiltune-runs",
        description="Directory or URL (s3://, gs://, any that pyarrow or fsspec knows) of all runs and caches.",
    )
    reuse: bool = Field(
        default=True,
        description="Whether the search, each variant and each measurement of other runs in this storage are reused "
        "where their inputs are the same.",
    )
    retry_s: float = Field(
        default=60,
        ge=0,
        le=10**7,
        description="Seconds to retry a storage operation before a stage fails.",
    )
