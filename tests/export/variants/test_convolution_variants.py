"""Every variant of a student without attention is close to the student, or is rejected with the reason."""

import json
from collections import Counter
from functools import cache
from pathlib import Path

import matplotlib.image
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from convolution_students import LABELS, convolution, convolution_student
from models import tiny_classifier, tiny_data
from onnx import numpy_helper
from pictures import num_colours
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, BertConfig

from distiltune.errors import ExportError
from distiltune.export.config import ExportConfig
from distiltune.export.onnx.convert import export_onnx
from distiltune.export.onnx.integer_rows import feed_integer_rows
from distiltune.export.report.plots.graphs import draw_sizes
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.variants import kinds, torch_int8
from distiltune.export.variants.base import Source, VariantInputs
from distiltune.export.variants.build import build_variant
from distiltune.export.variants.dynamic import quantize_onnx
from distiltune.export.variants.model_files import write_model_files
from distiltune.export.variants.parity import onnx_logits, torch_logits
from distiltune.training import tasks
from distiltune.training.checkpoints.load import load_model, load_tokenizer, save_checkpoint
from distiltune.training.compression.fake_quantization import (
    range_of_4_bits,
    read_back_4_bits,
    read_back_8_bits,
)
from distiltune.training.models.tied_embedding_rows import share_rows

TEXTS = [text for text, _ in tiny_data()]
MAX_LENGTH = 16
SHAPE = {"hidden_size": 32, "num_filters": 48, "window_sizes": [1, 3], "classifier_size": 32}
FUSED = [each.name for each in kinds.variants() if each.source is Source.FUSED_GRAPH]
INTEGER = ["onnx-integer", "onnx-integer-embeddings-4bit"]  # tests/contracts/test_variants.py makes them
SLOW = "onnx-static-entropy"  # its histograms take seconds
EACH = [
    pytest.param(each, id=each.name, marks=pytest.mark.slow if each.name == SLOW else ())
    for each in kinds.variants()
    if each.name not in (*FUSED, *INTEGER)
]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convolution_student(tmp_path_factory.mktemp("student") / "student", **SHAPE)


