"""Build the variants of a student that a job exports: a folder and a record for each."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from ...errors import ExportError, ModelError
from ...storage.folders import file_sha256, new_folder
from ...texts import TextOrPair
from ...training import tasks
from ...training.checkpoints.load import label_names, load_model, load_tokenizer
from ...training.models.families import family_names, find_family
from ...training.models.token_types import reads_token_types
from ...training.tasks import Task
from ...training.tasks.spans.windows import Windowing
from ..artifact.manifest import MODEL_DATA_FILE, TOKENIZER_FILE
from ..onnx.convert import export_onnx
from ..onnx.fusion import ATTENTION_OPS, fuse_onnx
from ..onnx.metadata import input_names, write_metadata
from ..out_of_scope.fit_scores import ValidationTexts, fit_scores
from ..runtime.classifier import TextClassifier
from ..runtime.probes import write_probes
from . import kinds
from .base import MODEL_FILE, Quantized, Source, Variant, VariantInputs
from .config import VariantsConfig
from .graph_record import GraphRecord, describe_graph
from .model_files import (
    check_tokens,
    copy_tokenizer,
    pad_token_id,
    read_tokenizer,
    truncation_side,
    write_model_files,
)
from .parity import Parity, check_tolerance, measure_parity, torch_logits

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VariantFiles:
    """The files of one variant, and how it compares with the student."""

    name: str
    directory: str
    file: str
    """Name of the weights or graph inside ``directory``."""
    size_mb: float
    """Size of ``file`` alone, in units of 2**20 bytes."""
    max_abs_diff: float
    """Largest absolute difference of logits from the 32-bit student."""
    parity_shapes: list[tuple[int, int]]
    """``[batch, length]`` of the padded batches that were compared."""
    fused: dict[str, int] | None
    """Number of fused nodes by type; ``None`` for variants without fusion."""
    reduce_range: bool | None
    """Whether int8 weights of an ONNX graph were limited to 7 bits; ``None`` for other variants."""
    seconds: float
    content: str
    """SHA-256 over weights or graph and tokenizer: what is measured, whatever the thresholds."""
    graph: GraphRecord | None = None
    """Contents of an ONNX graph; ``None`` for other variants."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class _BuiltFile:
    fused: dict[str, int] | None = None
    quantized: Quantized = field(default_factory=Quantized)
    record: GraphRecord | None = None


def build_variant(
    name: str,
    student_dir: Path,
    out_dir: Path,
    *,
    config: VariantsConfig,
    max_length: int,
    task: str = "single_label",
    out_of_scope_label: str | None = None,
    num_threads: int = 1,
    base_onnx: Path | None = None,
    validation: ValidationTexts | None = None,
    training_texts: Sequence[TextOrPair] = (),
    takes_pairs: bool = False,
) -> VariantFiles:
    """Build one variant of the checkpoint ``student_dir``, and compare its logits with the student's.

    Args:
        name: name of the registered variant.
        student_dir: a checkpoint with tokenizer.json.
        out_dir: the output folder, written atomically; an existing one is replaced.
        config: the section ``export``; its list of variants, ``out_of_scope`` and ``choose`` are not used.
        max_length: maximum number of tokens of a text.
        task: the task that the student was trained for; stored in the files of a variant that can be sealed.
        out_of_scope_label: stored in the distiltune.json of a variant that can be sealed.
        num_threads: intra-op threads; stored in the same distiltune.json for the runtime.
        base_onnx: the plain ONNX graph of this student if it already exists, which saves an export.
            Fused variants export their own, with shapes.
        training_texts: for the variants that need them, see ``Variant.takes_texts``.
        validation: texts for fitting the temperature and selecting the out-of-scope threshold of a variant that can be
            sealed; None: it gets neither.
        takes_pairs: whether texts are pairs.

    Returns:
        The record of the variant. ``TextClassifier.load(out_dir)`` opens every variant that can be sealed.

    Raises:
        ConfigError: there is no variant of this name.
        ModelError: ``student_dir`` cannot be read.
        ExportError: the variant cannot be made, a 32-bit one differs by more than the tolerance, or its tokenizer gives
            other token ids than the student's.
    """
    start = time.perf_counter()
    variant, student_dir, out_dir = kinds.get(name), Path(student_dir), Path(out_dir)
    student_task = tasks.get(task)
    model = _load_student(student_dir, student_task)
    needs_tokenizer = variant.can_be_sealed or len(training_texts) > 0
    student_tokenizer = load_tokenizer(student_dir) if needs_tokenizer else None
    with new_folder(out_dir) as folder:
        rows = _token_ids(
            student_dir / TOKENIZER_FILE,
            student_tokenizer,
            training_texts,
            max_length,
            has_types=takes_pairs and reads_token_types(model),
            of_windows=student_task.of_windows,
        )
        wants_sensitivity = config.sensitivity and variant.has_sensitivity
        inputs = VariantInputs(rows, config, wants_sensitivity, takes_pairs, max_length, config.opset)
        made = _write_file(variant, model, folder, task, max_length, base_onnx, inputs, config.opset)
        if variant.can_be_sealed:
            write_model_files(
                model,
                student_dir,
                folder,
                student_tokenizer=student_tokenizer,
                input_names=input_names(folder / MODEL_FILE),
                task=student_task,
                max_length=max_length,
                out_of_scope_label=out_of_scope_label,
                num_threads=num_threads,
                takes_pairs=takes_pairs,
            )
            compared = validation.texts if validation else training_texts
            check_tokens(student_dir, folder, compared, max_length, student_tokenizer)
            classifier = TextClassifier.load(folder)  # the graph is opened once for probes and scores
            write_probes(folder, classifier)
            if validation is not None:
                fit_scores(folder, validation, classifier)
        else:
            copy_tokenizer(student_dir, folder)
        parity = _compare(variant, model, folder, max_length, task=student_task, takes_pairs=takes_pairs)
        if variant.tolerance is None:
            check_tolerance(name, parity, config.parity_tolerance, relative=student_task.scales_head)
    record = VariantFiles(
        name=name,
        directory=str(out_dir),
        file=variant.file,
        size_mb=(out_dir / variant.file).stat().st_size / 2**20,
        max_abs_diff=parity.max_abs_diff,
        parity_shapes=parity.shapes,
        fused=made.fused,
        reduce_range=made.quantized.reduce_range,
        seconds=time.perf_counter() - start,
        content=_content(out_dir, variant.file),
        graph=made.record,
    )
    logger.info("%s: %.2f MB, logits within %.2g", name, record.size_mb, record.max_abs_diff)
    return record


