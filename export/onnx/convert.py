"""Convert a PyTorch classifier to a plain ONNX graph: token ids, mask and, for pairs, token types in, logits out."""

from __future__ import annotations

import ast
import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...errors import ExportError
from ...storage.folders import new_file
from ...training.models.families import family_names, find_family, first_position
from ...training.models.tied_embedding_rows import rows_stored_once
from ...training.models.token_types import forward_names, reads_token_types
from .graphs import find_graph
from .inference_form import inference_form
from .relative_positions import fold_relative_positions
from .writer import INPUT_NAMES, OUTPUT_NAME, TOKEN_TYPES, GraphWriter

OPSET = 18
_SCOPES = "pkg.torch.onnx.name_scopes"  # metadata in which the exporter records a node's modules
_MAX_BATCH = 1 << 16
_MAX_PROTOBUF_BYTES = 2**31 - 1


class _Classifier(nn.Module):
    """The traced module: computes the additive padding mask once, and folds the types of single texts into a constant.

    By default the model builds its mask from ranges, gathers and comparisons, and looks up token types that are
    always zero for single texts; both would then run for every text.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        family = find_family(model)
        self.takes_made_mask = family is not None and family.takes_made_mask
        has_types = bool(getattr(model.config, "type_vocab_size", 0)) and TOKEN_TYPES in forward_names(model)
        self.has_token_types = family is not None and has_types

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        given = {} if token_type_ids is None else {TOKEN_TYPES: token_type_ids}
        if not given and self.has_token_types:
            given = {TOKEN_TYPES: torch.zeros(1, 1, dtype=torch.long)}
        if not self.takes_made_mask:
            return self.model(input_ids=input_ids, attention_mask=attention_mask, **given).logits
        padding = 1.0 - attention_mask[:, None, None, :].to(torch.float32)
        # [B, 1, S, S] rather than [B, 1, 1, S]: the shape that the fused Attention requires.
        mask = (padding * torch.finfo(torch.float32).min).expand(-1, -1, input_ids.shape[1], -1)
        return self.model(input_ids=input_ids, attention_mask=mask, **given).logits


def _store_equal_rows_once(model: PreTrainedModel) -> PreTrainedModel:
    """Replace the token embedding of a model, in place, where storing equal rows once makes the graph smaller."""
    table = model.get_input_embeddings()
    if type(table) is nn.Embedding and (shared := rows_stored_once(table)) is not None:
        model.set_input_embeddings(shared)
    return model


def export_onnx(
    model: PreTrainedModel,
    path: Path,
    *,
    max_length: int,
    keep_shapes: bool = False,
    opset: int = OPSET,
    takes_pairs: bool = False,
) -> None:
    """Write ``model`` as one ONNX file (32-bit, no external data).

    The graph of a model type registered in :mod:`.graphs` is written node by node, that of any other by PyTorch's
    exporter. For the known families the graph contains only the positions of ``max_length`` tokens, and fails on longer
    texts where it looks them up. Weights keep their names in ``model``, with the prefix ``model.``.

    Args:
        model: a sequence classifier; its last layer computes only the first token where the head reads no other.
        path: the file, written atomically.
        max_length: maximum number of tokens; batch ``[1, 65536]`` and sequence ``[1, max_length]`` are dynamic.
        keep_shapes: as in :func:`save_onnx`.
        opset: ONNX opset version.
        takes_pairs: whether it reads pairs of texts; if the model distinguishes them by token types, these are then a
            further input of the graph.

    Raises:
        ExportError: the exporter fails, ``max_length`` exceeds the model's positions, or the model is too large for
            one ONNX file (2 GiB).
    """
    _check_max_length(model, max_length)
    config: Any = model.config
    if (written := find_graph(config.model_type)) is not None:
        writer = GraphWriter()
        logits = written.write(writer, model)
        save_onnx(writer.graph(logits, config.num_labels, opset), path, keep_shapes=keep_shapes)
        return
    has_types = takes_pairs and reads_token_types(model)
    save_onnx(_traced(model, max_length, opset, has_types=has_types), path, keep_shapes=keep_shapes)


def _traced(model: PreTrainedModel, max_length: int, opset: int, *, has_types: bool) -> onnx.ModelProto:
    """Return the graph that PyTorch's exporter makes of a model."""
    length = min(9, max_length)
    # Two texts, one of them padded: the exporter would treat a batch or sequence of 1 as a constant.
    input_ids = torch.full((2, length), 5, dtype=torch.long)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, length // 2 + 1 :] = 0
    inputs: dict[str, torch.Tensor] = dict(zip(INPUT_NAMES, (input_ids, attention_mask), strict=True))
    if has_types:
        inputs[TOKEN_TYPES] = torch.zeros_like(input_ids)
    axes = {0: torch.export.Dim("batch", min=1, max=_MAX_BATCH)}
    if max_length > 1:
        axes[1] = torch.export.Dim("sequence", min=1, max=max_length)
    try:
        with torch.no_grad(), _quiet_exporter():
            program = torch.onnx.export(
                _Classifier(_prepared(model, max_length)).eval(),
                tuple(inputs.values()),
                dynamo=True,
                opset_version=opset,
                input_names=list(inputs),
                output_names=[OUTPUT_NAME],
                dynamic_shapes=dict.fromkeys(inputs, axes),
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError) as error:
        raise ExportError(
            f"cannot export {type(model).__name__} to ONNX: {_first_line(error)}; "
            f"remove the onnx variants from export.variants, or use a student of {family_names()}"
        ) from error
    if program is None:
        raise ExportError(f"the exporter returned no program for {type(model).__name__}")
    graph = program.model_proto
    _store_equal_weights_once(graph.graph)
    _name_weights(graph.graph)
    return graph


