"""The graph of a convolution in integers: close to the student, and untouched by padding."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from convolution_students import convolution

from distiltune.export.onnx.convert import save_onnx
from distiltune.export.onnx.integer.graph import write_integer_graph
from distiltune.export.onnx.integer.quantized import (
    HIGHEST,
    SPAN,
    Layer,
    columns_for,
    only_at_text,
    quantized,
    steps_of,
    without_bias,
)
from distiltune.export.onnx.integer.ranges import measure_ranges
from distiltune.export.onnx.operation_counts import count_graph
from distiltune.training.models.tied_embedding_rows import share_rows

VOCABULARY = 90
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_filters": 48,
    "classifier_size": 24,
    "pooling": "max",
}
SHAPES = [
    {},
    {"window_sizes": [1]},
    {"window_sizes": [2]},
    {"window_sizes": [1, 2, 5]},
    {"hidden_size": 21, "num_filters": 7},
    {"num_blocks": 1},
    {"num_blocks": 2, "block_window_size": 4, "window_sizes": [1, 3], "block_size": 33},
    {"pad_token_id": 3},
]


def texts(count: int = 60, lengths: tuple[int, int] = (1, 20), seed: int = 0) -> list[np.ndarray]:
    drawn = np.random.default_rng(seed)
    return [drawn.integers(5, VOCABULARY, size=drawn.integers(*lengths)) for _ in range(count)]


def opened(model, rows, tmp_path, **given):
    options = {"bits": 8, "table_bits": 8, "max_length": 64, "opset": 21, **given}
    graph = write_integer_graph(model, measure_ranges(model, rows), **options)
    save_onnx(graph, tmp_path / "model.onnx")
    return ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])


def run(session, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Run a graph, with its mask only where it has one."""
    ids = np.atleast_2d(ids)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids) if mask is None else np.atleast_2d(mask)}
    return session.run(None, {node.name: feed[node.name] for node in session.get_inputs()})[0]


def expected(model, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    ids = torch.tensor(np.atleast_2d(ids))
    with torch.no_grad():
        given = None if mask is None else torch.tensor(np.atleast_2d(mask))
        return model(ids, given).logits.numpy()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("bits", "table_bits", "most"), [(8, 8, 0.002), (7, 8, 0.005), (8, 4, 0.05)])
def test_its_logits_are_those_of_the_student(shape, bits, table_bits, most, tmp_path) -> None:
    model, rows = convolution(**{**SHAPE, **shape}), texts()
    session = opened(model, rows, tmp_path, bits=bits, table_bits=table_bits)
    found = np.concatenate([run(session, row) for row in rows])
    right = np.concatenate([expected(model, row) for row in rows])
    assert 0 < np.square(found - right).mean() < most * right.var()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_padding_on_either_side_changes_nothing(shape, tmp_path) -> None:
    model, rows = convolution(**{**SHAPE, **shape}), texts()
    session = opened(model, rows, tmp_path)
    pad = model.config.pad_token_id
    for row in texts(20, seed=1):
        for before, after in ((0, 1), (0, 9), (1, 0), (6, 0), (3, 2), (0, 300)):
            ids = np.pad(row, (before, after), constant_values=pad)
            mask = np.pad(np.ones_like(row), (before, after))
            np.testing.assert_array_equal(run(session, ids, mask), run(session, row))


def test_words_that_no_measured_text_has_leave_padding_alone(tmp_path) -> None:
    """Sums around padding that are much larger than on the texts whose ranges were measured."""
    model = convolution(**SHAPE, num_blocks=1)
    with torch.no_grad():
        for each in model.encoder.filters:
            each.linear.weight.uniform_(0, 0.2)
        model.encoder.word_embeddings.weight[40:] = 1.0
    rows = [np.clip(row, 5, 36) for row in texts()]
    session = opened(model, rows, tmp_path)
    for row in texts(30, (1, 3), seed=3):
        words = np.maximum(row, 40)
        ids, mask = np.pad(words, (2, 5)), np.pad(np.ones_like(row), (2, 5))
        np.testing.assert_array_equal(run(session, ids, mask), run(session, words))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("num_blocks", "atol"), [(0, 0.1), (1, 0.15)])  # more roundings with a block
def test_the_mask_tells_text_from_padding_whatever_the_ids(num_blocks, atol, shared, tmp_path) -> None:
    model, rows = convolution(**SHAPE, num_blocks=num_blocks), texts()
    if shared:
        share_rows(model, range(40))
    session, pad = opened(model, rows, tmp_path, masked=not num_blocks), model.config.pad_token_id
    row = np.array([7, 8, pad, 9])
    np.testing.assert_allclose(run(session, row), expected(model, row), atol=atol)
    assert np.abs(run(session, row) - run(session, row, np.array([1, 1, 0, 1]))).max() > 0.1
    masked, ones = np.array([7, 8, 9, 30, 31]), np.array([1, 1, 1, 0, 0])
    np.testing.assert_array_equal(run(session, masked, ones), run(session, masked[:3]))
    nothing = np.zeros(4, dtype=np.int64)
    np.testing.assert_allclose(
        run(session, rows[0][:1].repeat(4), nothing), expected(model, nothing, nothing), atol=atol
    )


