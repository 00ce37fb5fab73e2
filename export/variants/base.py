"""Export variants: their source, how they are made, what they need, and the target that opens them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...training.section import Section
from ...training.tasks import SINGLE_LABEL, Task
from .rows import Rows

if TYPE_CHECKING:
    from .parity import Logits
    from .sensitivity import PartError

MODEL_FILE = "model.onnx"
INT4_OPSET = 21
"""First opset with 4-bit integers."""
_SectionT = TypeVar("_SectionT", bound=Section)


class Source(Enum):
    """What a variant is made from; ``Variant.make`` receives the student's model, or the path of the graph."""

    CHECKPOINT = "the student's checkpoint"
    PLAIN_GRAPH = "the ONNX graph of the student"
    FUSED_GRAPH = "the ONNX graph with fused attention"


@dataclass(frozen=True)
class VariantInputs:
    """Inputs for making a variant, besides its source.

    Attributes:
        rows: Token ids of training texts; empty unless the variant needs them.
        config: The section ``export``.
        measure_sensitivity: Whether to measure the error from quantizing each part of the graph to 8 bits.
        takes_pairs: Whether texts are pairs.
        max_length: Maximum number of tokens of a text.
        opset: ONNX opset version of ``export.opset``.
    """

    rows: Rows
    config: Section
    measure_sensitivity: bool = False
    takes_pairs: bool = False
    max_length: int = 512
    opset: int = 18

    def section(self, kind: type[_SectionT]) -> _SectionT:
        """Return the subsection of ``config`` of type ``kind``, or one with default values."""
        return next((value for _, value in self.config if isinstance(value, kind)), kind())


@dataclass(frozen=True)
class Quantized:
    """Facts about a variant that was made, besides its file.

    Attributes:
        reduce_range: Whether weights were limited to 7 bits; None where there are no 8-bit products.
        excluded: Parts of a statically quantized graph that were left in 32 bits.
        sensitivity: Error from quantizing each part to 8 bits, largest first; None where that was not measured.
        logits_error: Error of a statically quantized graph on training texts; see ``sensitivity.logits_error``.
    """

    reduce_range: bool | None = None
    excluded: list[PartError] | None = None
    sensitivity: list[PartError] | None = None
    logits_error: float | None = None


def onnx_logits_of(folder: Path, task: Task = SINGLE_LABEL) -> Logits:
    """Open the graph in a variant's folder with ONNX Runtime, whatever the task."""
    del task
    from .parity import onnx_logits

    return onnx_logits(folder / MODEL_FILE)


def _always(config: Mapping[str, Any]) -> str | None:
    del config
    return None


def _remove_it() -> str:
    return "remove it from export.variants"


@dataclass(frozen=True)
class Variant:
    """One form in which a student can be exported.

    Attributes:
        name: Name in ``export.variants``.
        description: One phrase for help and schema.
        source: What it is made from.
        make: Writes the file from the source; its arguments are the source (a path, or the model of a checkpoint), the
            file to write, and :class:`VariantInputs`.
        target: Name of the registered target that opens and measures it on the CPU.
        can_be_sealed: Whether ``TextClassifier`` can open it, so that it can be chosen and sealed.
        file: File name of its weights or graph.
        open_logits: Opens its folder, to compare its logits with the student's; takes the task of both as well.
        weight_bits: Bits of a weight in matrix products.
        activation_bits: Bits of an activation in matrix products.
        logits_depend_on_batch: Whether a text's logits depend on the other texts in its batch.
        tolerance: Largest expected difference of its logits from the student's on training texts, as a multiple of
            their standard deviation; None: it computes in 32 bits and must meet ``export.parity_tolerance``.
        min_opset: Lowest ONNX opset version of its graph, regardless of ``export.opset``.
        needs_texts: Whether making it requires training texts.
        is_timed_untrained: Whether searches by latency or size may measure untrained students as this variant: its
            graph does not depend on trained weights, and is made for the CPU.
        needs_gpu: Whether making it requires a GPU.
        has_sensitivity: Whether ``export.sensitivity`` measures its parts, which requires training texts.
        gpu_targets: Entries of ``benchmark.targets`` with a GPU that measure it as well.
        why_not: Returns why a student with a given ``config.json`` cannot have it; None: it can.
        remedy: Returns what to do if such a student should be exported as it.
    """

    name: str
    description: str
    source: Source
    make: Callable[[Any, Path, VariantInputs], Quantized]
    target: str = "onnx"
    can_be_sealed: bool = True
    file: str = MODEL_FILE
    open_logits: Callable[..., Logits] = field(default=onnx_logits_of, repr=False)
    weight_bits: int = 32
    activation_bits: int = 32
    logits_depend_on_batch: bool = False
    tolerance: float | None = None
    min_opset: int | None = None
    needs_texts: bool = False
    is_timed_untrained: bool = True
    needs_gpu: bool = False
    has_sensitivity: bool = False
    gpu_targets: tuple[str, ...] = ()
    why_not: Callable[[Mapping[str, Any]], str | None] = field(default=_always, repr=False)
    remedy: Callable[[], str] = field(default=_remove_it, repr=False)

    def takes_texts(self, *, sensitivity: bool) -> bool:
        """Return whether making it requires training texts, given the value of ``export.sensitivity``."""
        return self.needs_texts or (sensitivity and self.has_sensitivity)


VARIANTS: dict[str, Variant] = {}
"""Every registered variant by its name; filled by :mod:`.kinds`."""


def register(*variants: Variant) -> None:
    """Register variants, whose names ``export.variants`` then accepts.

    Raises:
        ValueError: A variant of that name is already registered.
    """
    for variant in variants:
        if variant.name in VARIANTS:
            raise ValueError(f"variant {variant.name!r} is already registered; give it another name")
        VARIANTS[variant.name] = variant


def fused(variant: Variant, name: str) -> Variant:
    """Return the same variant made from the graph with fused attention.

    It has no sensitivity, because parts consist of nodes of the plain graph.
    """
    return replace(
        variant,
        name=name,
        description=f"{variant.description}; attention fused",
        source=Source.FUSED_GRAPH,
        has_sensitivity=False,
        why_not=_why_not_fused,
        remedy=_remedy_of_fused,
    )


def _why_not_fused(config: Mapping[str, Any]) -> str | None:
    from ...training.models.attention_free import has_no_attention
    from ...training.models.families import find_family
    from ..onnx.graphs import find_graph

    model_type = config.get("model_type", "")
    if find_graph(model_type) is not None or has_no_attention(model_type):
        return f"{model_type} has no attention to fuse"
    family = find_family(model_type)
    why = None if family is None else family.why_not("fused_attention")
    return None if why is None else f"the attention of {model_type} cannot be fused: {why}"


def _remedy_of_fused() -> str:
    from ...training.models.families import family_names

    families = family_names("fused_attention")
    return f"remove the onnx-fused variants from export.variants, or use a student of {families}"