def _write_file(
    variant: Variant,
    model: PreTrainedModel,
    folder: Path,
    task: str,
    max_length: int,
    base_onnx: Path | None,
    inputs: VariantInputs,
    opset: int,
) -> _BuiltFile:
    target = folder / variant.file
    if reason := variant.why_not(model.config.to_dict()):
        raise ExportError(f"{variant.name}: {reason}; {variant.remedy()}")
    if variant.source is Source.CHECKPOINT:
        made = variant.make(model, target, inputs)
        if variant.file != MODEL_FILE:
            return _BuiltFile(quantized=made)
        write_metadata(target, task, label_names(model))
        return _BuiltFile(quantized=made, record=describe_graph(None, target, made))
    if base_onnx is not None and not base_onnx.is_file():
        raise ExportError(f"{base_onnx}: the plain ONNX graph is missing; build the variant `onnx` first")
    is_fused = variant.source is Source.FUSED_GRAPH
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        base, counts = base_onnx, None
        if base is None or is_fused:
            base = Path(scratch) / MODEL_FILE
            export_onnx(
                model,
                base,
                max_length=max_length,
                keep_shapes=is_fused,
                opset=opset,
                takes_pairs=inputs.takes_pairs,
            )
        if is_fused:
            fused = Path(scratch) / f"fused-{MODEL_FILE}"
            base, counts = fused, fuse_onnx(base, fused)
            _check_fused(variant.name, model, counts)
        quantized = variant.make(base, target, inputs)
        if variant.can_be_sealed:
            write_metadata(target, task, label_names(model))
        record = describe_graph(base, target, quantized) if variant.file == MODEL_FILE else None
        return _BuiltFile(counts, quantized, record)


def _check_fused(name: str, model: PreTrainedModel, counts: dict[str, int]) -> None:
    if find_family(model) is None and not any(counts[op] for op in ATTENTION_OPS):
        raise ExportError(
            f"{name}: the attention of the family {model.config.model_type!r} cannot be fused; remove the "
            f"onnx-fused variants from export.variants, or use a student of {family_names('fused_attention')}"
        )


def _compare(
    variant: Variant,
    model: PreTrainedModel,
    folder: Path,
    max_length: int,
    *,
    task: Task,
    takes_pairs: bool,
) -> Parity:
    return measure_parity(
        torch_logits(model),
        variant.open_logits(folder, task),  # from its files, which are what is measured and shipped
        vocab_size=model.config.vocab_size,
        pad_token_id=pad_token_id(model),
        max_length=max_length,
        has_types=takes_pairs and reads_token_types(model),
    )


def _load_student(directory: Path, task: Task) -> PreTrainedModel:
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory}: not a checkpoint; give a folder with config.json and weights")
    return load_model(directory, task=task).eval()


def _content(folder: Path, file: str) -> str:
    paths = [folder / name for name in dict.fromkeys([file, MODEL_DATA_FILE, TOKENIZER_FILE])]
    listed = "".join(f"{path.name}:{file_sha256(path)}\n" for path in paths if path.is_file())
    return hashlib.sha256(listed.encode()).hexdigest()


def _token_ids(
    tokenizer_file: Path,
    student_tokenizer: Any,
    texts: Sequence[Any],
    max_length: int,
    *,
    has_types: bool,
    of_windows: bool,
) -> list[np.ndarray]:
    """Return texts, or windows of questions, as :data:`~.rows.Rows`, with token types where the graph reads them."""
    if not texts:
        return []
    tokenizer = read_tokenizer(tokenizer_file)
    if of_windows:
        found: Sequence[Any] = Windowing(tokenizer, max_length).windows(texts)
    else:
        tokenizer.enable_truncation(max_length, direction=truncation_side(student_tokenizer))
        found = tokenizer.encode_batch_fast(list(texts))
    return [np.array([each.ids, each.type_ids] if has_types else each.ids) for each in found]
