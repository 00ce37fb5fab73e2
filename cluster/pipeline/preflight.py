"""What is checked before a stage has cost anything: the models, resources and storage that the job names."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, DistiltuneError
from ...storage.store import Store
from ..specification.config import JobConfig, ResourcesConfig, TaskResources, TrialResources

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ...training.data.text_data import TextData

logger = logging.getLogger(__name__)

_PATIENCE_S = 5.0  # how long one node tries the storage again
_ANSWER_WITHIN_S = 90.0  # a worker's start included
_PROBES = "cache/probes"
_MANY_UNKNOWN = 0.1  # share of characters; of ordinary texts it is below 0.01, with an emoji in each 0.05


def check_models(config: JobConfig) -> None:
    """Refuse checkpoints that are not there or not whole, and a student that cannot be made of the teacher.

    By the headers of their weight files: layers, pieces, heads and feed-forward rows that there are not.

    Raises:
        ModelError: Which one, and what there is.
        ConfigError: The graphs of the student cannot be run.
    """
    from ...export.onnx.opset import check_opset
    from ...search.space.space import STUDENT_HEADS, STUDENT_ROWS, end_values
    from ...search.space.students import searched_width
    from ...training.checkpoints.load import load_tokenizer, resolve_checkpoint
    from ...training.models.families import family_of
    from ...training.student.layers import check_layers
    from ...training.student.vocabulary import pieces_to_keep
    from ...training.student.width import check_width
    from ...training.teacher.from_scratch import scratch_shapes

    check_opset(config.export.opset)
    teachers = None
    own_shapes = None
    if config.student.checkpoint is not None:
        with _naming("student.checkpoint"):
            own_shapes = _inspected(resolve_checkpoint(config.student.checkpoint), "student.checkpoint")
    teacher = config.teacher
    if teacher.scratch is not None:
        shapes = scratch_shapes(teacher.scratch)
    else:
        tuned = teacher.fine_tune
        name = tuned.checkpoint if tuned else teacher.checkpoint
        assert name is not None, "one of the three is there"
        key = "student.from_teacher" if config.student.checkpoint is None else None
        with _naming("teacher.fine_tune.checkpoint" if tuned else "teacher.checkpoint"):
            teachers = resolve_checkpoint(name, tuned.sha256 if tuned else None)
            shapes = _inspected(teachers, key, complete=tuned is None)
    space = config.search.space
    searched = [name for name in (STUDENT_HEADS, STUDENT_ROWS) if name in space]
    most = searched_width(None, {name: max(end_values(space[name])) for name in searched})
    for width, where in ((config.student.width, "student.width"), (most, "search.space.student")):
        if width is not None:
            check_width(width, own_shapes or shapes, where)
    if config.student.from_teacher is not None:
        layers = config.student.from_teacher.layers
        family_of(shapes, "student.from_teacher", "layers")
        check_layers(layers, shapes.num_hidden_layers, "student.from_teacher.layers", "the teacher")
    if config.student.layers is not None and own_shapes is not None:
        family_of(own_shapes, "student.layers", "layers")
        check_layers(config.student.layers, own_shapes.num_hidden_layers, "student.layers", "the checkpoint")
    if config.training.pruning is not None:
        family_of(own_shapes or shapes, "training.pruning", "layers")
    own = config.student.checkpoint
    pieces_of = teachers if own is None else resolve_checkpoint(own)
    if config.student.vocabulary is not None and pieces_of is not None:
        wanted = config.student.vocabulary
        tokenizer, spelled = load_tokenizer(pieces_of), wanted.others == "spelled"
        pieces_to_keep(tokenizer, [], size=wanted.size, others_spelled=spelled)
    if config.student.pretraining is not None:
        from ...training.pretraining.pretrain_student import check_pretraining

        learnt_from = config.student.pretraining.checkpoint
        with _naming("student.pretraining.checkpoint"):
            check_pretraining(config.student.pretraining, config.student.checkpoint, teachers)
            if learnt_from is not None:
                _inspected(resolve_checkpoint(learnt_from))
    _warn_of_other_bits(config)


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Begin the message of what is wrong with a checkpoint with the key that names it."""
    try:
        yield
    except ModelError as error:
        message = str(error)
        named = message.startswith(key.rpartition(".")[0])
        raise ModelError(message if named else f"{key}: {message}") from error


