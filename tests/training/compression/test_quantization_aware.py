"""Quantization-aware training: it matches the runtime's numerics, begins at its epoch, and saves plain weights."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from convolution_students import convolution, static
from onnx import TensorProto, helper
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantizer
from onnxruntime.quantization.quant_utils import quantize_data
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, TrainerCallback

from distiltune.cluster.pipeline.checks.models import check_models
from distiltune.cluster.specification.config import JobConfig
from distiltune.errors import InputError
from distiltune.export.config import ExportConfig
from distiltune.export.onnx.convert import export_onnx
from distiltune.export.variants import kinds
from distiltune.export.variants.base import VariantInputs
from distiltune.export.variants.dynamic import int8_products_saturate
from distiltune.export.variants.parity import onnx_logits, torch_logits
from distiltune.search.config import SearchConfig
from distiltune.search.space.validation import space_faults
from distiltune.training.compression.config import QuantizationAwareConfig
from distiltune.training.compression.fake_quantization import (
    asymmetric_steps,
    block_steps,
    quantized_linear,
    range_of_4_bits,
    read_back_4_bits,
    read_back_8_bits,
    symmetric_steps,
)
from distiltune.training.compression.quantization_aware import (
    FakeQuantized,
    QuantizationAwareTraining,
    first_step,
)
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.tokenized import TokenizedDataset, TokenizedSplit
from distiltune.training.distillation.arguments import DistillationTrainingArguments, arguments_from_config
from distiltune.training.distillation.callbacks import callbacks_of
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models.first_token import first_token_in_last_layer
from distiltune.training.models.trainable_embedding_rows import table_range, train_used_rows

VOCABULARY, POSITIONS, NUM_LABELS, PAD, WIDTH = 80, 40, 5, 1, 48


def classifier(family="bert", num_layers=2, **more):
    """Build an untrained classifier without dropout whose logits differ from text to text."""
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": num_layers, "num_attention_heads": 2}
    ids = {"vocab_size": VOCABULARY, "num_labels": NUM_LABELS, "pad_token_id": PAD}
    config = AutoConfig.for_model(family, **sizes, **ids, max_position_embeddings=POSITIONS, **more)
    off = {name: 0.0 for name in config.to_dict() if "dropout" in name and name != "classifier_dropout"}
    config.update({"intermediate_size": 64, "hidden_dim": 64, "initializer_range": 0.2, **off})
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return model


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ---- The numerics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "low", "high"), [(8, -127, 127), (7, -64, 64)])
@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_match_the_quantizer(bits, low, high, per_channel):
    weight = numbers(40, 300)
    weight[3] = 0.0
    axis = {"axis": 1, "keepdims": True} if per_channel else {}
    expected_scale = np.abs(weight).max(**axis) / np.float32(high)
    expected_scale = np.where(expected_scale == 0, np.float32(1), expected_scale)
    expected = np.clip(np.round(weight / expected_scale), low, high)

    steps, scale = symmetric_steps(torch.from_numpy(weight), per_channel=per_channel, bits=bits)
    np.testing.assert_array_equal(steps, expected)
    np.testing.assert_array_equal(scale.squeeze(), np.squeeze(expected_scale))
    for own, row in [(steps, weight)] if not per_channel else zip(steps, weight, strict=True):
        _, of_runtime, quantized = quantize_data(row.ravel(), TensorProto.INT8, True, reduce_range=bits == 7)
        np.testing.assert_array_equal(own.flatten(), quantized)
        assert (scale.numpy() == of_runtime).any()


RANGES = [(-3.0, 5.0), (2.0, 5.0), (-5.0, -2.0), (0.0, 0.0), (-1.0, 0.0)]


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_activations_match_the_runtime(low, high):
    x = np.random.default_rng(0).uniform(low, high, size=(3, 500)).astype(np.float32)
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"])
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 500])],
        [
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in [
                ("q", TensorProto.UINT8),
                ("scale", TensorProto.FLOAT),
                ("zero", TensorProto.UINT8),
            ]
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    quantized, of_runtime, zero = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})

    least, largest = np.float32(min(x.min(), 0)), np.float32(max(x.max(), 0))
    by_hand = (largest - least) / np.float32(255) or np.float32(1)
    zero_by_hand = np.round(-least / by_hand)
    steps, scale = asymmetric_steps(torch.from_numpy(x), *torch.aminmax(torch.from_numpy(x)))
    assert scale == of_runtime == by_hand
    assert zero == zero_by_hand
    np.testing.assert_array_equal(steps, quantized.astype(np.float32) - zero)
    np.testing.assert_array_equal(steps, np.clip(np.round(x / by_hand) + zero_by_hand, 0, 255) - zero_by_hand)


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_tables_in_8_bits_match_the_quantizer(low, high):
    table = np.random.default_rng(0).uniform(low, high, size=(60, 20)).astype(np.float32)
    zero, scale, quantized = quantize_data(table.ravel(), TensorProto.UINT8, False)
    expected = (quantized.astype(np.float32) - np.float32(zero)) * scale
    whole = torch.from_numpy(table)
    np.testing.assert_array_equal(read_back_8_bits(whole, *torch.aminmax(whole)).ravel(), expected)


@pytest.mark.parametrize("width", [32, 64, 48])
def test_tables_in_4_bits_match_the_quantizer(width):
    table = numbers(9, width)
    table[2] = 0.0
    table[3, :32] = np.abs(table[3, :32])
    table[4, :2] = [9.0, -9.0]
    table[5, :2] = [-9.0, 8.9]
    expected = np.empty_like(table)
    for start in range(0, width, 32):
        part = table[:, start : start + 32]
        with np.errstate(invalid="ignore", divide="ignore"):
            quantized, scale = DefaultWeightOnlyQuantizer.quant_slice_symmetric(part)
        expected[:, start : start + 32] = quantized * scale
    np.testing.assert_array_equal(read_back_4_bits(torch.from_numpy(table)), expected)
    np.testing.assert_array_equal(expected[4, :2], [7.875, -9.0])
    steps, _ = block_steps(torch.from_numpy(table))
    assert steps.min() == -8
    assert steps.max() == 7


def test_gradients_pass_straight_through_except_where_values_are_clipped():
    given = numbers(4, 32)
    given[0, :3] = [9.0, -9.0, 8.0]  # with a step of 9 / 8 the first would be 8, over the highest, 7
    x = torch.from_numpy(given).requires_grad_()
    upstream = torch.from_numpy(numbers(4, 32, seed=1))
    (in_8_bits,) = torch.autograd.grad(read_back_8_bits(x, *torch.aminmax(x.detach())), x, upstream)
    torch.testing.assert_close(in_8_bits, upstream)

    _, scale = DefaultWeightOnlyQuantizer.quant_slice_symmetric(given)
    clipped = torch.from_numpy(np.round(given / scale) > 7)
    assert clipped[0, :3].tolist() == [True, False, False]
    (in_4_bits,) = torch.autograd.grad(read_back_4_bits(x), x, upstream)
    torch.testing.assert_close(in_4_bits, upstream.masked_fill(clipped, 0.0))


@pytest.mark.parametrize("per_channel", [False, True])
def test_the_gradients_of_a_product_use_the_quantized_matrices(per_channel):
    x, weight, bias = (
        torch.from_numpy(numbers(*shape, seed=seed)).requires_grad_()
        for seed, shape in enumerate([(2, 7, 16), (12, 16), (12,)])
    )
    output = quantized_linear(x, weight, bias, per_channel=per_channel)
    upstream = torch.from_numpy(numbers(2, 7, 12, seed=9))
    found = torch.autograd.grad(output, (x, weight, bias), upstream)

    steps, scale = symmetric_steps(weight, per_channel=per_channel)
    read_weight = (steps * scale).detach()
    read_x = read_back_8_bits(x.detach(), *torch.aminmax(x.detach()))
    torch.testing.assert_close(output, read_x @ read_weight.T + bias, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0], upstream @ read_weight)
    torch.testing.assert_close(found[1], torch.einsum("blo,bli->oi", upstream, read_x))
    torch.testing.assert_close(found[2], upstream.sum((0, 1)))


def test_integers_are_multiplied_exactly_under_bfloat16():
    x, weight = torch.from_numpy(numbers(64, 48)), torch.from_numpy(numbers(32, 48, seed=1))
    exact = quantized_linear(x, weight, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = quantized_linear(x, weight, None)
        plain = nn.functional.linear(x, weight)
    assert half.dtype == plain.dtype == torch.bfloat16
    # The result is rounded twice, to 8 bits each time; the factors are not rounded.
    torch.testing.assert_close(half.float(), exact, rtol=2**-7, atol=0)
    assert not torch.allclose(plain.float(), x @ weight.T, rtol=2**-7, atol=0)


def test_sums_do_not_overflow_under_float16():
    x, weight = torch.full((2, 600), 3.0), torch.full((4, 600), 2.0)
    with torch.autocast("cpu", dtype=torch.float16):
        product = quantized_linear(x, weight, torch.ones(4))
    torch.testing.assert_close(product.float(), torch.full((2, 4), 3601.0))


# ---- The runtime ----------------------------------------------------------------------------------------


def texts(num_texts=24):
    """Yield batches of one text, because each text has its own range, and two padded batches."""
    random = np.random.default_rng(0)
    for size in (*[1] * num_texts, 4, 8):
        ids = random.integers(2, VOCABULARY, size=(size, int(random.integers(3, 30))))
        mask = np.ones_like(ids)
        if size > 1:
            mask[1, 2:], ids[1, 2:] = 0, PAD
        yield ids, mask


EXACT = pytest.mark.skipif(
    int8_products_saturate(),
    reason="ONNX Runtime adds 8-bit products in 16 bits on a processor without VNNI: its 8-bit graph is not exact",
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a function that gives a family's model and the path of its graph, each created only once."""
    created = {}

    def export(family):
        if family not in created:
            model, path = classifier(family), tmp_path_factory.mktemp(family) / "model.onnx"
            export_onnx(model, path, max_length=32)
            first_token_in_last_layer(model)
            created[family] = model, path
        return created[family]

    return export