@pytest.mark.parametrize("pad", [0, 3, None])
@pytest.mark.parametrize("shared", [False, True])
def test_without_a_mask_the_token_of_padding_is_padding(pad: int | None, shared: bool, tmp_path) -> None:
    model, rows = convolution(**SHAPE, pad_token_id=pad), texts()
    if shared:
        share_rows(model, range(40))
    session, padding = opened(model, rows, tmp_path), pad or 0
    assert [node.name for node in session.get_inputs()] == ["input_ids"]
    row, inside, nothing = np.array([7, 8, padding, 9]), np.array([1, 1, 0, 1]), np.full(4, padding)
    np.testing.assert_allclose(run(session, nothing), expected(model, nothing, nothing * 0), atol=0.1)
    two = np.array([[7, 8, 9, 30], [5, 6, padding, padding]])
    np.testing.assert_array_equal(run(session, two), [run(session, two[0])[0], run(session, two[1, :2])[0]])
    if pad is not None:  # else its row is not zero
        np.testing.assert_allclose(run(session, row), expected(model, row, inside), atol=0.1)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 255, 256, 257, 4096])
def test_the_maximum_is_over_all_positions(length, tmp_path) -> None:
    model = convolution(**SHAPE)
    rows = [*texts(), *texts(3, (300, 301))]
    session = opened(model, rows, tmp_path)
    [row] = texts(1, (length, length + 1), seed=2)
    row[:-3] = row[0]  # what is different stands at the end
    np.testing.assert_allclose(run(session, row), expected(model, row), atol=0.15)


def test_it_accepts_as_many_tokens_as_asked(tmp_path) -> None:
    model = convolution(**SHAPE)
    session = opened(model, texts(), tmp_path, max_length=5000)
    [row] = texts(1, (5000, 5001))
    assert np.isfinite(run(session, row)).all()
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        run(opened(model, texts(), tmp_path), row)


def test_filters_that_never_fire_leave_the_others_their_bits(tmp_path) -> None:
    model, rows = convolution(**SHAPE), texts()
    with torch.no_grad():
        for each in model.encoder.filters:
            each.linear.bias[::3] = -100.0
    session = opened(model, rows, tmp_path)
    found = np.concatenate([run(session, row) for row in rows])
    right = np.concatenate([expected(model, row) for row in rows])
    assert np.square(found - right).mean() < 0.002 * right.var()


def test_rows_that_pieces_share_are_stored_once(tmp_path) -> None:
    model, rows = convolution(**SHAPE), texts()
    kept = share_rows(model, range(40))
    session = opened(model, rows, tmp_path, table_bits=4)
    constants = {each.name: each for each in onnx.load(str(tmp_path / "model.onnx")).graph.initializer}
    assert constants["model.encoder.word_embeddings.weight_4bit"].dims[0] == kept
    assert constants["model.encoder.word_embeddings.place"].data_type == onnx.TensorProto.INT32
    found = np.concatenate([run(session, row) for row in rows])
    right = np.concatenate([expected(model, row) for row in rows])
    assert np.square(found - right).mean() < 0.05 * right.var()


@pytest.mark.parametrize(
    ("num_blocks", "of_blocks"),
    [(0, set()), (1, {"Add", "Mul", "QLinearAdd", "QLinearMul"})],
    ids=["filters", "blocks"],
)
def test_only_integers_pass_between_its_nodes(num_blocks: int, of_blocks: set[str], tmp_path) -> None:
    opened(convolution(**SHAPE, num_blocks=num_blocks), texts(), tmp_path, table_bits=4)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    ort.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(str(tmp_path / "loaded.onnx")).graph
    assert {node.op_type for node in loaded.node} == of_blocks | {
        *("Gather", "QLinearConv", "NhwcMaxPool", "Squeeze", "QGemm")
    }
    if not num_blocks:  # rows, filters, three maxima, hidden layer, logits
        assert len(loaded.node) == 8
    floats = {each.name for each in loaded.initializer if each.data_type == onnx.TensorProto.FLOAT}
    assert {name for name in floats if "_scale" not in name} <= {
        each for each in floats if "float32_" in each
    }


