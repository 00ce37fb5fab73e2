"""What is checked before a stage has cost anything: models and resources that the job names."""

from __future__ import annotations

from ..errors import ConfigError, ModelError
from .config import JobConfig, ResourcesConfig, TaskResources


def check_models(config: JobConfig) -> None:
    """Refuse checkpoints that are not there, and a student of layers that the teacher does not have.

    Raises:
        ModelError: Which one, and what there is.
    """
    from ..training.checkpoints import load_config, resolve_checkpoint

    if config.student.checkpoint is not None:
        load_config(resolve_checkpoint(config.student.checkpoint))
    teacher = config.teacher
    if teacher.scratch is not None:
        num_layers = teacher.scratch.num_hidden_layers
    else:
        tuned = teacher.fine_tune
        name = tuned.checkpoint if tuned else teacher.checkpoint
        assert name is not None, "one of the three is there"
        loaded = load_config(resolve_checkpoint(name, tuned.sha256 if tuned else None))
        num_layers = loaded.num_hidden_layers
    if config.student.from_teacher is not None:
        layers = config.student.from_teacher.layers
        if layers != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < num_layers:
            raise ModelError(
                f"student.from_teacher.layers: {layers} given; the teacher has layers 0 to {num_layers - 1}, "
                "name some of them in rising order, each once"
            )


def check_resources(resources: ResourcesConfig) -> None:
    """Refuse a task that no node of the connected cluster can ever hold: it would wait for ever.

    Raises:
        ConfigError: Which task, what it asks for, and what the nodes have.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    shown = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
    for name in ("trial", "teacher", "export"):
        asked: TaskResources | None = getattr(resources, name)
        if asked is None:
            continue
        gpus = asked.gpu or 0
        if not any(node.get("CPU", 0) >= asked.cpu and node.get("GPU", 0) >= gpus for node in nodes):
            raise ConfigError(
                f"resources.{name}: {asked.cpu:g} CPUs and {gpus:g} GPUs given, and no node has that many "
                f"(nodes: {shown}); lower it, or attach to a larger cluster with resources.address"
            )