@pytest.fixture(scope="module")
def make(student: Path, tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("variants")

    @cache
    def made(name: str):
        base = made("onnx")[0] / "model.onnx" if name != "onnx" else None
        config = ExportConfig(sensitivity=name == "onnx-int8")
        options = {"config": config, "max_length": MAX_LENGTH, "training_texts": TEXTS}
        return root / name, build_variant(name, student, root / name, base_onnx=base, **options)

    return made


@pytest.fixture(scope="module")
def rows(student: Path) -> list[np.ndarray]:
    tokenizer = Tokenizer.from_file(str(student / "tokenizer.json"))
    tokenizer.no_padding()
    return [np.array(each.ids) for each in tokenizer.encode_batch(TEXTS)]


def alone(logits, rows) -> np.ndarray:
    return np.concatenate([logits(row[None], np.ones_like(row[None])) for row in rows])


@pytest.mark.parametrize("variant", EACH)
def test_its_logits_are_as_close_as_it_says(variant, make, student, rows) -> None:
    folder, record = make(variant.name)
    expected = alone(torch_logits(load_model(student).eval()), rows)
    difference = np.abs(alone(variant.open_logits(folder), rows) - expected).max()
    if variant.tolerance is None:
        assert max(difference, record.max_abs_diff) < 1e-5
    else:
        assert 0 < difference <= variant.tolerance * expected.std()
        assert record.size_mb < 0.8 * make("onnx")[1].size_mb or variant.file != "model.onnx"
    if variant.can_be_sealed:
        classifier = TextClassifier.load(folder)
        assert classifier.labels == LABELS
        given = alone(variant.open_logits(folder), rows)
        np.testing.assert_allclose(classifier.logits(TEXTS, batch_size=1), given, atol=1e-5)


@pytest.mark.parametrize("hidden_size", [64, 20])
def test_a_table_in_4_bits_is_expanded_when_the_graph_is_loaded(hidden_size, tmp_path) -> None:
    model = convolution(**{**SHAPE, "hidden_size": hidden_size}, vocab_size=500)
    export_onnx(model, tmp_path / "model.onnx", max_length=MAX_LENGTH)
    small, loaded = tmp_path / "small.onnx", tmp_path / "loaded.onnx"
    kinds.get("onnx-int8-embeddings-4bit").make(
        tmp_path / "model.onnx", small, VariantInputs([], ExportConfig())
    )
    table = [each for each in onnx.load(str(small)).graph.initializer if "word_embeddings" in each.name]
    assert sum(len(each.raw_data) for each in table) < 500 * 64 * (4 / 8 + 4 / 32) + 200
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(loaded)
    ort.InferenceSession(str(small), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(str(loaded)).graph
    assert "QuantizeLinear" not in {node.op_type for node in graph.node}
    [rows] = [
        each for each in graph.initializer if list(each.dims) == [500, hidden_size]
    ]  # which the products read
    weight = model.encoder.word_embeddings.weight.detach()
    expected = read_back_8_bits(read_back_4_bits(weight), *range_of_4_bits(weight)).numpy()
    steps = numpy_helper.to_array(rows).astype(np.float32)
    constants = {each.name: numpy_helper.to_array(each) for each in onnx.load(str(small)).graph.initializer}
    scale, zero_point = (
        float(value)
        for name, value in constants.items()
        if name.endswith(("word_embeddings.weight_scale", "word_embeddings.weight_zero_point"))
    )
    np.testing.assert_allclose((steps - zero_point) * scale, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [{}, {"num_blocks": 1, "pooling": "max"}], ids=str)
def test_filters_that_hardly_ever_fire_do_not_spoil_the_8_bit_product(shape, tmp_path) -> None:
    """Folded into the next layer, the normalization of a filter without variance must not make huge weights."""
    model = convolution(**SHAPE, vocab_size=200, **shape)
    model.norm.running_var[::7] = 1e-9
    model.norm.running_mean[::7] = 0.0
    with torch.no_grad():
        for each in model.encoder.filters:
            each.linear.weight[::7] = 0.0
            each.linear.bias[::7] = 0.0
    export_onnx(model, tmp_path / "model.onnx", max_length=MAX_LENGTH)
    quantize_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    drawn = np.random.default_rng(0)
    texts = [drawn.integers(2, 200, size=9) for _ in range(30)]
    expected, found = alone(torch_logits(model), texts), alone(onnx_logits(tmp_path / "int8.onnx"), texts)
    assert np.abs(found - expected).mean() < 0.05 * expected.std()


@pytest.mark.parametrize("name", ["onnx-int8", "onnx-int8-embeddings-4bit", "onnx-weights-4bit", "onnx-fp16"])
def test_rows_that_pieces_share_are_quantized_too(name, student, rows, tmp_path) -> None:
    model = load_model(student).eval()
    kept = share_rows(model, range(40))
    save_checkpoint(model, load_tokenizer(student), tmp_path / "student")
    build_variant(
        name, tmp_path / "student", tmp_path / "variant", config=ExportConfig(), max_length=MAX_LENGTH
    )
    expected = alone(torch_logits(model), rows)
    difference = np.abs(alone(kinds.get(name).open_logits(tmp_path / "variant"), rows) - expected).max()
    assert 0 < difference <= kinds.get(name).tolerance * expected.std()
    graph = onnx.load(str(tmp_path / "variant" / "model.onnx")).graph
    places = {each.data_type for each in graph.initializer if each.name.endswith("word_embeddings.place")}
    tables = [
        each for each in graph.initializer if "word_embeddings.weight" in each.name and len(each.dims) > 1
    ]
    assert places == {onnx.TensorProto.INT32}
    assert {each.dims[0] for each in tables} == {kept}


@pytest.mark.parametrize("name", FUSED)
def test_what_needs_attention_is_refused_with_the_reason(name, student, tmp_path) -> None:
    message = rf"^{name}: distiltune-convolution has no attention to fuse; remove the onnx-fused variants"
    with pytest.raises(ExportError, match=message):
        build_variant(name, student, tmp_path / "x", config=ExportConfig(), max_length=MAX_LENGTH)
    assert not list(tmp_path.iterdir())


def test_variants_are_left_out_by_the_kind_of_the_student() -> None:
    convolution = {"model_type": "distiltune-convolution", "pooling": "max_mean"}
    no_attention = dict.fromkeys(FUSED, "distiltune-convolution has no attention to fuse")
    other_pooling = dict.fromkeys(INTEGER, "the student's pooling is max_mean, not max")
    assert kinds.inapplicable(kinds.names(), convolution) == {**no_attention, **other_pooling}
    assert kinds.inapplicable(kinds.names(), {**convolution, "pooling": "max"}) == no_attention
    assert kinds.inapplicable(["onnx", "onnx-int8"], convolution) == {}
    no_convolution = dict.fromkeys(INTEGER, "bert is not a convolution over word pieces")
    assert kinds.inapplicable(kinds.names(), {"model_type": "bert"}) == no_convolution


@pytest.mark.parametrize("name", INTEGER)
def test_a_graph_in_integers_is_refused_for_another_pooling(name, student, tmp_path) -> None:
    message = rf"^{name}: the student's pooling is max_mean, not max; remove it from export\.variants, or set student"
    with pytest.raises(ExportError, match=message):
        build_variant(
            name, student, tmp_path / "x", config=ExportConfig(), max_length=16, training_texts=TEXTS
        )
    assert not list(tmp_path.iterdir())


def test_rows_in_8_bits_are_not_quantized_again(make) -> None:
    graph = onnx.load(str(make("onnx-int8")[0] / "model.onnx")).graph
    types = Counter(node.op_type for node in graph.node)
    assert (types["MatMulIntegerToFloat"], types["MatMulInteger"]) == (1, 2)
    assert types["DynamicQuantizeLinear"] == 2  # of the hidden layer and the head
    assert types["DequantizeLinear"] == 0
    tables = [each for each in graph.initializer if each.name.endswith("word_embeddings.weight_quantized")]
    assert [each.data_type for each in tables] == [onnx.TensorProto.UINT8]  # required by the kernels for x86


def test_a_product_over_rows_does_not_depend_on_the_other_texts(make, rows) -> None:
    """The rounding to 8 bits in the filters is the same for a text alone and in a batch."""
    model = onnx.load(str(make("onnx-int8")[0] / "model.onnx"))
    [product] = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    model.graph.output.append(onnx.ValueInfoProto(name=product.output[0]))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def filters(ids: np.ndarray) -> np.ndarray:
        given = {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}
        return np.asarray(session.run([product.output[0]], given)[0])

    text, batch = rows[0][None], np.zeros((2, 9), dtype=np.int64)
    batch[0, : text.size], batch[1] = text, rows[1][2]
    np.testing.assert_array_equal(filters(batch)[0, : text.size], filters(text)[0])


@pytest.mark.parametrize(
    "shape",
    [
        {"window_sizes": [3]},
        {"window_sizes": [1]},
        {"window_sizes": [2, 5], "pooling": "max"},
        {"window_sizes": [3], "num_blocks": 1},
        {"window_sizes": [1], "pooling": "max", "num_blocks": 2},
    ],
    ids=json.dumps,
)
def test_8_bits_are_close_whatever_the_shape(shape, tmp_path) -> None:
    model = convolution(3, vocab_size=200, **{**SHAPE, **shape})
    export_onnx(model, tmp_path / "plain.onnx", max_length=MAX_LENGTH)
    draw = np.random.default_rng(0)
    rows = [draw.integers(1, 200, length) for length in (1, 2, 5, 9, MAX_LENGTH) for _ in range(4)]
    expected = alone(torch_logits(model), rows)
    for per_channel in (False, True):
        quantize_onnx(tmp_path / "plain.onnx", tmp_path / "int8.onnx", per_channel=per_channel)
        difference = np.abs(alone(onnx_logits(tmp_path / "int8.onnx"), rows) - expected).max()
        assert 0 < difference < kinds.get("onnx-int8").tolerance * expected.std()


@pytest.mark.parametrize("window", [1, 2, 3])
def test_the_product_over_rows_is_the_same_up_to_their_rounding(window, tmp_path) -> None:
    model = convolution(4, vocab_size=200, **{**SHAPE, "window_sizes": [window], "num_blocks": 0})
    export_onnx(model, tmp_path / "plain.onnx", max_length=MAX_LENGTH)
    quantize_onnx(tmp_path / "plain.onnx", tmp_path / "int8.onnx")
    graph = onnx.load(str(tmp_path / "int8.onnx")).graph
    [product] = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    values = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    _, weight, scale, weight_scale, zero, weight_zero, bias = (values.get(name) for name in product.input)
    table = values["model.encoder.word_embeddings.weight_quantized"].astype(np.float32) - np.float32(zero)
    dequantized = scale * table
    step = np.abs(model.encoder.word_embeddings.weight.detach().numpy()).max() / 127
    np.testing.assert_allclose(
        dequantized, model.encoder.word_embeddings.weight.detach().numpy(), atol=1.01 * max(step, scale)
    )
    assert not dequantized[0].any()
    filters = (weight.astype(np.float32) - weight_zero) * weight_scale
    expected = model.encoder.filters[0].linear.weight.detach().numpy().T
    np.testing.assert_allclose(filters, expected, atol=1.01 * float(weight_scale))
    np.testing.assert_array_equal(bias, model.encoder.filters[0].linear.bias.detach().numpy())


def test_only_a_product_over_nothing_but_rows_of_one_table_is_changed() -> None:
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    lookup, convert = (
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("DequantizeLinear", ["rows", "scale", "zero"], ["x"]),
    )
    quantize = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    product = [
        helper.make_node("MatMulInteger", ["q", "weight", "z", "weight_zero"], ["y"]),
        helper.make_node("Cast", ["y"], ["y_float"], to=floats),
        helper.make_node("Mul", ["s", "scale"], ["scales"]),
        helper.make_node("Mul", ["y_float", "scales"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["logits"]),
    ]
    constants = {
        "table": np.arange(-10, 10, dtype=np.int8).reshape(5, 4),
        "scale": np.float32(0.5),
        "zero": np.int8(0),
        "weight": np.ones((4, 2), np.int8),
        "weight_zero": np.int8(0),
        "bias": np.ones(2, np.float32),
    }

    def graph(*nodes: onnx.NodeProto) -> onnx.ModelProto:
        return helper.make_model(
            helper.make_graph(
                nodes,
                "g",
                [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n"])],
                [helper.make_tensor_value_info("logits", floats, ["n", 2])],
                [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
            ),
            opset_imports=[helper.make_opsetid("", 18)],
            ir_version=10,
        )

    usual = graph(lookup, convert, quantize, *product)
    before = ort.InferenceSession(usual.SerializeToString()).run(None, {"ids": np.array([1, 4])})[0]
    assert feed_integer_rows(usual) == 1
    assert [node.op_type for node in usual.graph.node] == ["Gather", "MatMulIntegerToFloat"]
    after = ort.InferenceSession(usual.SerializeToString()).run(None, {"ids": np.array([1, 4])})[0]
    exact = 0.25 * (constants["table"][[1, 4]].astype(np.float32) @ np.ones((4, 2))) + 1
    np.testing.assert_allclose(after, exact, atol=1e-6)
    np.testing.assert_allclose(before, after, atol=0.2)
    others = [
        helper.make_node("Relu", ["x"], ["also_floats"]),
        helper.make_node("Cast", ["rows"], ["also_integers"], to=floats),
        helper.make_node("Cast", ["q"], ["also_quantized"], to=floats),
        helper.make_node("Identity", ["s"], ["also_scale"]),
    ]
    for other in others:
        assert feed_integer_rows(graph(lookup, convert, quantize, other, *product)) == 0
    relu = helper.make_node("Relu", ["x"], ["relu"])
    changed = helper.make_node("DynamicQuantizeLinear", ["relu"], ["q", "s", "z"])
    assert feed_integer_rows(graph(lookup, convert, relu, changed, *product)) == 0
    assert feed_integer_rows(graph(lookup, convert, quantize, *product[:3])) == 0


def test_its_record_names_its_parts_and_the_picture_shows_them(make, tmp_path) -> None:
    names = ["onnx", "onnx-int8"]
    records = {name: make(name)[1].to_json()["graph"] for name in names}
    for name, record in records.items():
        parts = record["bytes_by_part"]
        assert sum(parts.values()) == (make(name)[0] / "model.onnx").stat().st_size
        assert all(parts[group] > 0 for group in ("word embeddings", "filters", "hidden layer", "head"))
        assert parts["attention"] == parts["feed-forward"] == parts["blocks"] == 0
    ranking = records["onnx-int8"]["sensitivity"]
    assert {each["part"] for each in ranking} == {"word embeddings", "filters", "hidden layer", "classifier"}
    assert records["onnx-int8"]["weights"]["part"] in ("filters", "hidden layer", "classifier")
    sizes = {name: record["bytes_by_part"] for name, record in records.items()}
    picture = draw_sizes(sizes, tmp_path / "sizes.png", chosen="onnx-int8")
    assert num_colours(matplotlib.image.imread(picture)) > 50


def test_the_filters_are_shown_where_nothing_was_ranked(make) -> None:
    assert make("onnx-static-minmax")[1].graph.weights.part == "filters"


def test_other_libraries_read_its_configuration_as_that_of_a_bert(make, student) -> None:
    folder = make("onnx")[0]
    written = json.loads((folder / "config.json").read_text())
    own = json.loads((student / "config.json").read_text())
    assert written["model_type"] == "bert"
    assert written["architectures"] == ["BertForSequenceClassification"]
    assert written["distiltune"]["model_type"] == "distiltune-convolution"
    assert written["distiltune"]["window_sizes"] == own["window_sizes"] == [1, 3]
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, BertConfig)
    assert [config.id2label[number] for number in range(4)] == LABELS
    assert config.label2id == {name: number for number, name in enumerate(LABELS)}
    assert config.problem_type == "single_label_classification"
    assert config.vocab_size == own["vocab_size"]
    assert config.pad_token_id == own["pad_token_id"]
    assert config.max_position_embeddings == MAX_LENGTH
    assert config.num_labels == 4


@pytest.mark.parametrize(
    ("variant", "text", "names"),
    [
        ("onnx", "", ["input_ids", "attention_mask"]),
        ("onnx-integer", "", ["input_ids"]),
        ("onnx-integer", "open [PAD] early", ["input_ids", "attention_mask"]),
    ],
    ids=["floats", "integers", "integers-padding-in-a-text"],
)
def test_transformers_returns_the_inputs_of_the_graph(variant, text, names: list[str], tmp_path) -> None:
    student, made = convolution_student(tmp_path / "student", **SHAPE, pooling="max"), tmp_path / "made"
    options = {"config": ExportConfig(), "max_length": MAX_LENGTH, "training_texts": [*TEXTS, text]}
    build_variant(variant, student, made, **options)
    batch = AutoTokenizer.from_pretrained(made)([*TEXTS, text], padding=True, return_tensors="np")
    assert list(batch) == names
    found = ort.InferenceSession(str(made / "model.onnx")).run(None, dict(batch))[0]
    expected = TextClassifier.load(made).logits([*TEXTS, text])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_configuration_of_a_family_of_transformers_stays_its_own(tmp_path) -> None:
    student = tiny_classifier(tmp_path / "student")
    (tmp_path / "made").mkdir()
    write_model_files(
        load_model(student),
        student,
        tmp_path / "made",
        student_tokenizer=load_tokenizer(student),
        input_names=["input_ids", "attention_mask"],
        task=tasks.get("single_label"),
        max_length=32,
        out_of_scope_label=None,
        num_threads=1,
    )
    written = json.loads((tmp_path / "made" / "config.json").read_text())
    own = json.loads((student / "config.json").read_text())
    assert "distiltune" not in written
    same = ("model_type", "architectures", "num_hidden_layers", "max_position_embeddings", "vocab_size")
    assert {name: written[name] for name in same} == {name: own[name] for name in same}


def test_pytorch_int8_comes_back_bit_for_bit(make, student, rows) -> None:
    made = torch_int8.quantize_pytorch(load_model(student).eval())
    loaded = torch_int8.load_pytorch_int8(make("student-pytorch-int8")[0])
    ids = torch.from_numpy(rows[0][None])
    with torch.no_grad():
        expected = made(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        assert torch.equal(loaded(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, expected)
