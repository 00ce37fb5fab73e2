"""The graph of a convolution: the student's logits, few nodes, named parts."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from convolution_students import LABELS, convolution

from distiltune.export.onnx.components import bytes_by_group, part_of, products_by_part, tables_by_part
from distiltune.export.onnx.convert import export_onnx
from distiltune.export.onnx.graphs import find_graph, written_graphs
from distiltune.export.onnx.graphs.base import register
from distiltune.export.onnx.operation_counts import count_graph
from distiltune.export.onnx.parts import GROUPS
from distiltune.export.variants.dynamic import quantize_onnx
from distiltune.export.variants.parity import measure_parity, onnx_logits, torch_logits
from distiltune.training.models.tied_embedding_rows import share_rows

MAX_LENGTH = 16
SHAPES = [
    {"window_sizes": [1]},
    {"window_sizes": [2], "pooling": "max"},
    {"window_sizes": [3]},
    {"window_sizes": [3], "pooling": "max"},
    {"window_sizes": [4], "pad_token_id": 7},
    {"window_sizes": [5], "pooling": "max", "pad_token_id": 59},
    {"window_sizes": [1, 2, 3]},
    {"window_sizes": [2, 5, 4], "pooling": "max"},
    {"window_sizes": [3, 3]},
    {"window_sizes": [3], "num_blocks": 1},
    {"window_sizes": [1], "num_blocks": 1, "block_window_size": 1, "pooling": "max"},
    {"window_sizes": [4, 1], "num_blocks": 2, "block_window_size": 2},
    {"window_sizes": [3], "num_blocks": 2, "block_window_size": 5, "pooling": "max"},
]
IDS = [json.dumps(shape) for shape in SHAPES]


def exported(model, path: Path) -> onnx.ModelProto:
    export_onnx(model, path, max_length=MAX_LENGTH)
    return onnx.load(str(path))


def difference(model, path: Path, max_length: int = MAX_LENGTH) -> float:
    config = model.config
    return measure_parity(
        torch_logits(model),
        onnx_logits(path),
        vocab_size=config.vocab_size,
        pad_token_id=config.pad_token_id,
        max_length=max_length,
    ).max_abs_diff


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_its_logits_are_those_of_the_student(shape, tmp_path) -> None:
    model = convolution(**shape)
    exported(model, tmp_path / "model.onnx")
    assert difference(model, tmp_path / "model.onnx") < 1e-5


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_each_filter_and_each_pooled_value_has_its_own_place(shape, tmp_path) -> None:
    """With large and different weights, a wrong order of columns would change the logits much."""
    model = convolution(2, **shape)
    with torch.no_grad():
        for each in (model.dense, model.classifier):
            each.weight.copy_(torch.randn_like(each.weight))
    exported(model, tmp_path / "model.onnx")
    ids = np.array([[3, 1, 4, 1, 5, 9, 2, 6]])
    expected = torch_logits(model)(ids, np.ones_like(ids))
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(
        onnx_logits(tmp_path / "model.onnx")(ids, np.ones_like(ids)), expected, rtol=1e-4, atol=1e-4
    )


def test_padding_and_positions_without_text_change_nothing(tmp_path) -> None:
    model = convolution(window_sizes=[2, 5], num_blocks=1)
    exported(model, tmp_path / "model.onnx")
    run, ids = onnx_logits(tmp_path / "model.onnx"), np.array([[8, 30, 12]])
    alone = run(ids, np.ones_like(ids))
    wide = np.zeros((2, 9), dtype=np.int64)
    mask = np.zeros_like(wide)
    wide[0, :3], mask[0, :3] = ids[0], 1
    wide[1], mask[1] = 20, 1
    np.testing.assert_allclose(run(wide, mask)[:1], alone, atol=1e-6)
    empty = np.zeros((1, 4), dtype=np.int64)  # a text without tokens
    np.testing.assert_allclose(run(empty, empty), torch_logits(model)(empty, empty), atol=1e-6)
    assert np.isfinite(run(empty, empty)).all()


def test_the_row_of_padding_need_not_be_zero(tmp_path) -> None:
    model = convolution(window_sizes=[3, 4])
    with torch.no_grad():
        model.encoder.word_embeddings.weight[0] = 1.0
    graph = exported(model, tmp_path / "model.onnx")
    assert difference(model, tmp_path / "model.onnx") < 1e-5
    [table] = [each for each in graph.graph.initializer if each.name.endswith("word_embeddings.weight")]
    assert list(table.dims) == [61, 8]


@pytest.mark.parametrize("padding_is_zero", [True, False])
def test_equal_rows_are_stored_once(padding_is_zero, tmp_path) -> None:
    model = convolution(window_sizes=[1, 3], num_blocks=1)
    with torch.no_grad():
        model.encoder.word_embeddings.weight[0] = 0.0 if padding_is_zero else 1.0
    kept = share_rows(model, range(20))
    before = model.encoder.word_embeddings.weight.clone()
    graph = exported(model, tmp_path / "model.onnx")
    assert difference(model, tmp_path / "model.onnx") < 1e-5
    assert torch.equal(model.encoder.word_embeddings.weight, before)
    dims = {each.name: list(each.dims) for each in graph.graph.initializer}
    assert dims["model.encoder.word_embeddings.weight"] == [kept + (not padding_is_zero), 8]
    assert dims["model.encoder.word_embeddings.place"] == [60]


def test_it_is_one_clean_file_with_few_nodes(tmp_path) -> None:
    model = convolution(window_sizes=[1, 2, 3])
    graph = exported(model, tmp_path / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert [each.name for each in graph.graph.input] == ["input_ids", "attention_mask"]
    [output] = graph.graph.output
    assert (output.name, output.type.tensor_type.shape.dim[1].dim_value) == ("logits", len(LABELS))
    assert {each.domain: each.version for each in graph.opset_import} == {"": 18}
    types = Counter(node.op_type for node in graph.graph.node)
    # Filters of all widths, the mean, the hidden layer, the head; the bias of a product is added in its node.
    assert types["MatMul"] == 4
    assert types["Gather"] == 4  # three positions of a window, and the mask
    assert sum(types.values()) == 23
    assert len({node.name for node in graph.graph.node}) == 23
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    assert len(onnx.load(str(tmp_path / "optimized.onnx")).graph.node) <= 19


def test_another_opset_is_written(tmp_path) -> None:
    model = convolution(num_blocks=1)
    export_onnx(model, tmp_path / "model.onnx", max_length=MAX_LENGTH, opset=21)
    assert onnx.load(str(tmp_path / "model.onnx")).opset_import[0].version == 21
    assert difference(model, tmp_path / "model.onnx") < 1e-5


NAMES = {
    "model.encoder.word_embeddings.weight_quantized": "word embeddings",
    "model.encoder.word_embeddings.place": "word embeddings",
    "model.encoder.blocks.0.first.weight": "layer 0 block in",
    "model.encoder.blocks.11.second.bias": "layer 11 block out",
    "model.encoder.filters.weight_scale": "filters",
    "model.dense.weight_Q4": "hidden layer",
    "model.classifier.bias": "classifier",
    "integers_0_0_1": None,
    "float32_1": None,
}


@pytest.mark.parametrize(("name", "part"), NAMES.items())
def test_a_name_says_which_part_a_parameter_belongs_to(name, part) -> None:
    found = part_of(name)
    assert (None if found is None else str(found)) == part
    assert found is None or found.group in GROUPS


def test_products_tables_and_sizes_are_found_by_part(tmp_path) -> None:
    model = convolution(window_sizes=[1, 3], num_blocks=2)
    graph = exported(model, tmp_path / "model.onnx")
    assert [str(part) for part in products_by_part(graph.graph)] == [
        "layer 0 block in",
        "layer 0 block out",
        "layer 1 block in",
        "layer 1 block out",
        "filters",
        "hidden layer",
        "classifier",
    ]
    [(part, nodes)] = tables_by_part(graph.graph).items()
    # Three lookups for the windows, and one for the pieces themselves.
    assert (str(part), len(nodes)) == ("word embeddings", 4)
    sizes = bytes_by_group(graph)
    assert {group: size // 4 for group, size in sizes.items() if size and group != "other"} == {
        "word embeddings": 60 * 8,
        "blocks": 2 * (3 * 8 * 10 + 10 + 10 * 8 + 8),
        "filters": 3 * 8 * 12 + 12,
        "hidden layer": 24 * 12 + 12,
        "head": 12 * 4 + 4,
    }
    assert sizes["other"] < 200


def test_its_work_is_counted(tmp_path) -> None:
    exported(convolution(window_sizes=[1, 3]), tmp_path / "model.onnx")
    counts = count_graph(tmp_path / "model.onnx", batch_size=2, num_tokens=5)
    of_mask = 2 * 5 * 4
    assert counts.embedding_bytes == 2 * 5 * 8 * 4 + of_mask
    assert counts.weight_bytes == 4 * (24 * 12 + 24 * 12 + 12 * 4)
    of_mean = 2 * 2 * 5 * 12
    assert counts.float_operations == 2 * 2 * (5 * 24 * 12 + 24 * 12 + 12 * 4) + of_mean
    quantize_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    of_int8 = count_graph(tmp_path / "int8.onnx", batch_size=2, num_tokens=5)
    assert of_int8.embedding_bytes == 2 * 5 * 8 + of_mask
    assert of_int8.weight_bytes == counts.weight_bytes // 4
    assert of_int8.int8_operations == counts.float_operations - of_mean
    assert of_int8.float_operations == of_mean


def test_a_model_type_is_registered_once() -> None:
    found = find_graph("distiltune-convolution")
    assert found in written_graphs()
    assert find_graph("bert") is None
    with pytest.raises(ValueError, match="'distiltune-convolution' is registered already"):
        register(found)