def _warn_of_other_bits(config: JobConfig) -> None:
    """Say where a student learns to bear other bits than its graphs will have."""
    aware = config.training.quantization_aware
    if aware is None or aware.weight_bits == 7:
        return
    from ...export.variants.dynamic import int8_products_saturate

    if int8_products_saturate():
        logger.warning(
            "training.quantization_aware.weight_bits: %d, but this is an x86 processor without VNNI, where ONNX "
            "variants with 8-bit products hold weights in 7 bits; set it to 7, unless they are made on another machine",
            aware.weight_bits,
        )


def check_texts(config: JobConfig, data: TextData) -> None:
    """Refuse a checkpoint that does not fit the data: by its labels, or since its tokenizer does not know the script.

    Raises:
        ModelError: Which one, and the labels, or how much of the texts it does not know.
    """
    from ...training.checkpoints.heads import check_labels
    from ...training.checkpoints.load import label_names, load_config, load_tokenizer, resolve_checkpoint
    from ...training.checkpoints.word_pieces import check_known

    if config.teacher.checkpoint is not None:
        own = label_names(load_config(resolve_checkpoint(config.teacher.checkpoint)))
        check_labels(own, data.class_names, "teacher.checkpoint")
    tuned = config.teacher.fine_tune
    for parameter, name in (
        ("teacher.checkpoint", config.teacher.checkpoint),
        ("teacher.fine_tune.checkpoint", tuned.checkpoint if tuned else None),
        ("student.checkpoint", config.student.checkpoint),
    ):
        if name is None:
            continue
        share = check_known(
            load_tokenizer(resolve_checkpoint(name)), data.splits["train"]["text"][:], parameter
        )
        if share > _MANY_UNKNOWN:
            logger.warning(
                "%s: its tokenizer does not know %.0f %% of the characters of the training texts; one of their "
                "language and script would read them",
                parameter,
                100 * share,
            )


def check_new_pieces(config: JobConfig, data: TextData) -> None:
    """Refuse a student's vocabulary that cannot spell every text in the pieces that a new teacher will have.

    Those of a teacher from nothing are made of the training texts, in a moment: before it is trained.

    Raises:
        ModelError: What it needs at least.
    """
    from ...training.student.vocabulary import pieces_to_keep
    from ...training.teacher.from_scratch import train_tokenizer

    scratch, wanted = config.teacher.scratch, config.student.vocabulary
    if scratch is None or wanted is None or wanted.size is None or config.student.checkpoint is not None:
        return
    tokenizer = train_tokenizer(data.splits["train"]["text"][:], scratch.vocab_size)
    pieces_to_keep(tokenizer, [], size=wanted.size, others_spelled=wanted.others == "spelled")


def _inspected(name: str, key: str | None = None, *, complete: bool = False) -> PreTrainedConfig:
    """The configuration of a checkpoint whose files are as they should be.

    With a ``key`` also refuse a family that layers cannot be taken of and variants cannot be made of.
    """
    from ...training.checkpoints.load import inspect_checkpoint, load_config
    from ...training.models.families import family_of

    found = load_config(name)
    if key is not None:
        family_of(found, key)
    return inspect_checkpoint(name, complete=complete)


