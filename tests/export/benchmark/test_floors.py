import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from artifacts import HIDDEN, LABELS, WIDTH, tiny_artifact, tiny_graph
from models import tiny_classifier
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

from distiltune.errors import ExportError, InputError
from distiltune.export.benchmark.roofline import (
    MachineRates,
    floor_ms,
    floor_of_text,
    floors,
    measure_rates,
    measured_floors,
)
from distiltune.export.benchmark.serving.texts_of_length import num_tokens
from distiltune.export.onnx.convert import export_onnx
from distiltune.export.onnx.fusion import fuse_onnx
from distiltune.export.onnx.operation_counts import GraphCounts, count_graph
from distiltune.export.variants.dynamic import quantize_embeddings, quantize_onnx, quantize_weights
from distiltune.training.checkpoints.load import load_model

BATCH, TOKENS = 2, 5
INNER, OUTER = WIDTH * HIDDEN, HIDDEN * len(LABELS)
# Every token goes through the first matrix, and each text's first token through the second.
OPERATIONS = 2 * BATCH * TOKENS * INNER + 2 * BATCH * OUTER


def save(graph: onnx.ModelProto, path: Path) -> Path:
    onnx.save_model(graph, str(path))
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_graph(), tmp_path_factory.mktemp("graph") / "model.onnx")


def counted(path: Path) -> GraphCounts:
    return count_graph(path, batch_size=BATCH, num_tokens=TOKENS)


def test_counts_of_32_bits(plain: Path) -> None:
    rows = BATCH * TOKENS * WIDTH * 4
    assert counted(plain) == GraphCounts(4 * (INNER + OUTER), rows, 0, OPERATIONS)


def test_counts_of_dynamic_8_bits(plain: Path, tmp_path: Path) -> None:
    quantize_onnx(plain, tmp_path / "int8.onnx")
    assert counted(tmp_path / "int8.onnx") == GraphCounts(
        INNER + OUTER, BATCH * TOKENS * WIDTH, OPERATIONS, 0
    )


def test_counts_of_4_bit_weights_with_their_scales(plain: Path, tmp_path: Path) -> None:
    quantize_weights(plain, tmp_path / "int4.onnx", bits=4)
    made = counted(tmp_path / "int4.onnx")
    # Blocks have 32 weights along the input of 16 or 32: the first matrix is padded to one block for each column.
    blocks = HIDDEN + len(LABELS)
    assert made.weight_bytes == blocks * 32 // 2 + blocks * 4
    assert (made.int8_operations, made.float_operations) == (OPERATIONS, 0)


def test_counts_of_a_4_bit_table(plain: Path, tmp_path: Path) -> None:
    quantize_embeddings(plain, tmp_path / "table.onnx")
    made = counted(tmp_path / "table.onnx")
    assert made.weight_bytes == 4 * (INNER + OUTER)
    # 16 numbers in 4 bits and their scale in 32.
    assert made.embedding_bytes == BATCH * TOKENS * (WIDTH // 2 + 4)


def one_node(
    node: onnx.NodeProto, inputs: dict[str, list], constants: dict[str, np.ndarray]
) -> onnx.ModelProto:
    """Return a graph that casts input_ids [B, S] to floats [B, S, 1], repeats them to ``inputs``, and runs ``node``."""
    nodes, more = [], {"last": np.array([-1])}
    nodes.append(helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Unsqueeze", ["floats", "last"], ["column"]))
    for name, repeats in inputs.items():
        more[f"{name}_repeats"] = np.array(repeats)
        nodes.append(helper.make_node("Tile", ["column", f"{name}_repeats"], [name]))
    tensors = [numpy_helper.from_array(each, name) for name, each in (constants | more).items()]
    graph = helper.make_graph(
        [*nodes, node],
        "one",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "s"])],
        [onnx.ValueInfoProto(name=node.output[0])],
        tensors,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def test_counts_of_attention_with_its_projections(tmp_path: Path) -> None:
    width = 8
    weights = {"w": np.ones((width, 3 * width), np.float32), "b": np.zeros(3 * width, np.float32)}
    node = helper.make_node("Attention", ["x", "w", "b"], ["y"], num_heads=2, domain="com.microsoft")
    made = counted(save(one_node(node, {"x": [1, 1, width]}, weights), tmp_path / "model.onnx"))
    projected = 2 * BATCH * TOKENS * width * 3 * width
    # Scores and weighted sums: 2 · S · S · width each.
    assert made == GraphCounts(4 * 3 * width * width, 0, 0, projected + 4 * BATCH * TOKENS * TOKENS * width)


@pytest.mark.parametrize("kind", ["Concat", "Add"])
def test_weights_that_the_graph_puts_together_first(tmp_path: Path, kind: str) -> None:
    """At realistic widths, the weights of fused attention are joined when the graph is loaded."""
    width = 8
    parts = [f"w{number}" for number in range(3)]
    weights = {name: np.ones((width, width), np.float32) for name in parts}
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = one_node(node, {"x": [1, 1, width]}, weights)
    made = (
        helper.make_node("Concat", parts, ["w"], axis=1)
        if kind == "Concat"
        else helper.make_node("Add", parts[:2], ["w"])
    )
    graph.graph.node.insert(0, made)
    path = save(graph, tmp_path / "model.onnx")
    if kind == "Concat":
        assert counted(path) == GraphCounts(12 * width * width, 0, 0, 2 * BATCH * TOKENS * width * 3 * width)
    else:
        with pytest.raises(ExportError, match="the weights of MatMul cannot be counted"):
            counted(path)