def test_a_product_is_quantized_by_row() -> None:
    weight, bias = np.array([[1.0, -2.0], [0.0, 0.0], [1e-9, 0.0]]), np.array([0.5, 0.0, 3.0])
    layer = quantized(weight, bias, 0.1, bits=8)
    np.testing.assert_array_equal(layer.weight, [[64, -127], [0, 0], [0, 0]])
    scale = layer.multiplier * 0.1
    np.testing.assert_allclose(layer.bias * scale, bias, rtol=1e-2)
    assert np.abs(quantized(weight, bias, 0.1, bits=7).weight).max() == 64


def test_steps_of_columns_without_values_are_small() -> None:
    np.testing.assert_allclose(steps_of(np.array([255.0, 0.0, 51.0])), [1.0, 0.01, 0.2])
    np.testing.assert_array_equal(steps_of(np.zeros(2)), [1.0, 1.0])


@pytest.mark.parametrize("bits", [7, 8])
def test_columns_of_ones_make_every_sum_negative_at_padding_only(bits) -> None:
    drawn = np.random.default_rng(0)
    layer = Layer(
        drawn.integers(-64, 65, (5, 3, 8)).astype(np.int8), np.array([900, -5, 0, 7, 1]), np.ones(5)
    )
    x = drawn.integers(-128, 128, (3, 8))
    count = columns_for(float(np.abs(layer.weight.astype(int)).sum() * 128), bits=bits)
    changed = only_at_text(layer, count, 1, bits=bits)
    ones = np.full((3, count), SPAN)

    def total(given: Layer, rows: np.ndarray) -> np.ndarray:
        return (given.weight.astype(np.int64) * rows).sum(axis=(1, 2)) + given.bias

    np.testing.assert_array_equal(total(changed, np.hstack([x, ones])), total(layer, x))
    x[1], ones[1] = 0, 0
    assert (total(changed, np.hstack([x, ones])) <= 0).all()


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("most", [0, 100, 5000, 1_000_000])
def test_a_bias_becomes_weights_of_constants(bits, most) -> None:
    drawn = np.random.default_rng(1)
    limit = 127 if bits == 8 else 64
    weight, bias = (
        drawn.integers(-limit, limit + 1, (6, 10)).astype(np.int8),
        drawn.integers(-most, most + 1, 6),
    )
    changed, values = without_bias(Layer(weight, bias, np.ones(6)), 3, bits=bits)
    x = drawn.integers(0, 256, 10)
    found = changed.weight[:, 0].astype(np.int64) @ [*x, *values]
    np.testing.assert_array_equal(found[:6], weight.astype(np.int64) @ x + bias)
    np.testing.assert_allclose(found[6:] * changed.multiplier[6:], SPAN)  # a one again
    assert (len(x) + len(values)) % 4 == 0
    assert set(values) <= {HIGHEST, 1, 0}
    assert np.abs(changed.weight.astype(int)).max() <= limit


# In 4 bits a row has whole blocks of 32 columns.
@pytest.mark.parametrize(
    ("columns", "table_bits", "row_bytes"), [(32, 8, 32), (32, 4, 16), (48, 8, 48), (48, 4, 32)]
)
def test_its_work_is_counted(tmp_path, columns: int, table_bits: int, row_bytes: int) -> None:
    model = convolution(**{**SHAPE, "window_sizes": [2], "hidden_size": columns})
    opened(model, texts(), tmp_path, table_bits=table_bits)
    counts = count_graph(tmp_path / "model.onnx", batch_size=2, num_tokens=5)
    constants = {each.name: each for each in onnx.load(tmp_path / "model.onnx").graph.initializer}
    width = constants["model.encoder.filters.weight_quantized"].dims[1]  # with columns of ones
    assert width > columns
    assert counts.weight_bytes == 48 * 2 * width + 48 * 24 + 24 * model.num_labels
    assert counts.int8_operations == 2 * 2 * (5 * 48 * 2 * width + 48 * 24 + 24 * model.num_labels)
    assert (counts.float_operations, counts.embedding_bytes) == (0, 2 * 5 * row_bytes)


def test_the_work_of_blocks_is_counted(tmp_path) -> None:
    opened(convolution(**{**SHAPE, "num_blocks": 1}), texts(), tmp_path)
    counts = count_graph(tmp_path / "model.onnx", batch_size=1, num_tokens=5)
    assert counts.int8_operations > 0 and counts.float_operations == 0


def test_a_large_table_is_read_in_parts(tmp_path, monkeypatch) -> None:
    for rows, name in ((10**6, "whole"), (7, "parts")):
        monkeypatch.setattr("distiltune.export.onnx.integer.graph._ROWS_AT_ONCE", rows)
        (tmp_path / name).mkdir()
        opened(convolution(**SHAPE), texts(), tmp_path / name)
    assert (tmp_path / "parts/model.onnx").read_bytes() == (tmp_path / "whole/model.onnx").read_bytes()
