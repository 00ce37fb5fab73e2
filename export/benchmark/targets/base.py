"""Targets: how models of each kind are opened, measured and evaluated; and their registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ....texts import TextOrPair
    from ....training.ragged import Rows
    from ....training.tasks.spans.windows import Window
    from ...runtime.tasks import Tokens


@dataclass(frozen=True)
class Opened:
    """An opened model.

    With dynamically quantized activations, a text's logits depend on the rest of its batch; ``logits`` are those of
    each text alone, as in timing and serving.

    Attributes:
        pipeline: Text in, label out; see :class:`~distiltune.export.benchmark.measurements.PerformanceBenchmark`.
        logits: Texts in, logits[N, C] out, or rows of [L, C]; columns in the order of ``labels``.
        tokens: Texts in, the ``Tokens`` of each out; None where logits are for whole texts or for windows.
        windows: Pairs in, their windows out, one for each row of ``logits``; None where pairs are not questions.
        labels: Names of the C labels.
        threshold: Threshold that is shipped with the model: for out-of-scope texts, or for each of several labels.
        temperature: Temperature that is shipped with the model.
        weights: File whose size is measured; None: the weights or graph in the model's folder.
        profile: Measures where the time of one text goes, as
            :meth:`~distiltune.export.runtime.classifier.TextClassifier.profile` does; None: that is not measured.
        num_nodes: Number of the graph's nodes by the provider of ONNX Runtime that they run on; None: not known.
        engine_build_s: Seconds in which an engine for this GPU was built when the model was opened; None: none was.
        at_length: Returns the ``pipeline`` with texts truncated to another number of tokens, or None where the model
            has fewer positions; the same pipeline, if it reads whole texts. None: the target has only one length.
        with_cuda_graphs: Opens the model once more, with CUDA graphs, and returns its ``pipeline``; None: the target
            has none.
    """

    pipeline: Callable[..., Any]
    logits: Callable[[Sequence[TextOrPair]], Rows]
    labels: list[str]
    threshold: Any = None
    temperature: float | None = None
    weights: Path | None = None
    profile: Callable[..., dict[str, float]] | None = None
    num_nodes: dict[str, int] | None = None
    engine_build_s: float | None = None
    with_cuda_graphs: Callable[[], Callable[..., Any]] | None = None
    tokens: Callable[[Sequence[str]], list[Tokens]] | None = None
    at_length: Callable[[int], Callable[..., Any] | None] | None = None
    windows: Callable[[Sequence[Any]], list[Window]] | None = None


@dataclass(frozen=True)
class OpenOptions:
    """Options for opening a model.

    Attributes:
        directory: The checkpoint or variant.
        max_length: Maximum number of tokens; longer texts are truncated.
        tokenizer_dir: Folder of the tokenizer, if not ``directory``.
        num_threads: Intra-op threads.
        session: Session options that were measured to be faster.
        task: Name of the task.
        max_batch_size: Maximum number of texts in one run, which an engine is built for.
        tokenizer: Tokenizer of single texts, as in ``TextClassifier.load``; only ``onnx`` has a choice.
    """

    directory: str
    max_length: int
    tokenizer_dir: str | None
    num_threads: int
    session: dict[str, Any] | None
    task: str = "single_label"
    max_batch_size: int = 1024
    tokenizer: str = "tokenizers"


@dataclass(frozen=True)
class Preparation:
    """Inputs to a target's preparation of a model.

    Attributes:
        name: Name of the model.
        directory: The model's own folder.
        num_outputs: Number of outputs of a model for the data's labels.
        task: Name of the task.
        num_threads: Number of threads to use.
        scratch: Folder for temporary files, removed after the model is measured.
    """

    name: str
    directory: str
    num_outputs: int
    task: str
    num_threads: int
    scratch: Path


@dataclass(frozen=True)
class Prepared:
    """Result of a target's preparation of a model.

    Attributes:
        directory: Folder to open instead of the model's own.
        size_mb: Size to report for the model.
        training: Facts about its training, if it was trained for the measurement; see ``Measurement.training``.
    """

    directory: str
    size_mb: float
    training: dict[str, Any] | None = None


def _nothing_missing() -> str | None:
    return None


CPU = "cpu"
"""Entry of ``benchmark.targets`` that all targets without a GPU belong to."""


@dataclass(frozen=True)
class Target:
    """A runtime in which models of one kind are measured.

    Attributes:
        name: The ``kind`` of its models.
        description: How it classifies, in one phrase.
        open: Opens a model in the measuring process, where it imports only what that process needs.
        prepare: Creates the folder to open, in a separate process; None: the model's own folder is opened.
        preparation: What ``prepare`` does, as one word for progress messages.
        is_optional: Whether a job continues if a measurement fails.
        is_run: Whether its models are run; otherwise their answers are stored, and only accuracy is measured.
        has_accuracy: Whether its predictions are meaningful; otherwise only latency and size are measured.
        is_gated: Whether its models are variants of the student, which must meet the limits on accuracy.
        can_be_sealed: Whether its models can be chosen and sealed.
        is_onnx: Whether its models are ONNX graphs with a ``distiltune.json``.
        color: Color of its points in plots.
        measures: Name of the target on the CPU whose models it measures as well, on a GPU; None: it measures its own
            models, on the CPU.
        missing: Returns what the installation lacks to open its models, and the remedy; None where nothing is missing.
    """

    name: str
    description: str
    open: Callable[[OpenOptions], Opened]
    prepare: Callable[[Preparation], Prepared] | None = None
    preparation: str = "preparing"
    is_optional: bool = False
    is_run: bool = True
    has_accuracy: bool = True
    is_gated: bool = False
    can_be_sealed: bool = False
    is_onnx: bool = False
    color: str | None = None
    measures: str | None = None
    missing: Callable[[], str | None] = _nothing_missing

    @property
    def needs_gpu(self) -> bool:
        """Whether its models are measured on a node with a GPU."""
        return self.measures is not None

    @property
    def is_tuned(self) -> bool:
        """Whether its session options are tuned and the operations of its graphs counted, which is for the CPU."""
        return self.is_onnx and not self.needs_gpu

    @property
    def place(self) -> str:
        """Name of the entry of ``benchmark.targets`` that it belongs to: its own on a GPU, else ``cpu``."""
        return self.name if self.needs_gpu else CPU


TARGETS: dict[str, Target] = {}
"""Every registered target by its name; filled when the package is imported."""


def register(target: Target) -> None:
    """Register a target, whose name becomes a valid ``kind`` of models.

    Raises:
        ValueError: A target of that name is already registered.
    """
    if target.name in TARGETS:
        raise ValueError(f"target {target.name!r} is already registered; give it another name")
    TARGETS[target.name] = target