def quantize(name: str, plain: Path, target: Path) -> None:
    kinds.get(name).make(plain, target, VariantInputs([], ExportConfig()))


@pytest.mark.parametrize(
    ("family", "name", "options"),
    [
        pytest.param("bert", "onnx-int8", {}, marks=EXACT),
        pytest.param("bert", "onnx-int8-per-channel", {"weights": "per_channel"}, marks=EXACT),
        ("bert", "onnx-int8-reduced-range", {"weight_bits": 7}),
        pytest.param("bert", "onnx-int8-embeddings-4bit", {"embedding_bits": 4}, marks=EXACT),
        pytest.param("roberta", "onnx-int8", {}, marks=[EXACT, pytest.mark.slow]),
        pytest.param(
            "distilbert", "onnx-int8-embeddings-4bit", {"embedding_bits": 4}, marks=[EXACT, pytest.mark.slow]
        ),
    ],
)
def test_logits_match_the_quantized_graph(exported, tmp_path, monkeypatch, family, name, options):
    # Test the 8-bit variants in 8 bits even on a processor for which weights have 7 by default.
    monkeypatch.setattr("distiltune.export.variants.dynamic.int8_products_saturate", lambda: False)
    model, path = exported(family)
    quantize(name, path, tmp_path / "quantized.onnx")
    of_runtime = [onnx_logits(tmp_path / "quantized.onnx")(*text) for text in texts()]
    plain = [torch_logits(model)(*text) for text in texts()]
    with FakeQuantized(model, QuantizationAwareConfig(**options), max_length=32):
        ours = [torch_logits(model)(*text) for text in texts()]
    scale = np.concatenate(of_runtime).std()

    def distances(logits):
        return np.array([np.abs(a - b).max() for a, b in zip(logits, of_runtime, strict=True)]) / scale

    # Equal up to the rounding of float32, which occasionally moves an activation to the next step.
    assert np.mean(distances(ours) < 1e-5) > 0.8
    assert distances(ours).mean() < 0.1 * distances(plain).mean()
    assert distances(plain).min() > 1e-3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("onnx-int8", {}, marks=EXACT),
        pytest.param("onnx-int8-per-channel", {"weights": "per_channel"}, marks=EXACT),
        ("onnx-int8-reduced-range", {"weight_bits": 7}),
        pytest.param("onnx-int8-embeddings-4bit", {"embedding_bits": 4}, marks=EXACT),
    ],
)
@pytest.mark.parametrize(
    "shape", [{}, {"window_sizes": [1, 3], "pooling": "max"}, {"num_blocks": 1}, None], ids=str
)
def test_logits_of_students_without_attention_match_the_graph_too(
    shape, name, options, tmp_path, monkeypatch
):
    """The normalization is part of the next product; rows in 8 bits are rounded once; all filters are one matrix."""
    monkeypatch.setattr("distiltune.export.variants.dynamic.int8_products_saturate", lambda: False)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "classifier_size": 32}
    model = static(**sizes) if shape is None else convolution(**sizes, num_filters=48, **shape)
    export_onnx(model, tmp_path / "model.onnx", max_length=32)
    quantize(name, tmp_path / "model.onnx", tmp_path / "quantized.onnx")
    of_runtime = np.concatenate([onnx_logits(tmp_path / "quantized.onnx")(*text) for text in texts()])
    plain = np.concatenate([torch_logits(model)(*text) for text in texts()])
    with FakeQuantized(model, QuantizationAwareConfig(**options), max_length=32):
        ours = np.concatenate([torch_logits(model)(*text) for text in texts()])
    distances = np.abs(ours - of_runtime).max(axis=1) / of_runtime.std()
    assert np.mean(distances < 1e-5) > 0.8
    assert np.abs(plain - of_runtime).mean() > 100 * distances.mean()