def check_resources(resources: ResourcesConfig) -> None:
    """Refuse a task that no node of the connected cluster, now or added on demand, can ever hold.

    Raises:
        ConfigError: Which task, what it asks for, and what the nodes have.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    added = [_needs(node, 0) for node in resources.autoscaling]
    gpus = min(1, sum(node.get("GPU", 0) for node in nodes))
    for name in ("trial", "teacher", "export", "benchmark"):
        asked: TaskResources | None = getattr(resources, name)
        if asked is None:
            continue
        needs = _needs(asked, gpus)
        processes = asked.processes if isinstance(asked, TrialResources) else 1
        places = sum(_places(node, needs) for node in nodes)
        if places >= processes or any(_places(node, needs) for node in added):
            continue
        given, found = _shown(needs, needs), "no node has that many"
        if processes > 1:
            given, found = f"{processes} processes of {given} each", f"they hold {places} of them"
        shown = "; ".join(_shown(node, needs) for node in (*nodes, *added)) or "none"
        raise ConfigError(
            f"resources.{name}: {given} given, and {found} (nodes: {shown}); lower it, attach to a larger cluster, "
            "or name the nodes that the cluster adds on demand in resources.autoscaling"
        )


def check_storage(store: Store) -> None:
    """Refuse a storage that a live node of the connected cluster cannot share with this process.

    Each node reads what this process wrote, and this process what each node wrote.

    Raises:
        ConfigError: Which nodes, and why.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes = {node["NodeID"]: _name(node) for node in ray.nodes() if node["Alive"]}
    if set(nodes) <= {here}:
        return
    quick = Store(store.url, min(store.retry_s, _PATIENCE_S))
    probe = f"{_PROBES}/{secrets.token_hex(8)}"
    quick.write(f"{probe}/{here}", here.encode())
    try:
        answers = _ask_nodes(quick, probe, here, [node for node in nodes if node != here])
        unseen = [node for node in answers if quick.read(f"{probe}/{node}") != node.encode()]
    finally:
        quick.delete(probe)
    problems = {node: answers[node] or "it sees other things than were written" for node in unseen}
    if not problems:
        return
    names = ", ".join(sorted({nodes[node] for node in problems}))
    if store.directory is not None:
        raise ConfigError(
            f"storage.path: {store} is a directory of one machine, {names} cannot share it; "
            "give s3://…, or a directory that all nodes mount"
        )
    reason = next(iter(problems.values()))
    raise ConfigError(
        f"storage.path: {store} cannot be used from {names} ({reason}); "
        "give its nodes network and credentials for it, or choose another with --storage DIR|URL"
    )


def _ask_nodes(store: Store, probe: str, here: str, nodes: list[str]) -> dict[str, str | None]:
    """Node id -> what keeps it from the storage, None for nothing; a node lost meanwhile is left out."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        remote = ray.remote(_try_storage).options(num_cpus=0, max_retries=1, scheduling_strategy=strategy)
        asked[remote.remote(store, probe, here, node)] = node
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_WITHIN_S)
    answers: dict[str, str | None] = {asked[each]: "no answer" for each in late}
    for each in answered:
        try:
            answers[asked[each]] = ray.get(each)
        except RayError as error:
            if any(node["Alive"] and node["NodeID"] == asked[each] for node in ray.nodes()):
                answers[asked[each]] = " ".join(str(error).split())
    return answers


def _try_storage(store: Store, probe: str, other: str, own: str) -> str | None:
    """Runs on a node: read what another wrote, and only then write for it; returns what went wrong."""
    try:
        if store.read(f"{probe}/{other}") != other.encode():
            return None
        store.write(f"{probe}/{own}", own.encode())
    except (DistiltuneError, OSError) as error:
        return " ".join(str(error.__cause__ or error).split())
    return None


def _needs(asked: TaskResources, default_gpus: float) -> dict[str, float]:
    gpus = default_gpus if asked.gpu is None else asked.gpu
    return {"CPU": asked.cpu, "GPU": gpus, **asked.custom}


def _places(node: dict[str, float], needs: dict[str, float]) -> int:
    """How many of what is needed a node holds."""
    # Ray counts in ten-thousandths: three times 0.1 is 0.3 there.
    return min(int(node.get(kind, 0) / amount + 1e-4) for kind, amount in needs.items() if amount)


def _shown(amounts: dict[str, float], kinds: dict[str, float]) -> str:
    words = {"CPU": "CPUs", "GPU": "GPUs"}
    parts = [f"{amounts.get(kind, 0):g} {words.get(kind, kind)}" for kind in kinds]
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _name(node: dict[str, Any]) -> str:
    host, address = node.get("NodeManagerHostname"), node["NodeManagerAddress"]
    return f"{host} ({address})" if host and host != address else address