def _prepared(model: PreTrainedModel, max_length: int) -> PreTrainedModel:
    """Return a copy of a model with fewer operations, but the same logits for at most ``max_length`` tokens."""
    copied = _drop_positions(inference_form(model), max_length)
    return fold_relative_positions(_store_equal_rows_once(copied), max_length)


def _drop_positions(model: PreTrainedModel, max_length: int) -> PreTrainedModel:
    """Drop the positions beyond ``max_length`` tokens, in place, in the known families that have a table of them."""
    family = find_family(model)
    if family is None or family.position_embeddings is None:
        return model
    base: Any = model.base_model
    kept = max_length + first_position(model)
    place, _, name = family.position_embeddings.rpartition(".")
    embeddings: Any = base.get_submodule(place)
    if (table := getattr(embeddings, name)) is None:  # DeBERTa-v3 has relative positions only
        return model
    setattr(embeddings, name, nn.Embedding.from_pretrained(table.weight[:kept].detach().clone()))
    for name in ("position_ids", "token_type_ids"):
        if hasattr(embeddings, name):
            setattr(embeddings, name, getattr(embeddings, name)[:, :kept])
    return model


def _store_equal_weights_once(graph: onnx.GraphProto) -> None:
    """Store equal constants once, in place: layers that share a weight each have a transposed copy of it."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    same = {
        each.name: first.setdefault((each.data_type, tuple(each.dims), each.raw_data), each.name)
        for each in graph.initializer
        if each.raw_data
    }
    kept = [each for each in graph.initializer if same.get(each.name, each.name) == each.name]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]


def _name_weights(graph: onnx.GraphProto) -> None:
    """Name each product's weight, which the exporter transposes and numbers, after its module."""
    taken = {each.name for each in graph.initializer}
    names: dict[str, str] = {}
    for node in graph.node:
        scopes = next((each.value for each in node.metadata_props if each.key == _SCOPES), "[]")
        modules = ast.literal_eval(scopes)  # ["", "model", …, the Linear, the operation]
        if node.op_type == "MatMul" and node.input[1] in taken and len(modules) > 1:
            name = f"{modules[-2]}.weight"
            if node.input[1] not in names and name not in taken:
                names[node.input[1]] = name
                taken.add(name)
    for each in graph.initializer:
        each.name = names.get(each.name, each.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def save_onnx(graph: onnx.ModelProto, path: Path, *, keep_shapes: bool = False) -> None:
    """Check ``graph``, strip the exporter's metadata from its nodes, and write it to ``path`` atomically.

    The metadata contains source lines and private paths of the exporting machine, and takes 0.3 MB.

    Args:
        graph: changed in place.
        path: the file to write.
        keep_shapes: keep the shapes of inner values. Fusion needs them. Inference is faster without:
            with them, ONNX Runtime fuses Add and LayerNormalization into a kernel that is slower on CPUs
            (measured with 1.31: 0.435 against 0.390 ms for a 3-layer int8 graph).

    Raises:
        ExportError: the checker rejects the graph, or it is over 2 GiB.
    """
    strip_doc_strings(graph)
    if not keep_shapes:
        del graph.graph.value_info[:]
    if graph.ByteSize() > _MAX_PROTOBUF_BYTES:
        raise ExportError(
            f"{path.name}: {graph.ByteSize() / 2**30:.1f} GiB do not fit in one ONNX file (2 GiB at most)"
        )
    try:
        onnx.checker.check_model(graph)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"{path.name}: the ONNX checker rejects the graph: {_first_line(error)}") from error
    with new_file(path) as temporary:
        onnx.save_model(graph, str(temporary))


def strip_doc_strings(graph: onnx.ModelProto) -> None:
    """Delete metadata and documentation strings of ``graph``, in place."""
    holders = [graph, graph.graph, *graph.graph.node, *graph.graph.initializer, *graph.functions]
    for holder in [*holders, *graph.graph.input, *graph.graph.output, *graph.graph.value_info]:
        del holder.metadata_props[:]
        holder.doc_string = ""


def _check_max_length(model: PreTrainedModel, max_length: int) -> None:
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None:
        positions -= first_position(model)
    if max_length < 1 or (positions is not None and max_length > positions):
        raise ExportError(
            f"max_length is {max_length}; this model accepts 1 to {positions}; set training.max_length"
        )


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress the exporter's messages that appear on every run and that no user can act on."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # "torchvision is not installed"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning
            )
            warnings.filterwarnings("ignore", r"# The axis name: \w+ will not be used", UserWarning)
            yield
    finally:
        registration.setLevel(level)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