@pytest.mark.parametrize("make", [convolution, static], ids=lambda each: each.__name__)
def test_dropout_of_students_without_attention_drops_normalized_values(make, monkeypatch):
    """With exact products, logits are those of a model that normalizes by the same statistics and then drops values."""
    monkeypatch.setattr(
        "distiltune.training.compression.quantization_aware.quantized_linear",
        lambda x, weight, bias, **_: nn.functional.linear(x, weight, bias),
    )
    model = make(dropout=0.4).train()
    model.norm.eval()
    ids = torch.randint(1, 60, (16, 9), generator=torch.Generator().manual_seed(0))

    def logits():
        torch.manual_seed(1)
        return model(ids).logits

    expected = logits()
    with FakeQuantized(model, QuantizationAwareConfig(embedding_bits=None)):
        torch.testing.assert_close(logits(), expected, atol=1e-5, rtol=1e-4)
        kept = torch.autograd.grad(logits().square().sum(), model.norm.bias)
    torch.testing.assert_close(kept, torch.autograd.grad(logits().square().sum(), model.norm.bias))
    assert not torch.allclose(expected, model.eval()(ids).logits, atol=0.1)


def test_the_same_operations_are_quantized_as_in_the_graph(exported, tmp_path):
    model, path = exported("bert")
    quantize("onnx-int8", path, tmp_path / "quantized.onnx")
    nodes = [node.op_type for node in onnx.load(str(tmp_path / "quantized.onnx")).graph.node]
    with FakeQuantized(model, QuantizationAwareConfig()):
        replaced = [module for module in model.modules() if "forward" in vars(module)]
    linear = [module for module in replaced if isinstance(module, nn.Linear)]
    tables = [module for module in replaced if isinstance(module, nn.Embedding)]
    assert nodes.count("MatMulInteger") == len(linear) == 6 * 2 + 2
    assert (
        nodes.count("DequantizeLinear") == len(tables) == 2
    )  # words and positions; token types are a constant
    assert nodes.count("MatMul") == 2 * 2  # attention: activations by activations
    # The last layer keeps the forward of `first_token_in_last_layer`.
    assert [type(module).__name__ for module in model.modules() if "forward" in vars(module)] == ["BertLayer"]


