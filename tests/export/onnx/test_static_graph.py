"""The graph of a static student: the student's logits with and without pairs, few nodes, named parts."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from convolution_students import static

from distiltune.export.onnx.components import pooling_products, products_by_part, tables_by_part
from distiltune.export.onnx.convert import export_onnx
from distiltune.export.onnx.operation_counts import count_graph
from distiltune.export.variants.dynamic import quantize_onnx
from distiltune.export.variants.parity import measure_parity, onnx_logits, torch_logits
from distiltune.training.models.tied_embedding_rows import share_rows
from distiltune.training.models.trainable_embedding_rows import train_used_rows

MAX_LENGTH = 16
SHAPES = [
    {},
    {"pooling": "mean"},
    {"hashed_bigrams": 37},
    {"hashed_bigrams": 7, "pooling": "mean", "pad_token_id": 59},
    {"hashed_bigrams": 1},
]
IDS = [json.dumps(shape) for shape in SHAPES]


def exported(model, path: Path) -> onnx.ModelProto:
    export_onnx(model, path, max_length=MAX_LENGTH)
    return onnx.load(str(path))


def difference(model, path: Path) -> float:
    config = model.config
    return measure_parity(
        torch_logits(model),
        onnx_logits(path),
        vocab_size=config.vocab_size,
        pad_token_id=config.pad_token_id,
        max_length=MAX_LENGTH,
    ).max_abs_diff


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_its_logits_are_those_of_the_student(shape, tmp_path) -> None:
    model = static(**shape)
    exported(model, tmp_path / "model.onnx")
    assert difference(model, tmp_path / "model.onnx") < 1e-5
    ids = np.random.default_rng(0).integers(2, 59, (50, 9))
    found = torch_logits(model)(ids, np.ones_like(ids))
    assert found.std(axis=0).min() > 0.05, "the texts differ"
    backward = torch_logits(model)(ids[:, ::-1].copy(), np.ones_like(ids))
    assert np.allclose(found, backward, atol=1e-5) == (shape.get("hashed_bigrams", 0) < 2), (
        "pairs have an order"
    )


def test_a_large_table_has_its_own_rows_for_pairs(tmp_path) -> None:
    """Ids and row indices are as large as in real vocabularies, with one digit more than a float can represent."""
    model = static(vocab_size=1_234_567, hidden_size=1, hashed_bigrams=1_234_568)
    exported(model, tmp_path / "model.onnx")
    ids = np.random.default_rng(0).integers(0, 1_234_567, (20, 8))
    expected = torch_logits(model)(ids, np.ones_like(ids))
    np.testing.assert_allclose(
        onnx_logits(tmp_path / "model.onnx")(ids, np.ones_like(ids)), expected, atol=1e-5
    )


def test_padding_and_texts_without_tokens_change_nothing(tmp_path) -> None:
    model = static(hashed_bigrams=37)
    exported(model, tmp_path / "model.onnx")
    run, ids = onnx_logits(tmp_path / "model.onnx"), np.array([[8, 30, 12]])
    alone = run(ids, np.ones_like(ids))
    wide, mask = np.zeros((2, 9), dtype=np.int64), np.zeros((2, 9), dtype=np.int64)
    wide[0, :3], mask[0, :3] = ids[0], 1
    wide[1], mask[1] = 20, 1
    np.testing.assert_allclose(run(wide, mask)[:1], alone, atol=1e-6)
    empty = np.zeros((1, 4), dtype=np.int64)
    np.testing.assert_allclose(run(empty, empty), torch_logits(model)(empty, empty), atol=1e-6)
    one = np.array([[9]])
    np.testing.assert_allclose(run(one, one // 9), torch_logits(model)(one, one // 9), atol=1e-6)


@pytest.mark.parametrize("num_pairs", [0, 23])
def test_equal_rows_are_stored_once(num_pairs, tmp_path) -> None:
    model = static(hashed_bigrams=num_pairs)
    kept = share_rows(model, range(20))
    graph = exported(model, tmp_path / "model.onnx")
    assert difference(model, tmp_path / "model.onnx") < 1e-5
    dims = {each.name: list(each.dims) for each in graph.graph.initializer}
    assert dims["model.encoder.word_embeddings.weight"] == [kept + num_pairs, 9]
    assert dims["model.encoder.word_embeddings.place"] == [60 + num_pairs]


def test_a_student_whose_used_rows_were_trained_is_exported_whole(tmp_path) -> None:
    model = static(hashed_bigrams=23)
    whole = exported(model, tmp_path / "whole.onnx")
    train_used_rows(model, np.array([3, 4, 5, 3, 4], dtype=np.int32))
    assert len(model.get_input_embeddings().weight) == 3 + len(
        {(a * 2_654_435_761 + b) % 23 for a, b in ((3, 4), (4, 5), (5, 3))}
    )
    used = exported(model, tmp_path / "used.onnx")
    assert [each.raw_data for each in used.graph.initializer] == [
        each.raw_data for each in whole.graph.initializer
    ]


def test_nodes_parts_and_work_are_counted(tmp_path) -> None:
    model = static(hashed_bigrams=37)
    graph = exported(model, tmp_path / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    types = Counter(node.op_type for node in graph.graph.node)
    assert types["MatMul"] == 3  # the mean, the hidden layer, the head
    assert types["Gather"] == 2  # one lookup for pieces and pairs, and the mask
    assert sum(types.values()) == 29
    assert [str(part) for part in products_by_part(graph.graph)] == ["hidden layer", "classifier"]
    assert len(pooling_products(graph.graph)) == 1
    [(part, nodes)] = tables_by_part(graph.graph).items()
    assert (str(part), len(nodes)) == ("word embeddings", 1)
    quantize_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    counts = count_graph(tmp_path / "int8.onnx", batch_size=2, num_tokens=5)
    assert counts.embedding_bytes == 2 * 9 * 9 + 2 * 9 * 4
    with torch.no_grad():
        assert difference(model, tmp_path / "int8.onnx") < 0.3
