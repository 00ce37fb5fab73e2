import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from models import tiny_classifier
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distiltune.errors import ExportError, ModelError
from distiltune.export.config import ExportConfig
from distiltune.export.onnx.convert import export_onnx
from distiltune.export.onnx.fusion import ATTENTION_OPS, fuse_onnx
from distiltune.export.onnx.inference_form import inference_form
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.variants import build as variants
from distiltune.export.variants import dynamic as quantize
from distiltune.export.variants import torch_int8
from distiltune.export.variants.build import build_variant
from distiltune.export.variants.parity import measure_parity, torch_logits
from distiltune.export.variants.static import quantize_static_onnx

LABELS = ["balance", "oos", "transfer", "weather"]
TEXTS = [
    "what is my balance",
    "send ten dollars to my brother today please and tell him that it is for the rent",
    "rain",
    "will it rain in the town where my brother lives today",
]
MAX_LENGTH = 32
FILES = [
    "config.json",
    "distiltune.json",
    "model.onnx",
    "probes.json",
    "tokenizer.json",
    "tokenizer_config.json",
]
FAMILIES = ["bert", "distilbert", "roberta"]


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("students")
    return {
        family: tiny_classifier(root / family, family=family, label_names=LABELS, texts=TEXTS)
        for family in FAMILIES
    }


@pytest.fixture(scope="module")
def plain(students: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("plain")
    for family, student in students.items():
        record = build("onnx", student, root / family, out_of_scope_label="oos")
        assert record.max_abs_diff < 1e-5
    return {family: root / family for family in FAMILIES}


def build(name, student: Path, out_dir: Path, **options) -> variants.VariantFiles:
    options = {"config": ExportConfig(), "max_length": MAX_LENGTH, **options}
    return build_variant(name, student, out_dir, **options)


def torch_logits_of(directory: Path, texts: list[str]) -> np.ndarray:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    batch = tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    with torch.no_grad():
        outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return outputs.logits.numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_graph_runs_in_the_runtime_with_the_students_logits(family, students, plain) -> None:
    classifier = TextClassifier.load(plain[family])
    expected = torch_logits_of(students[family], TEXTS)
    np.testing.assert_allclose(classifier.logits(TEXTS), expected, atol=1e-5)
    for text, row in zip(TEXTS, expected, strict=True):
        np.testing.assert_allclose(classifier.logits([text])[0], row, atol=1e-5)
    assert classifier.labels == LABELS
    assert classifier.out_of_scope_label == "oos"
    assert classifier.max_length == MAX_LENGTH


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_graph_is_one_clean_file_with_two_inputs(family, plain) -> None:
    graph = onnx.load(str(plain[family] / "model.onnx"), load_external_data=False)
    onnx.checker.check_model(graph, full_check=True)
    assert [value.name for value in graph.graph.input] == ["input_ids", "attention_mask"]
    assert [value.name for value in graph.graph.output] == ["logits"]
    assert all(
        [bool(d.dim_param) for d in v.type.tensor_type.shape.dim] == [True, True] for v in graph.graph.input
    )
    assert {opset.domain: opset.version for opset in graph.opset_import}[""] == 18
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in graph.graph.initializer)
    assert sorted(file.name for file in plain[family].iterdir()) == FILES
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.graph.initializer}
    # Only the positions that a text of max_length reaches; those of roberta begin after its padding's.
    pad = json.loads((plain[family] / "distiltune.json").read_text())["pad_token_id"]
    rows = MAX_LENGTH + (pad + 1 if family == "roberta" else 0)
    assert [shapes[name] for name in shapes if "position_embeddings" in name] == [[rows, 32]]
    products = [node.input[1] for node in graph.graph.node if node.op_type in ("MatMul", "Gemm")]
    weights = [name for name in products if name in shapes]
    assert len(weights) == 14
    assert all(name.startswith("model.") and name.endswith(".weight") for name in weights)
    # no source lines or paths of the machine that exported it
    assert b"stack_trace" not in graph.SerializeToString()
    assert b".py" not in graph.SerializeToString()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_token_is_enough_in_the_last_layer(family, students) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(students[family]).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    wrapped = inference_form(model)
    hidden = torch.randn(2, 5, 32)
    base = wrapped.base_model
    layers = base.transformer.layer if family == "distilbert" else base.encoder.layer
    mask = torch.zeros(2, 1, 5, 5)
    mask[1, :, :, 3:] = torch.finfo(torch.float32).min
    original = model.base_model
    whole = original.transformer.layer[-1] if family == "distilbert" else original.encoder.layer[-1]
    with torch.no_grad():
        torch.testing.assert_close(layers[-1](hidden, mask), whole(hidden, mask)[:, :1])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert type(whole).__name__ != "FirstTokenLayer"