# ---- The training ---------------------------------------------------------------------------------------


@pytest.fixture
def split():
    random = np.random.default_rng(0)
    lengths = random.integers(3, 9, size=24)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return TokenizedSplit(
        input_ids=random.integers(2, VOCABULARY - 20, size=offsets[-1]).astype(np.int32),
        offsets=offsets,
        labels=random.integers(0, NUM_LABELS, size=24),
        example_ids=np.arange(24),
    )


class StepRecorder(TrainerCallback):
    """Record at every step whether layers compute with quantized values, in training and in evaluation mode."""

    def __init__(self):
        self.seen = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        layer = model.classifier
        x = torch.linspace(-1, 1, WIDTH)
        with torch.no_grad():
            plain = nn.functional.linear(x, layer.weight, layer.bias)
            training = not torch.equal(layer(x), plain)
            model.eval()
            self.seen[state.global_step] = (training, not torch.equal(layer(x), plain))
            model.train()


def trained(tmp_path, split, config, *, model=None, resume=None, recorder=None, **more):
    """Train for three epochs of three steps."""
    model = model or classifier(num_layers=1)
    args = DistillationTrainingArguments(
        output_dir=str(tmp_path), **{"num_train_epochs": 3, "save_strategy": "epoch", "bf16": False, **more},
        learning_rate=1e-3, alpha=1.0, per_device_train_batch_size=8, use_cpu=True, report_to="none", seed=5,
    )  # fmt: skip
    callbacks = [*callbacks_of(TrainingConfig(quantization_aware=config)), *([recorder] if recorder else [])]
    trainer = DistillationTrainer(
        model=model, args=args, train_dataset=TokenizedDataset(split),
        data_collator=DistillationCollator(PAD), callbacks=callbacks,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return model


@pytest.mark.parametrize(("num_epochs", "first"), [(1, 7), (3, 1), (0.5, 6)])
def test_training_is_quantized_from_its_first_step_and_evaluation_always(tmp_path, split, num_epochs, first):
    recorder = StepRecorder()
    config = QuantizationAwareConfig(num_epochs=num_epochs)
    model = trained(tmp_path, split, config, recorder=recorder, save_strategy="no")
    assert recorder.seen == {step: (step >= first, True) for step in range(1, 10)}
    assert not any("forward" in vars(module) for module in model.modules())


def test_checkpoints_hold_plain_weights(tmp_path, split):
    kinds = {"plain": None, "aware": QuantizationAwareConfig(embedding_bits=4)}
    for kind, config in kinds.items():
        model = trained(tmp_path / kind, split, config)
    loaded = {
        (kind, step): AutoModelForSequenceClassification.from_pretrained(
            tmp_path / kind / f"checkpoint-{step}"
        )
        for kind in kinds
        for step in (3, 9)
    }
    states = {key: each.state_dict() for key, each in loaded.items()}
    torch.testing.assert_close(states["aware", 9], model.state_dict(), atol=0, rtol=0)
    assert states["aware", 9].keys() == classifier(num_layers=1).state_dict().keys()
    # Equal until fake quantization begins and different afterwards, with more distinct values than 8 bits have.
    torch.testing.assert_close(states["aware", 3], states["plain", 3], atol=0, rtol=0)
    own, other = (states[kind, 9]["bert.encoder.layer.0.intermediate.dense.weight"] for kind in kinds)
    assert not torch.equal(own, other)
    assert len(own.unique()) > 1000


@pytest.mark.parametrize(("bf16", "step"), [(False, 6), (True, 3)])
def test_a_resumed_training_ends_with_the_same_weights(tmp_path, split, bf16, step):
    config = QuantizationAwareConfig(embedding_bits=4)
    whole = trained(tmp_path, split, config, bf16=bf16)
    resumed = trained(tmp_path, split, config, bf16=bf16, resume=str(tmp_path / f"checkpoint-{step}"))
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), atol=0, rtol=0)


