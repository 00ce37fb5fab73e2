"""The variants of a student that a job exports: each one folder, and the record of its making."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from transformers import PreTrainedModel

from ...errors import ExportError, ModelError
from ...storage.folders import new_folder
from ...training.checkpoints.heads import label_names
from ...training.checkpoints.load import load_model
from ...training.models.families import family_names, find_family
from ..config import ExportConfig, VariantName
from ..onnx.convert import export_onnx
from ..onnx.fusion import ATTENTION_OPS, fuse_onnx
from ..out_of_scope.select_threshold import CalibrationTexts, calibrate
from .graph_record import GraphRecord, describe_graph
from .parity import Parity, check_tolerance, measure_parity, onnx_logits, torch_logits
from .recipes import Quantized, Rows, apply_recipe, split_name
from .torch_int8 import TORCH_INT8_FILE, load_pytorch_int8, quantize_pytorch, save_pytorch_int8

logger = logging.getLogger(__name__)

MODEL_FILE, TOKENIZER_FILE, CONFIG_FILE = "model.onnx", "tokenizer.json", "config.json"
_TORCH_INT8: VariantName = "student-pytorch-int8"
_FULL_PRECISION: tuple[VariantName, ...] = ("onnx", "onnx-fused")
_TOKENIZER_FILES = (TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


@dataclass(frozen=True)
class VariantFiles:
    """What was written for one variant, and how it compares with the student."""

    name: VariantName
    directory: str
    file: str
    """Name of the weights or graph inside ``directory``."""
    size_mb: float
    """Of ``file`` alone, in units of 2**20 bytes."""
    max_abs_diff: float
    """Largest absolute difference of logits to the 32-bit student."""
    parity_shapes: list[tuple[int, int]]
    """``[batch, length]`` of the padded batches that were compared."""
    fused: dict[str, int] | None
    """Fused nodes by kind; ``None`` where no fusing was asked for."""
    reduce_range: bool | None
    """Whether int8 weights of an ONNX graph were held to 7 bits; ``None`` for other variants."""
    seconds: float
    graph: GraphRecord | None = None
    """What is inside of an ONNX graph; ``None`` for other variants."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON's own types."""
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class _Graph:
    fused: dict[str, int] | None = None
    quantized: Quantized = field(default_factory=Quantized)
    record: GraphRecord | None = None


def build_variant(
    name: VariantName,
    student_dir: Path,
    out_dir: Path,
    *,
    config: ExportConfig,
    max_length: int,
    out_of_scope_label: str | None = None,
    num_threads: int = 1,
    base_onnx: Path | None = None,
    calibration: CalibrationTexts | None = None,
    training_texts: Sequence[str] = (),
) -> VariantFiles:
    """Make one variant of the checkpoint ``student_dir`` and compare its logits with the student's.

    Args:
        name: which variant.
        student_dir: a checkpoint with tokenizer.json.
        out_dir: the folder to make; it appears whole, and takes the place of an earlier one.
        config: ``parity_tolerance``, ``opset``, ``static`` and ``sensitivity`` are read.
        max_length: most tokens of a text.
        out_of_scope_label: kept in the variant's config.json.
        num_threads: intra-op threads that config.json asks the runtime for.
        base_onnx: the plain ONNX graph of this student, where it is there already; it saves an export.
            Fused variants make their own, with shapes.
        training_texts: on which static quantization measures ranges, and sensitivity is measured.
        calibration: texts on which an ONNX variant's out-of-scope threshold is chosen; none: it has no threshold.

    Returns:
        The record of what was made. ``TextClassifier.load(out_dir)`` opens every ONNX variant.

    Raises:
        ModelError: ``student_dir`` cannot be read.
        ExportError: the variant cannot be made, or a 32-bit one differs by more than the tolerance.
    """
    start = time.perf_counter()
    student_dir, out_dir = Path(student_dir), Path(out_dir)
    model = _load_student(student_dir)
    with new_folder(out_dir) as folder:
        made = _Graph()
        if name == _TORCH_INT8:
            save_pytorch_int8(quantize_pytorch(model), folder)
            _copy_tokenizer(student_dir, folder)
        else:
            tokenizer = _write_tokenizer(student_dir, folder)
            tokenizer.enable_truncation(max_length)
            rows = [np.array(each.ids) for each in tokenizer.encode_batch_fast(list(training_texts))]
            made = _write_graph(name, model, folder, max_length, base_onnx, rows, config)
            pad_token_id = _pad_token_id(model)
            _write_config(model, folder, max_length, pad_token_id, out_of_scope_label, num_threads)
            if calibration is not None:
                calibrate(folder, calibration)
        parity = _compare(name, model, folder, max_length)
        if name in _FULL_PRECISION:
            check_tolerance(name, parity, config.parity_tolerance)
    file = TORCH_INT8_FILE if name == _TORCH_INT8 else MODEL_FILE
    record = VariantFiles(
        name=name,
        directory=str(out_dir),
        file=file,
        size_mb=(out_dir / file).stat().st_size / 2**20,
        max_abs_diff=parity.max_abs_diff,
        parity_shapes=parity.shapes,
        fused=made.fused,
        reduce_range=made.quantized.reduce_range,
        seconds=time.perf_counter() - start,
        graph=made.record,
    )
    logger.info("%s: %.2f MB, logits within %.2g", name, record.size_mb, record.max_abs_diff)
    return record