@pytest.mark.parametrize(
    "family", ["bert", *(pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES[1:])]
)
def test_fused_attention_is_counted_and_gives_the_same_logits(family, students, tmp_path) -> None:
    record = build("onnx-fused", students[family], tmp_path / "fused")
    assert record.fused is not None
    graph = onnx.load(str(tmp_path / "fused" / "model.onnx"))
    ops = [node.op_type for node in graph.graph.node]
    assert {op: ops.count(op) for op in record.fused} == record.fused
    # one layer in full, one for the first token
    assert (record.fused["Attention"], record.fused["MultiHeadAttention"]) == (1, 1)
    assert record.max_abs_diff < 1e-5
    expected = torch_logits_of(students[family], TEXTS)
    np.testing.assert_allclose(TextClassifier.load(tmp_path / "fused").logits(TEXTS), expected, atol=1e-5)


def test_nothing_fused_is_reported_not_hidden(plain, tmp_path, caplog) -> None:
    # Without the shapes of inner values, no attention is found.
    with caplog.at_level(logging.WARNING):
        counts = fuse_onnx(plain["bert"] / "model.onnx", tmp_path / "fused.onnx")
    assert counts["Attention"] == counts["MultiHeadAttention"] == 0
    assert "no attention was fused" in caplog.text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["onnx-int8", "onnx-int8-per-channel"])
def test_int8_graphs_are_small_and_close(name, family, students, plain, tmp_path) -> None:
    base = plain[family] / "model.onnx"
    record = build(name, students[family], tmp_path / name, base_onnx=base)
    graph = onnx.load(str(tmp_path / name / "model.onnx"))
    integer = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    tables = [t for t in graph.graph.initializer if "embeddings.weight" in t.name and len(t.dims) == 2]
    assert any("word_embeddings" in t.name and t.data_type in integer for t in tables)
    assert sum(node.op_type == "MatMulInteger" for node in graph.graph.node) >= 12
    scales = [t for t in graph.graph.initializer if t.name.endswith("_scale")]
    assert any(len(t.dims) == 1 and t.dims[0] > 1 for t in scales) == (name == "onnx-int8-per-channel")
    assert 0 < record.max_abs_diff < 0.1
    difference = TextClassifier.load(tmp_path / name).logits(TEXTS) - torch_logits_of(students[family], TEXTS)
    assert np.abs(difference).max() < 0.1


def activation_ranges(graph: onnx.GraphProto) -> dict[str, float]:
    """Return the width of the range of each activation that is quantized, by its name."""
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    return {
        node.input[0]: 255 * float(constants[node.input[1]])
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants
    }


def test_each_way_to_measure_ranges_has_its_own(plain, tmp_path) -> None:
    draw, found = np.random.default_rng(0), {}
    rows = [draw.integers(5, 45, MAX_LENGTH) for _ in range(60)]
    for method in ("minmax", "percentile", "entropy"):
        target = tmp_path / f"{method}.onnx"
        quantize_static_onnx(
            plain["bert"] / "model.onnx", target, rows, method=method, max_error=1.0, max_excluded=0
        )
        found[method] = activation_ranges(onnx.load(str(target)).graph)
    whole = np.array(list(found["minmax"].values()))
    assert len(whole) > 8
    for method in ("percentile", "entropy"):
        assert found[method].keys() == found["minmax"].keys()
        share = np.array(list(found[method].values())) / whole
        assert (share <= 1 + 1e-3).all()
        assert (share < 0.98).any()
    assert found["percentile"] != found["entropy"]