def test_it_works_with_used_rows_and_a_first_token_last_layer(tmp_path, split):
    config = QuantizationAwareConfig(num_epochs=2)
    whole, used = classifier(num_layers=1), classifier(num_layers=1)
    with torch.no_grad():
        for model in (whole, used):
            # A row that no text uses holds the table's largest value, which is part of its range.
            model.get_input_embeddings().weight[VOCABULARY - 1, 0] = 3.0
    train_used_rows(used, split.input_ids)
    first_token_in_last_layer(used)
    assert table_range(used.get_input_embeddings())[1] == 3.0
    assert table_range(used.get_input_embeddings()) == table_range(whole.get_input_embeddings())
    ids = torch.arange(30).reshape(3, 10)
    whole_quantized, used_quantized = FakeQuantized(whole, config), FakeQuantized(used, config)
    with whole_quantized, used_quantized:
        tables = [model.get_input_embeddings() for model in (whole, used)]
        assert torch.equal(tables[0](ids), tables[1](ids))
    for name, model in (("whole", whole), ("used", used)):
        first_token_in_last_layer(model)
        trained(tmp_path / name, split, config, model=model.train(), weight_decay=0.0, save_strategy="no")
    torch.testing.assert_close(used.state_dict(), whole.state_dict(), atol=1e-4, rtol=1e-3)
    assert "forward" in vars(used.base_model.encoder.layer[-1])


