"""The contract of every registered export variant, and a variant registered from outside the package."""

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from convolution_students import convolution_student
from models import tiny_classifier, tiny_data
from pydantic import ValidationError
from tokenizers import Tokenizer

from distiltune.cluster.pipeline.stages import resources_for
from distiltune.cluster.remote.latency import timed_variant
from distiltune.cluster.specification.config import JobConfig
from distiltune.cluster.specification.faults import described
from distiltune.cluster.specification.resources import TaskResources
from distiltune.errors import ConfigError, ExportError
from distiltune.export.benchmark import targets
from distiltune.export.benchmark.measure_models import BenchmarkTexts, MeasurementSpec, measure_models
from distiltune.export.config import BenchmarkConfig, ChooseConfig, ExportConfig
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.selection.select_variant import select_variant
from distiltune.export.variants import base, kinds
from distiltune.export.variants.base import Quantized, Source, Variant, VariantInputs
from distiltune.export.variants.build import VariantFiles, build_variant
from distiltune.export.variants.kinds.static import StaticConfig
from distiltune.export.variants.parity import Logits, torch_logits
from distiltune.training.checkpoints.load import load_model

ROOT = Path(__file__).parents[2]
TEXTS = [text for text, _ in tiny_data()]
LABELS = [f"label_{n}" for n in range(4)]
OPSET = 18
FUSED = [each.name for each in kinds.variants() if each.source is Source.FUSED_GRAPH]
# Each fused variant exports a graph of its own, which takes seconds, as do the histograms of the entropy.
FAST_FUSED = "onnx-fused-int8"
SLOW = {*FUSED, "onnx-static-entropy"} - {FAST_FUSED}
EACH = [
    pytest.param(each, id=each.name, marks=pytest.mark.slow if each.name in SLOW else ())
    for each in kinds.variants()
]
Made = tuple[Path, VariantFiles]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("student") / "student", label_names=LABELS)


@pytest.fixture(scope="module")
def convolution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convolution_student(
        tmp_path_factory.mktemp("convolution") / "student", pooling="max", num_blocks=1
    )


@pytest.fixture
def suited(variant: Variant, student: Path, convolution: Path) -> Path:
    """A student that the variant can be made of."""
    of_layers = json.loads((student / "config.json").read_text())
    return student if variant.why_not(of_layers) is None else convolution


@pytest.fixture(scope="module")
def make(
    student: Path, convolution: Path, tmp_path_factory: pytest.TempPathFactory, plain_graph
) -> Callable[..., Made]:
    """Make a variant, once, with training texts only if it declares that it needs them."""
    root = tmp_path_factory.mktemp("variants")

    @cache
    def made(name: str, source: Path = student) -> Made:
        plain = plain_graph(source, 32) if name == "onnx" else made("onnx", source)[0] / "model.onnx"
        texts = TEXTS if kinds.get(name).needs_texts else []
        options = {"config": ExportConfig(opset=OPSET), "max_length": 32, "training_texts": texts}
        out = root / source.parent.name / name
        return out, build_variant(name, source, out, base_onnx=plain, **options)

    return made


@pytest.fixture
def rows(suited: Path) -> list[np.ndarray]:
    tokenizer = Tokenizer.from_file(str(suited / "tokenizer.json"))
    tokenizer.no_padding()
    return [np.array(each.ids) for each in tokenizer.encode_batch(TEXTS)]