@pytest.mark.parametrize(
    ("machine", "instruction_sets", "saturates"),
    [
        ("x86_64", ["avx2", "fma"], True),
        ("AMD64", ["avx512f", "avx512bw"], True),
        ("x86_64", ["avx2", "avx_vnni"], False),
        ("x86_64", ["avx512f", "avx512_vnni"], False),
        ("x86_64", ["amx_int8"], False),
        ("aarch64", ["asimd"], False),
    ],
)
def test_8_bit_products_overflow_on_x86_without_vnni(
    monkeypatch, machine, instruction_sets, saturates
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(quantize, "describe_machine", lambda: {"instruction_sets": instruction_sets})
    assert quantize.int8_products_saturate() is saturates


@pytest.mark.parametrize("saturates", [True, False])
def test_weights_have_7_bits_where_8_bit_products_overflow(plain, tmp_path, monkeypatch, saturates) -> None:
    monkeypatch.setattr(quantize, "int8_products_saturate", lambda: saturates)
    assert quantize.quantize_onnx(plain["bert"] / "model.onnx", tmp_path / "x.onnx") is saturates
    graph = onnx.load(str(tmp_path / "x.onnx")).graph
    weights = [onnx.numpy_helper.to_array(each) for each in graph.initializer]
    largest = max(int(np.abs(each.astype(int)).max()) for each in weights if each.dtype == np.int8)
    assert largest <= 64 if saturates else largest == 127


def test_attention_that_cannot_be_fused_is_refused_for_families_that_are_not_known(students) -> None:
    bert = AutoModelForSequenceClassification.from_pretrained(students["bert"])
    none, some = dict.fromkeys(ATTENTION_OPS, 0), dict.fromkeys(ATTENTION_OPS, 2)
    variants._check_fused("onnx-fused", bert, none)  # fuse_onnx has warned already
    bert.config.model_type = "ernie"
    variants._check_fused("onnx-fused", bert, some)
    message = r"onnx-fused-int8: the attention of the family 'ernie' cannot be fused; .*export\.variants"
    with pytest.raises(ExportError, match=message):
        variants._check_fused("onnx-fused-int8", bert, none)


def test_static_quantization_needs_texts(students, plain, tmp_path) -> None:
    with pytest.raises(ExportError, match=r"by minmax: no training text to measure ranges on"):
        build("onnx-static-minmax", students["bert"], tmp_path / "x", base_onnx=plain["bert"] / "model.onnx")
    assert not (tmp_path / "x").exists()


def test_rows_that_fill_no_block_are_filled_up(tmp_path) -> None:
    narrow = tiny_classifier(tmp_path / "narrow", hidden_size=24, num_layers=1)
    build("onnx-int8-embeddings-4bit", narrow, tmp_path / "x")
    difference = TextClassifier.load(tmp_path / "x").logits(TEXTS) - torch_logits_of(narrow, TEXTS)
    assert np.abs(difference).max() < 0.5


def test_a_graph_without_what_is_to_be_quantized_is_refused(tmp_path) -> None:
    values = {name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in "xy"}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"], name="relu")], "g", [values["x"]], [values["y"]]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "plain.onnx"))
    for quantized in (quantize.quantize_embeddings, lambda *paths: quantize.quantize_weights(*paths, bits=8)):
        with pytest.raises(
            ExportError, match=r"no (Gather|MatMul) of the graph could be quantized to (4|8) bits"
        ):
            quantized(tmp_path / "plain.onnx", tmp_path / "small.onnx")
    assert not (tmp_path / "small.onnx").exists()


def test_quantizing_says_nothing_and_leaves_the_root_logger_alone(plain, tmp_path, caplog, capfd) -> None:
    handlers, filters = list(logging.root.handlers), list(logging.root.filters)
    with caplog.at_level(logging.INFO):
        quantize.quantize_onnx(plain["bert"] / "model.onnx", tmp_path / "int8.onnx")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    assert (logging.root.handlers, logging.root.filters) == (handlers, filters)


@pytest.mark.slow
def test_loading_the_quantizers_leaves_the_root_logger_alone() -> None:
    code = (
        "import logging\nfrom distiltune.export.variants import build, dynamic\n"
        "with dynamic.quiet():\n    import onnxruntime.quantization.matmul_nbits_quantizer\n"
        "assert not logging.root.handlers\nassert logging.root.level == logging.WARNING"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_pytorch_int8_comes_back_bit_for_bit_without_pickles(family, students, tmp_path) -> None:
    record = build("student-pytorch-int8", students[family], tmp_path / "int8")
    model = AutoModelForSequenceClassification.from_pretrained(students[family]).eval()
    made = torch_int8.quantize_pytorch(model)
    state = torch.get_rng_state()
    loaded = torch_int8.load_pytorch_int8(tmp_path / "int8")
    assert torch.equal(state, torch.get_rng_state())
    batch = AutoTokenizer.from_pretrained(tmp_path / "int8")(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        assert torch.equal(made(**inputs).logits, loaded(**inputs).logits)
        assert not torch.equal(model(**inputs).logits, loaded(**inputs).logits)
    assert not [file for file in (tmp_path / "int8").iterdir() if file.suffix in {".bin", ".pt", ".pkl"}]
    tensors = load_file(tmp_path / "int8" / "model.safetensors")
    num_linear = sum(isinstance(module, torch.nn.Linear) for module in model.modules())
    assert sum(tensor.dtype == torch.int8 for tensor in tensors.values()) == num_linear
    assert 0 < record.max_abs_diff < 0.1


def test_pytorch_int8_that_is_not_whole_is_refused(students, tmp_path) -> None:
    with pytest.raises(ModelError, match="not a PyTorch int8 variant"):
        torch_int8.load_pytorch_int8(tmp_path)
    build("student-pytorch-int8", students["bert"], tmp_path / "int8")
    file = tmp_path / "int8" / "model.safetensors"
    tensors = load_file(file)
    for key in ("classifier.int8_scale", "bert.embeddings.LayerNorm.weight"):
        save_file({name: value for name, value in tensors.items() if name != key}, file)
        with pytest.raises(ModelError, match="again"):
            torch_int8.load_pytorch_int8(tmp_path / "int8")


def test_a_graph_over_tolerance_is_an_error_and_leaves_nothing(students, plain, tmp_path) -> None:
    with pytest.raises(ExportError, match=r"onnx: logits differ .* export.parity_tolerance = 1e-12"):
        build(
            "onnx",
            students["roberta"],
            tmp_path / "onnx",
            config=ExportConfig(parity_tolerance=1e-12),
            base_onnx=plain["roberta"] / "model.onnx",
        )
    assert not list(tmp_path.iterdir())


def test_the_graph_of_another_student_is_caught_by_parity(students, plain, tmp_path) -> None:
    with pytest.raises(ExportError, match="logits differ"):
        build("onnx", students["bert"], tmp_path / "onnx", base_onnx=plain["distilbert"] / "model.onnx")


def test_parity_covers_short_full_length_and_padded_batches(students) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(students["roberta"]).eval()
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    logits = torch_logits(model)

    def candidate(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        seen.append((input_ids, attention_mask))
        return logits(input_ids, attention_mask) + 0.25 * (len(input_ids) == 4)

    parity = measure_parity(
        logits, candidate, vocab_size=model.config.vocab_size, pad_token_id=1, max_length=20
    )
    assert parity.max_abs_diff == pytest.approx(0.25, abs=1e-6)
    assert {(1, 8), (1, 20), (4, 16)} <= set(parity.shapes)
    for input_ids, attention_mask in seen:
        assert ((input_ids == 1) == (attention_mask == 0)).all()
        assert attention_mask[:, 0].all()
    assert any(0 in attention_mask for _, attention_mask in seen)


@pytest.mark.parametrize("wrong", [np.full((1, 4), np.nan), np.zeros((1, 3))])
def test_parity_refuses_logits_that_are_not_comparable(wrong) -> None:
    with pytest.raises(ExportError, match="logits of shape"):
        measure_parity(
            lambda *_: np.zeros((1, 4)), lambda *_: wrong, vocab_size=9, pad_token_id=0, max_length=8
        )


def test_padding_and_truncation_of_the_checkpoint_do_not_reach_the_variant(students, plain, tmp_path) -> None:
    student = tmp_path / "student"
    student.mkdir()
    for file in students["bert"].iterdir():
        (student / file.name).write_bytes(file.read_bytes())
    tokenizer = Tokenizer.from_file(str(student / "tokenizer.json"))
    tokenizer.enable_padding(length=128)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(student / "tokenizer.json"))
    build("onnx", student, tmp_path / "onnx", base_onnx=plain["bert"] / "model.onnx")
    saved = json.loads((tmp_path / "onnx" / "tokenizer.json").read_text())
    assert saved["padding"] is None
    assert saved["truncation"]["max_length"] == MAX_LENGTH


def test_a_text_of_full_length_works_and_a_longer_one_is_cut(students, plain) -> None:
    text = " ".join(["rain"] * (3 * MAX_LENGTH))
    for family in FAMILIES:
        expected = torch_logits_of(students[family], [text])
        np.testing.assert_allclose(TextClassifier.load(plain[family]).logits([text]), expected, atol=1e-5)


def test_a_newer_opset_is_written_and_run(tmp_path) -> None:
    student = tiny_classifier(tmp_path / "student", num_layers=1, label_names=LABELS, texts=TEXTS)
    config = ExportConfig(opset=21)
    for name, most in (("onnx", 1e-5), ("onnx-int8", 0.5)):
        base = tmp_path / "onnx" / "model.onnx" if name != "onnx" else None
        build(name, student, tmp_path / name, config=config, base_onnx=base)
        graph = onnx.load(str(tmp_path / name / "model.onnx"))
        assert next(each.version for each in graph.opset_import if not each.domain) == 21
        difference = TextClassifier.load(tmp_path / name).logits(TEXTS)
        assert np.abs(difference - torch_logits_of(student, TEXTS)).max() < most


@pytest.mark.slow
def test_another_opset_is_written_and_every_kind_of_variant_made_of_it(students, tmp_path) -> None:
    config = ExportConfig(opset=22)
    for name in ("onnx", "onnx-int8", "onnx-static-minmax", "onnx-int8-embeddings-4bit", "onnx-fused"):
        base = tmp_path / "onnx" / "model.onnx" if name != "onnx" else None
        options = {"config": config, "base_onnx": base, "training_texts": TEXTS * 3}
        record = build(name, students["bert"], tmp_path / name, **options)
        graph = onnx.load(str(tmp_path / name / "model.onnx"))
        assert next(each.version for each in graph.opset_import if not each.domain) == 22
        difference = TextClassifier.load(tmp_path / name).logits(TEXTS)
        assert np.abs(difference - torch_logits_of(students["bert"], TEXTS)).max() < 0.5
        assert (record.fused is not None) == (name == "onnx-fused")


def test_a_variant_takes_the_place_of_an_earlier_one_whole(students, plain, tmp_path) -> None:
    out_dir = tmp_path / "int8"
    out_dir.mkdir()
    (out_dir / "left-over").write_text("old")
    build("onnx-int8", students["bert"], out_dir, base_onnx=plain["bert"] / "model.onnx")
    assert sorted(file.name for file in out_dir.iterdir()) == FILES
    assert [entry.name for entry in tmp_path.iterdir()] == ["int8"]


def test_the_record_is_json(students, plain, tmp_path) -> None:
    record = build("onnx", students["bert"], tmp_path / "o", base_onnx=plain["bert"] / "model.onnx").to_json()
    assert json.loads(json.dumps(record)) == record
    assert record["file"] == "model.onnx"
    assert record["size_mb"] == (tmp_path / "o" / "model.onnx").stat().st_size / 2**20


def test_what_cannot_be_exported_is_said(students, plain, tmp_path) -> None:
    with pytest.raises(ModelError, match="not a checkpoint"):
        build("onnx", tmp_path / "nowhere", tmp_path / "onnx")
    with pytest.raises(ExportError, match="variant `onnx` first"):
        build("onnx-int8", students["bert"], tmp_path / "int8", base_onnx=tmp_path / "no.onnx")
    model = AutoModelForSequenceClassification.from_pretrained(students["roberta"])
    with pytest.raises(ExportError, match=r"max_length is 5000; this model accepts 1 to \d+"):
        export_onnx(model, tmp_path / "x.onnx", max_length=5000)