def _write_graph(
    name: VariantName,
    model: PreTrainedModel,
    folder: Path,
    max_length: int,
    base_onnx: Path | None,
    rows: Rows,
    config: ExportConfig,
) -> _Graph:
    target, (is_fused, recipe) = folder / MODEL_FILE, split_name(name)
    if base_onnx is not None and not base_onnx.is_file():
        raise ExportError(f"{base_onnx}: the plain ONNX graph is not there; make the variant `onnx` first")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        base, counts = base_onnx, None
        if base is None or is_fused:
            base = Path(scratch) / MODEL_FILE
            export_onnx(model, base, max_length=max_length, keep_shapes=is_fused, opset=config.opset)
        if is_fused:
            fused = Path(scratch) / f"fused-{MODEL_FILE}"
            base, counts = fused, fuse_onnx(base, fused)
            _check_fused(name, model, counts)
        if not recipe:
            shutil.copyfile(base, target)
            quantized = Quantized()
        else:
            quantized = apply_recipe(name, base, target, rows, config)
        return _Graph(counts, quantized, describe_graph(base, target, quantized))


def _check_fused(name: VariantName, model: PreTrainedModel, counts: dict[str, int]) -> None:
    if find_family(model) is None and not any(counts[op] for op in ATTENTION_OPS):
        raise ExportError(
            f"{name}: the attention of the family {model.config.model_type!r} cannot be fused; leave the onnx-fused "
            f"variants out of export.variants, or use a student of {family_names()}"
        )


def _compare(name: VariantName, model: PreTrainedModel, folder: Path, max_length: int) -> Parity:
    # The PyTorch int8 model is read back from its files: they are what is measured and delivered.
    candidate = (
        torch_logits(load_pytorch_int8(folder)) if name == _TORCH_INT8 else onnx_logits(folder / MODEL_FILE)
    )
    return measure_parity(
        torch_logits(model),
        candidate,
        vocab_size=model.config.vocab_size,
        pad_token_id=_pad_token_id(model),
        max_length=max_length,
    )


def _load_student(directory: Path) -> PreTrainedModel:
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory}: not a checkpoint; give a folder with config.json and its weights")
    return load_model(directory).eval()


def _pad_token_id(model: PreTrainedModel) -> int:
    return int(model.config.pad_token_id or 0)


def _write_tokenizer(student_dir: Path, folder: Path) -> tokenizers.Tokenizer:
    """tokenizer.json as the checkpoint has it, less the padding and truncation of whoever used it last."""
    source = student_dir / TOKENIZER_FILE
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(source))
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"{source}: no fast tokenizer there ({error}); save the student with one") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(folder / TOKENIZER_FILE))
    return tokenizer


def _copy_tokenizer(student_dir: Path, folder: Path) -> None:
    for file in (student_dir / name for name in _TOKENIZER_FILES):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def _write_config(
    model: PreTrainedModel,
    folder: Path,
    max_length: int,
    pad_token_id: int,
    out_of_scope_label: str | None,
    num_threads: int,
) -> None:
    config = {
        "labels": label_names(model.config),
        "max_length": max_length,
        "pad_token_id": pad_token_id,
        "out_of_scope_label": out_of_scope_label,
        "threshold": None,
        "num_threads": num_threads,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