def alone(logits: Logits, rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([logits(row[None], np.ones_like(row[None])) for row in rows])


@pytest.mark.parametrize("variant", EACH)
def test_it_is_made_and_recorded(variant, make, suited, capfd) -> None:
    folder, record = make(variant.name, suited)
    assert capfd.readouterr().out == ""
    assert record.file == variant.file
    assert record.size_mb == (folder / variant.file).stat().st_size / 2**20
    assert (record.fused is not None) == (variant.source is Source.FUSED_GRAPH)
    assert (record.graph is not None) == (variant.file == "model.onnx")
    read = json.loads(json.dumps(record.to_json()))
    assert read == record.to_json()
    assert read["name"] == variant.name
    if variant.weight_bits < 32:
        assert record.size_mb < make("onnx", suited)[1].size_mb


@pytest.mark.parametrize("variant", EACH)
def test_its_logits_are_as_close_as_it_declares(variant, make, suited, rows) -> None:
    folder, record = make(variant.name, suited)
    expected = alone(torch_logits(load_model(suited).eval()), rows)
    difference = np.abs(alone(variant.open_logits(folder), rows) - expected).max()
    if variant.tolerance is None:
        assert max(record.max_abs_diff, difference) <= ExportConfig().parity_tolerance
    else:
        assert 0 < difference <= variant.tolerance * expected.std()


@pytest.mark.parametrize("variant", EACH)
def test_its_logits_depend_on_the_batch_only_if_it_declares_so(variant, make, suited, rows) -> None:
    length = len(rows[0])
    same = np.stack([row for row in rows if len(row) == length])
    logits = variant.open_logits(make(variant.name, suited)[0])
    moved = np.abs(logits(same, np.ones_like(same)) - alone(logits, list(same))).max()
    assert len(same) > 8
    assert (moved > 1e-4) == variant.logits_depend_on_batch


@pytest.mark.parametrize("variant", EACH)
def test_the_runtime_opens_what_can_be_sealed(variant, make, suited, rows) -> None:
    target = targets.get(variant.target)
    assert target.is_gated
    assert target.can_be_sealed == variant.can_be_sealed
    if variant.can_be_sealed:
        folder, _ = make(variant.name, suited)
        classifier = TextClassifier.load(folder)
        assert classifier.labels == LABELS
        expected = alone(variant.open_logits(folder), rows)
        np.testing.assert_allclose(classifier.logits(TEXTS, batch_size=1), expected, atol=1e-5)


@pytest.mark.parametrize("variant", EACH)
def test_its_graph_has_the_bits_and_operators_that_it_declares(variant, make, suited) -> None:
    if variant.file != "model.onnx":
        return
    model = onnx.load(str(make(variant.name, suited)[0] / "model.onnx"))
    onnx.checker.check_model(model)
    version = next(each.version for each in model.opset_import if not each.domain)
    assert version == max(OPSET, variant.min_opset or 0)
    assert bits_of_products(model.graph) == (variant.weight_bits, variant.activation_bits)
    operators = {node.op_type for node in model.graph.node}
    assert ("Attention" in operators) == (variant.source is Source.FUSED_GRAPH)


def bits_of_products(graph: onnx.GraphProto) -> tuple[int, int]:
    """Least bits of a constant weight, and of an activation, in matrix products."""
    kinds_of = {each.name: each.data_type for each in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    bits: dict[int, int] = {
        onnx.TensorProto.FLOAT: 32,
        onnx.TensorProto.FLOAT16: 16,
        onnx.TensorProto.INT8: 8,
    }
    weights, activations = {32}, {32}
    for node in graph.node:
        if node.op_type in ("QLinearConv", "QGemm"):  # both operands are integers
            weights.add(bits[kinds_of[node.input[3]]])
            activations.add(bits[kinds_of[node.input[3]]])
        elif node.op_type == "MatMulNBits":
            weights.add(next(each.i for each in node.attribute if each.name == "bits"))
        elif node.op_type in ("MatMul", "MatMulInteger", "Gemm"):
            maker = makers.get(node.input[1])
            dequantized = maker is not None and maker.op_type == "DequantizeLinear"
            name = maker.input[0] if maker is not None and dequantized else node.input[1]
            if name in kinds_of:
                weights.add(bits[kinds_of[name]])
                if kinds_of[name] != onnx.TensorProto.FLOAT:  # both operands have one type
                    activations.add(bits[kinds_of[name]])
    return min(weights), min(activations)


@pytest.mark.parametrize(
    "variant", [each for each in kinds.variants() if each.needs_texts], ids=lambda variant: variant.name
)
def test_what_needs_texts_is_refused_without(variant, make, suited, tmp_path) -> None:
    plain = make("onnx", suited)[0] / "model.onnx"
    with pytest.raises(ExportError, match="no training text"):
        build_variant(
            variant.name, suited, tmp_path / "x", config=ExportConfig(), max_length=32, base_onnx=plain
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", kinds.names())
def test_the_configuration_accepts_it(name) -> None:
    items = JobConfig.model_json_schema()["$defs"]["ExportConfig"]["properties"]["variants"]["items"]
    assert name in items["enum"]
    assert kinds.get(name).description in items["enumDescriptions"]
    assert ExportConfig.model_validate({"variants": ["onnx", name][name == "onnx" :]})


@pytest.mark.parametrize(
    ("given", "message"),
    [("onnx-int9", "onnx-int8"), ("onnx-fussed", "onnx-fused"), ("zebra", "onnx-weights-4bit")],
)
def test_an_unknown_name_is_refused_with_the_nearest(given, message) -> None:
    with pytest.raises(ValidationError) as raised:
        JobConfig.model_validate({"export": {"variants": ["onnx", given]}})
    [fault] = described(raised.value, JobConfig)
    assert fault.startswith("export.variants.1: ")
    assert message in fault
    assert given in fault
    with pytest.raises(ConfigError, match=rf"export\.variants: '{given}' given.*{message}"):
        kinds.get(given)


def test_one_of_the_variants_can_be_sealed() -> None:
    with pytest.raises(ValidationError, match="can be sealed"):
        ExportConfig(variants=["student-pytorch-int8"])
    with pytest.raises(ValidationError, match="each variant once"):
        ExportConfig(variants=["onnx", "onnx"])


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="onnx-int8"):
        base.register(kinds.get("onnx-int8"))


def test_a_kind_finds_its_own_section() -> None:
    config = ExportConfig(static=StaticConfig(max_excluded=7))
    assert VariantInputs([], config).section(StaticConfig).max_excluded == 7
    assert VariantInputs([], config).section(ChooseConfig) == config.choose
    assert VariantInputs([], config).section(BenchmarkConfig) == BenchmarkConfig()


@pytest.mark.parametrize(
    ("names", "model_type", "timed"),
    [
        (["onnx", "onnx-fused-int8", "onnx-int8"], "bert", "onnx-fused-int8"),
        (["onnx", "onnx-fused-int8", "onnx-int8"], "distiltune-convolution", "onnx-int8"),
        (["onnx-fused-int8", "onnx-fused"], "distiltune-convolution", "onnx-int8"),
        (["onnx", "onnx-fused-int8", "onnx-int8"], "distiltune-static", "onnx-int8"),
        (["student-pytorch-int8", "onnx-fp16", "onnx"], "bert", "onnx-fp16"),
        (["onnx-weights-8bit", "onnx-int8-embeddings-4bit"], "electra", "onnx-int8-embeddings-4bit"),
        (["student-pytorch-int8", "onnx-static-minmax"], "bert", "onnx-int8"),
        (["onnx-fused-int8", "onnx"], "deberta-v2", "onnx"),
        (["onnx", "onnx-integer-embeddings-4bit"], "distiltune-convolution", "onnx-integer-embeddings-4bit"),
        (["onnx", "onnx-integer"], "distiltune-static", "onnx"),
        (["onnx", "onnx-tensorrt-int8"], "bert", "onnx"),
    ],
)
def test_students_are_timed_as_the_first_variant_with_8_bit_products(names, model_type, timed) -> None:
    assert timed_variant(names, {"model_type": model_type, "pooling": "max"}).name == timed


def test_a_variant_that_needs_a_gpu_is_made_on_one(monkeypatch) -> None:
    wanted = TaskResources(cpu=2, gpu=0)
    assert resources_for("onnx", wanted) == wanted
    needs = replace(kinds.get("onnx"), name="onnx-engine", needs_gpu=True)
    monkeypatch.setitem(base.VARIANTS, "onnx-engine", needs)
    assert resources_for("onnx-engine", wanted).gpu == 1
    assert resources_for("onnx-engine", TaskResources(gpu=0.5)).gpu == 0.5


def test_its_targets_on_a_gpu_open_graphs() -> None:
    on_gpu = {each for each in targets.names() if targets.get(each).measures == "onnx"}
    assert {name for each in kinds.variants() for name in each.gpu_targets} == on_gpu
    for variant in kinds.variants():
        assert not variant.gpu_targets or variant.target == "onnx"
        assert "tensorrt" not in variant.gpu_targets or variant.source is Source.PLAIN_GRAPH


def test_int8_for_tensorrt_is_symmetric(make) -> None:
    graph = onnx.load(str(make("onnx-tensorrt-int8")[0] / "model.onnx")).graph
    values = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    pairs = [each for each in graph.node if each.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {each.op_type for each in pairs} == {"QuantizeLinear", "DequantizeLinear"}
    for node in pairs:
        zero_point = values[node.input[2]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
        if node.input[0] in values:
            assert values[node.input[0]].dtype == np.int8
            assert -127 <= values[node.input[0]].min() < values[node.input[0]].max() <= 127
    assert all(values[node.input[1]].ndim == 1 for node in pairs if node.input[0] in values)
    tables = {node.input[0] for node in graph.node if node.op_type == "Gather"} & set(values)
    assert {values[name].dtype for name in tables if values[name].ndim == 2} == {np.dtype(np.float32)}


def test_fp16_for_tensorrt_keeps_sums_in_32_bits(make) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(str(make("onnx-tensorrt-fp16")[0] / "model.onnx")))
    types = {each.name: each.type.tensor_type.elem_type for each in model.graph.value_info}
    kept = [node for node in model.graph.node if node.op_type in ("LayerNormalization", "Softmax")]
    assert {node.op_type for node in kept} == {"LayerNormalization", "Softmax"}
    assert {types[node.output[0]] for node in kept} == {onnx.TensorProto.FLOAT}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    assert onnx.TensorProto.FLOAT16 in {types.get(node.output[0]) for node in products}


def test_a_variant_from_outside_is_made_measured_and_chosen(student, make, tmp_path, request) -> None:
    """A function that writes a file, and a declaration, are all that it takes."""

    def rounded(source: Path, target: Path, _: VariantInputs) -> Quantized:
        model = onnx.load(str(source))
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
                values = onnx.numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        onnx.save(model, str(target))
        return Quantized()

    with pytest.raises(ValidationError, match="rounded"):
        ExportConfig(variants=["rounded"])
    base.register(Variant("rounded", "weights rounded", Source.PLAIN_GRAPH, rounded, tolerance=0.05))
    request.addfinalizer(lambda: base.VARIANTS.pop("rounded"))
    config = ExportConfig(variants=["rounded"], choose=ChooseConfig(max_drop_from_student=1))
    schema = JobConfig.model_json_schema()["$defs"]["ExportConfig"]["properties"]["variants"]
    assert "rounded" in schema["items"]["enum"]
    plain, out = make("onnx")[0] / "model.onnx", tmp_path / "rounded"
    made = build_variant("rounded", student, out, config=config, max_length=32, base_onnx=plain)
    assert 0 < made.max_abs_diff < 0.1
    numbers = [LABELS.index(label) for _, label in tiny_data()]
    texts = BenchmarkTexts(TEXTS, numbers, TEXTS, numbers, LABELS)
    quick = BenchmarkConfig(
        num_warmups=0, num_runs=2, num_sample_texts=2, batch_sizes=[1], tune_session=False, floors=False
    )
    [row] = measure_models(
        [MeasurementSpec("rounded", kinds.get("rounded").target, str(out), 32)], texts, quick
    )
    assert row.validation_accuracy is not None
    of_student = replace(row, name="student-pytorch", kind="pytorch")
    assert select_variant([of_student, row], config.choose).chosen == "rounded"


def test_the_registries_load_no_runtime() -> None:
    code = (
        "import sys, distiltune.export.config, distiltune.export.variants.kinds, distiltune.export.benchmark.targets\n"
        "print(sorted(set(sys.modules) & {'torch', 'onnx', 'onnxruntime', 'transformers', 'tokenizers'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_the_registries_name_variants_and_targets() -> None:
    """Names that have other meanings too are excluded: a device of PyTorch, a package."""
    ours = {*kinds.names(), *targets.names()} - {"onnx", "pytorch", "reference", "cuda", "tensorrt"}
    folders = [ROOT / "export/variants/kinds", ROOT / "export/benchmark/targets"]
    allowed = {ROOT / "export/variants/config.py"}  # the default of export.variants
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("export", "cluster", "search")
        for path in (ROOT / folder).rglob("*.py")
        if path.parent not in folders and path not in allowed
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in ours
    ]
    assert found == []