def test_counts_of_products_between_activations_have_no_weights(tmp_path: Path) -> None:
    node = helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["y"], num_heads=2, domain="com.microsoft")
    wide = {"q": [1, 1, 8], "k": [1, 2, 8], "v": [1, 2, 8]}
    made = counted(save(one_node(node, wide, {}), tmp_path / "model.onnx"))
    assert made == GraphCounts(0, 0, 0, 4 * BATCH * TOKENS * (2 * TOKENS) * 8)


@pytest.mark.parametrize(("kind", "domain"), [("Attention", ""), ("GroupQueryAttention", "com.microsoft")])
def test_what_cannot_be_counted_is_said(tmp_path: Path, kind: str, domain: str) -> None:
    node = helper.make_node(kind, ["q", "k", "v"], ["y"], domain=domain)
    path = save(one_node(node, {name: [1, 1, 8] for name in "qkv"}, {}), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=f"{kind} cannot be counted"):
        counted(path)


@pytest.mark.parametrize(
    "family",
    ["bert", *(pytest.param(family, marks=pytest.mark.slow) for family in ("distilbert", "roberta"))],
)
def test_a_fused_graph_has_the_products_of_the_plain_one(tmp_path: Path, family: str) -> None:
    # The width is so large that the attention's weights are joined only when the graph is loaded.
    student = tiny_classifier(tmp_path / "student", family=family, hidden_size=128, num_layers=2)
    export_onnx(load_model(student).eval(), tmp_path / "plain.onnx", max_length=16, keep_shapes=True)
    assert fuse_onnx(tmp_path / "plain.onnx", tmp_path / "fused.onnx")["Attention"] == 1
    quantize_onnx(tmp_path / "fused.onnx", tmp_path / "int8.onnx")
    plain, fused, int8 = (counted(tmp_path / f"{name}.onnx") for name in ("plain", "fused", "int8"))
    assert plain == fused
    assert int8.int8_operations > 0
    assert int8.int8_operations + int8.float_operations == plain.float_operations


def test_the_floor_of_a_text_is_that_of_its_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = tiny_artifact(tmp_path / "artifact")
    rates = MachineRates(1e6, 1e7, 1e7)
    monkeypatch.setattr("distiltune.export.benchmark.roofline.measure_rates", lambda *_: rates)
    short, long = "open the door", "open the door " * 100
    config = json.loads((artifact / "distiltune.json").read_text())
    whole = len(Tokenizer.from_file(str(artifact / "tokenizer.json")).encode(short))
    assert (num_tokens(artifact, short), num_tokens(artifact, long)) == (whole, config["max_length"])
    for text in (short, long):
        expected = count_graph(artifact / "model.onnx", batch_size=1, num_tokens=num_tokens(artifact, text))
        assert floor_of_text(str(artifact), text, 0.01) == floor_ms(expected, rates)


def test_a_matrix_used_twice_is_read_once_and_shapes_may_turn(tmp_path: Path) -> None:
    graph = tiny_graph()
    for constant in graph.graph.initializer:
        if constant.name == "outer":
            turned = numpy_helper.to_array(constant).T.copy()
            constant.CopyFrom(numpy_helper.from_array(turned, "outer"))
    del graph.graph.node[-1]
    graph.graph.node.extend(
        [
            helper.make_node("Transpose", ["outer"], ["outer_turned"]),
            helper.make_node("MatMul", ["pooled", "outer_turned"], ["once"]),
            helper.make_node("Gemm", ["pooled", "outer"], ["twice"], transB=1),
            helper.make_node("Add", ["once", "twice"], ["logits"]),
        ]
    )
    made = counted(save(graph, tmp_path / "model.onnx"))
    assert made.weight_bytes == 4 * (INNER + OUTER)
    assert made.float_operations == OPERATIONS + 2 * BATCH * OUTER


def test_the_floor_is_the_longer_of_reading_and_computing() -> None:
    counts = GraphCounts(3000, 1000, 50_000, 20_000)
    rates = MachineRates(bytes_per_s=1e6, int8_operations_per_s=1e8, float_operations_per_s=1e7)
    assert floor_ms(counts, rates) == pytest.approx({"bytes": 4.0, "operations": 2.5, "floor": 4.0})
    slower = MachineRates(1e6, 1e7, 1e7)
    assert floor_ms(counts, slower) == pytest.approx({"bytes": 4.0, "operations": 7.0, "floor": 7.0})


def test_rates_are_this_machine_s() -> None:
    rates = measure_rates(1 << 20, seconds=0.05)
    # Bounds that hold for any machine of this century, however busy.
    assert 1e7 < rates.bytes_per_s < 1e13
    assert 1e8 < rates.float_operations_per_s < 1e14
    assert 1e8 < rates.int8_operations_per_s < 1e15


def test_floors_of_an_artifact(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "artifact")
    found = measured_floors(artifact, [(1, 4), (BATCH, TOKENS)], seconds=0.02)
    small, large = found["shapes"]
    assert found["working_set_mb"] == 4 * (INNER + OUTER) / 2**20
    assert large["float_operations"] == OPERATIONS
    for shape in (small, large):
        floor = shape["floor_ms"]
        assert 0 < floor["floor"] == max(floor["bytes"], floor["operations"])
        again = floor_ms(
            GraphCounts(
                **{name: shape[name] for name in GraphCounts.__dataclass_fields__},
            ),
            MachineRates(**found["rates"]),
        )
        assert again == floor
    assert small["floor_ms"]["operations"] < large["floor_ms"]["operations"]
    assert floors(str(artifact), [[1, 4]], 0.01)["shapes"][0]["weight_bytes"] == small["weight_bytes"]


@pytest.mark.parametrize("shapes", [[], [(1, 0)], [(0, 4)]])
def test_shapes_without_texts_are_refused(tmp_path: Path, shapes: list) -> None:
    with pytest.raises(InputError, match="give pairs of batch size and tokens"):
        measured_floors(tmp_path, shapes)