def test_only_the_largest_table_has_4_bits():
    model = classifier(num_layers=1)
    words, positions = model.bert.embeddings.word_embeddings, model.bert.embeddings.position_embeddings
    ids = torch.arange(POSITIONS)
    with FakeQuantized(model, QuantizationAwareConfig(embedding_bits=4)):
        whole = read_back_4_bits(words.weight.detach())
        low, high = whole.min().clamp(max=0), whole.max().clamp(min=0)
        assert all(map(torch.equal, table_range(words, range_of=range_of_4_bits), (low, high)))
        assert torch.equal(words(ids), read_back_8_bits(whole[ids], low, high))
        assert torch.equal(positions(ids), read_back_8_bits(positions.weight, *table_range(positions)))
    with FakeQuantized(model, QuantizationAwareConfig(embedding_bits=None)):
        assert torch.equal(words(ids), words.weight[ids])


def test_activations_can_be_left_unquantized():
    layer = nn.Linear(16, 8)
    x = torch.from_numpy(numbers(5, 16))
    with FakeQuantized(nn.Sequential(layer), QuantizationAwareConfig(activations="none")):
        steps, scale = symmetric_steps(layer.weight)
        torch.testing.assert_close(layer(x), x @ (steps * scale).T + layer.bias)


# ---- Rejected and questionable configurations -----------------------------------------------------------


def test_more_epochs_than_the_training_has_are_rejected_at_its_start(tmp_path, split):
    assert first_step(2, 30, 10) == 10
    assert first_step(0.01, 30, 10) == 29
    with pytest.raises(InputError, match=r"num_epochs is 4, .* 3 epochs; give at most"):
        trained(tmp_path, split, QuantizationAwareConfig(num_epochs=4))


CONDITIONAL = {
    "alpha": {"type": "choice", "values": [0.0, 1.0]},
    "num_train_epochs": {"type": "int", "low": 9, "high": 12, "when": {"alpha": 1.0}},
}


@pytest.mark.parametrize(
    ("space", "own", "fault"),
    [
        ({}, 8, "search.space.num_train_epochs may be 5"),
        (
            {"num_train_epochs": {"type": "choice", "values": [8, 3]}},
            8,
            "search.space.num_train_epochs may be 3",
        ),
        ({"num_train_epochs": 4}, 8, "search.space.num_train_epochs may be 4"),
        (CONDITIONAL, 3, "training.num_train_epochs may be 3"),
        ({"num_train_epochs": {"type": "int", "low": 7, "high": 12}}, 3, None),
    ],
)
def test_more_epochs_than_a_trial_may_have_are_rejected_before_any_trial(space, own, fault):
    config = TrainingConfig.model_validate({"num_train_epochs": own, "quantization_aware": {"num_epochs": 6}})
    faults = space_faults(SearchConfig.model_validate({"space": space}), config)
    given = "training.quantization_aware.num_epochs: 6 given"
    expected = f"{given}, but {fault}; give at most that many, or a share below 1"
    assert faults == ([] if fault is None else [expected])


@pytest.mark.parametrize(
    "wrong",
    [{"num_epochs": 0}, {"weights": "per_row"}, {"weight_bits": 4}, {"embedding_bits": 2}, {"bits": 8}],
)
def test_unsupported_values_are_rejected(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        QuantizationAwareConfig.model_validate(wrong)


@pytest.mark.parametrize(
    ("given", "saturates", "warned"),
    [({}, True, True), ({"weight_bits": 7}, True, False), ({}, False, False), (None, True, False)],
)
def test_a_job_warns_where_its_variants_will_have_other_bits(monkeypatch, caplog, given, saturates, warned):
    monkeypatch.setattr("distiltune.export.variants.dynamic.int8_products_saturate", lambda: saturates)
    check_models(JobConfig.model_validate({"training": {"quantization_aware": given}}))
    messages = [each.getMessage() for each in caplog.records]
    assert len(messages) == warned
    assert not warned or messages[0].startswith(
        "training.quantization_aware.weight_bits: 8, but this is an x86"
    )


def test_it_is_off_by_default(tmp_path):
    assert callbacks_of(TrainingConfig()) == []
    asked = TrainingConfig.model_validate({"quantization_aware": {}})
    (callback,) = callbacks_of(asked)
    assert type(callback) is QuantizationAwareTraining
    assert arguments_from_config(asked, str(tmp_path)).num_train_epochs == asked.num_train_epochs
