"""Classifiers without attention: padding and other texts of a batch change nothing; checkpoints, training, pruning."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import tiny_data
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from distiltune.errors import InputError, ModelError
from distiltune.search.trial.gpu import estimated_bytes, shape_of
from distiltune.training.checkpoints.load import load_classifier, save_checkpoint
from distiltune.training.compression.config import QuantizationAwareConfig, pruning_config
from distiltune.training.compression.pruning.callback import PruningCallback
from distiltune.training.compression.pruning.state import encoder_matrices
from distiltune.training.compression.quantization_aware import FakeQuantized
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.tokenized import TokenizedDataset, tokenize_split
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models.attention_free import TextNorm
from distiltune.training.models.convolution import (
    ConvolutionConfig,
    ConvolutionForSequenceClassification,
    WindowProduct,
    windows,
)
from distiltune.training.models.static import StaticConfig, StaticForSequenceClassification
from distiltune.training.models.trainable_embedding_rows import train_used_rows
from distiltune.training.teacher.from_scratch import train_tokenizer

PAD, NUM_LABELS = 1, 3
IDS = torch.tensor([[2, 9, 8, 7, 3], [2, 6, 3, PAD, PAD], [2, 3, PAD, PAD, PAD]])
MASK = (IDS != PAD).long()
SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 8, "classifier_size": 12, "num_labels": NUM_LABELS, "pad_token_id": PAD,
}  # fmt: skip
CONVOLUTIONS = {
    "one width": {"num_filters": 10},
    "maximum": {"num_filters": 10, "pooling": "max"},
    "widths": {"num_filters": 5, "window_sizes": [1, 2, 4]},
    "blocks": {"num_filters": 6, "num_blocks": 2, "block_size": 7, "block_window_size": 2},
}
STATIC = {
    "mean": {"pooling": "mean"},
    "maximum and mean": {},
    "pairs": {"hashed_bigrams": 13},
    "mean of pairs": {"hashed_bigrams": 7, "pooling": "mean"},
}
CONFIGS = {
    **{name: ConvolutionConfig(**SIZES, **own) for name, own in CONVOLUTIONS.items()},
    **{f"static, {name}": StaticConfig(**SIZES, **own) for name, own in STATIC.items()},
}


def made(config: Any) -> Any:
    """A model of these shapes in which every parameter and statistic affects the logits."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2.0)
        for name, parameter in model.named_parameters():
            if "word_embeddings" in name or "classifier" in name:
                parameter.normal_(std=0.5)
        model.get_input_embeddings().weight[PAD] = 0
    return model


@pytest.fixture(params=CONFIGS.values(), ids=list(CONFIGS))
def model(request: pytest.FixtureRequest) -> Any:
    return made(request.param)


def logits(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits


def test_padding_and_the_other_texts_of_a_batch_change_nothing(model):
    together = logits(model, IDS, MASK)
    for row, (ids, mask) in enumerate(zip(IDS, MASK, strict=True)):
        alone = logits(model, ids[mask.bool()][None])
        assert torch.allclose(alone[0], together[row], atol=1e-6)
    longer = torch.nn.functional.pad(IDS, (0, 4), value=PAD)
    assert torch.allclose(logits(model, longer, (longer != PAD).long()), together, atol=1e-6)
    assert together.std(dim=0).min() > 0.01, "the texts differ"


def test_a_window_reads_its_neighbours_and_zeros_beyond_the_text():
    x = torch.arange(1.0, 5.0).reshape(1, 4, 1)
    assert windows(x, 3)[0].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 0]]
    assert windows(x, 2)[0].tolist() == [[1, 2], [2, 3], [3, 4], [4, 0]]
    assert windows(x, 1) is x
    product = WindowProduct(2, 5, 3)
    given = torch.randn(2, 6, 2)
    kernel = product.linear.weight.reshape(5, 3, 2).transpose(1, 2)
    expected = nn.functional.conv1d(given.transpose(1, 2), kernel, product.linear.bias, padding=1)
    assert torch.allclose(product(given), expected.transpose(1, 2), atol=1e-6)


def test_a_static_model_weighs_its_pieces():
    model = made(CONFIGS["static, mean"])
    rows = model.get_input_embeddings().weight.detach().numpy().astype(float)
    pooled = model.encoder(IDS, MASK).detach().numpy()
    for row, (ids, mask) in enumerate(zip(IDS.numpy(), MASK.numpy(), strict=True)):
        own = rows[ids[mask == 1]]
        expected = np.average(own[:, :-1], axis=0, weights=np.exp(own[:, -1]))
        np.testing.assert_allclose(pooled[row], expected, atol=1e-6)
    assert torch.allclose(logits(model, IDS.flip(1), MASK.flip(1)), logits(model, IDS, MASK), atol=1e-6)


def test_pairs_of_neighbours_have_rows_by_their_hash():
    model = made(CONFIGS["static, mean of pairs"])
    rows = model.get_input_embeddings().weight.detach().numpy().astype(float)
    assert len(rows) == SIZES["vocab_size"] + 7
    pooled = model.encoder(IDS, MASK).detach().numpy()
    for row, (ids, mask) in enumerate(zip(IDS.tolist(), MASK.sum(1).tolist(), strict=True)):
        own = ids[:mask]
        pairs = [60 + (a * 2_654_435_761 + b) % 7 for a, b in pairwise(own)]
        read = rows[own + pairs]
        expected = np.average(read[:, :-1], axis=0, weights=np.exp(read[:, -1]))
        np.testing.assert_allclose(pooled[row], expected, atol=1e-6)
    backward = torch.tensor([[2, 7, 8, 9, 3]])
    assert not torch.allclose(logits(model, backward), logits(model, IDS[:1]), atol=1e-3), "order counts"
    one = torch.tensor([[9]])
    assert torch.equal(model.encoder.rows_of(one), one)


def test_rows_of_pairs_begin_small_and_different():
    torch.manual_seed(0)
    table = StaticForSequenceClassification(StaticConfig(**SIZES, hashed_bigrams=9)).get_input_embeddings()
    pairs = table.weight[60:]
    assert len(pairs.unique(dim=0)) == 9
    assert 0 < pairs.std() < 0.1 * table.weight[2:60].std()


def test_a_new_model_predicts_no_label(model):
    torch.manual_seed(0)
    new = type(model)(model.config).eval()
    assert logits(new, IDS, MASK).abs().max() < 0.5
    assert not new.get_input_embeddings().weight[PAD].any()


def test_a_checkpoint_holds_weights_and_statistics(model, tmp_path):
    tokenizer = train_tokenizer([text for text, _ in tiny_data()], vocab_size=40)
    save_checkpoint(model, tokenizer, tmp_path)
    again, _ = load_classifier(tmp_path)
    assert type(again) is type(model)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert torch.equal(logits(again, IDS, MASK), logits(model, IDS, MASK))
    assert isinstance(AutoConfig.from_pretrained(tmp_path), type(model.config))
    names = [name for name, _ in again.named_children()]
    assert names == ["encoder", "norm", "pooled_dropout", "dense", "dropout", "classifier"]


@pytest.mark.parametrize(("key", "value"), [("pooling", "median"), ("dropout", 2.0), ("hidden_size", 0)])
def test_a_damaged_configuration_is_one_clear_error(tmp_path, key, value):
    model = made(CONFIGS["one width"])
    save_checkpoint(model, train_tokenizer([text for text, _ in tiny_data()], vocab_size=40), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, key: value}))
    with pytest.raises(ModelError, match=rf"{key}.*{value}"):
        load_classifier(tmp_path)


def test_a_batch_of_one_text_is_trained_on():
    norm = TextNorm(4)
    with torch.no_grad():
        norm(torch.randn(64, 4) + 3)
        norm.running_mean += 3
    one = torch.randn(1, 4, requires_grad=True)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    trained = norm(one)
    trained.sum().backward()
    assert one.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert torch.equal(trained, norm.eval()(one))


def split_of(texts, tokenizer):
    return tokenize_split(texts, np.arange(len(texts)) % NUM_LABELS, tokenizer, 16)


def trained(model, split, folder, *, callbacks=(), resume=None, **more):
    args = DistillationTrainingArguments(
        output_dir=str(folder), **{"num_train_epochs": 2, "learning_rate": 1e-2, **more}, alpha=1.0,
        per_device_train_batch_size=16, use_cpu=True, bf16=False, report_to="none", seed=5, disable_tqdm=True,
    )  # fmt: skip
    trainer = DistillationTrainer(
        model=model, args=args, train_dataset=TokenizedDataset(split),
        data_collator=DistillationCollator(PAD), callbacks=list(callbacks),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture(scope="module")
def split():
    # 33 texts, so that the last batch has one.
    texts = [text for text, _ in tiny_data(num_labels=NUM_LABELS, per_label=11)]
    return split_of(texts, train_tokenizer(texts, vocab_size=40))


@pytest.mark.parametrize("name", ["blocks", "static, mean", "static, pairs"])
def test_used_rows_alone_are_trained_as_in_the_whole_table(split, tmp_path, name):
    whole, used = (made(CONFIGS[name]) for _ in range(2))
    for each in (whole, used):
        each.dropout.p = 0.0
    train_used_rows(used, split.input_ids)
    assert len(used.get_input_embeddings().weight) < len(whole.get_input_embeddings().weight)
    for each, folder in ((whole, "whole"), (used, "used")):
        trained(each, split, tmp_path / folder, weight_decay=0.0, dropout=0.0)
    for key, value in whole.state_dict().items():
        assert torch.allclose(value, used.state_dict()[key], atol=1e-5), key
    assert not used.state_dict()["encoder.word_embeddings.weight"][PAD].any()


def test_frozen_embeddings_stay(split, tmp_path):
    model = made(CONFIGS["one width"])
    before = model.get_input_embeddings().weight.clone()
    trained(model, split, tmp_path, freeze_embeddings=True)
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_magnitude_pruning_prunes_filters_and_blocks(split, tmp_path):
    model = made(CONFIGS["blocks"])
    names = list(encoder_matrices(model))
    assert names == [
        *(f"encoder.blocks.{n}.{part}.weight" for n in (0, 1) for part in ("first.linear", "second")),
        "encoder.filters.0.linear.weight",
    ]
    callback = PruningCallback(pruning_config(method="magnitude", sparsity=0.5, end=0.5, update_every=1))
    trained(model, split, tmp_path, callbacks=[callback])
    zeros = [float((model.get_parameter(name) == 0).float().mean()) for name in names]
    assert zeros == pytest.approx([0.5] * len(names), abs=0.05)
    assert not (model.dense.weight == 0).any()


def test_a_model_without_matrices_cannot_be_pruned():
    with pytest.raises(ModelError, match=r"training\.pruning.*'distiltune-static'"):
        encoder_matrices(made(CONFIGS["static, mean"]))


@pytest.mark.parametrize("argument", [{"hidden_loss_weight": 0.5}, {"losses": {"cosine": {"weight": 1.0}}}])
def test_a_loss_of_hidden_states_is_refused(split, tmp_path, argument):
    args = DistillationTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", **argument
    )
    student, teacher = made(CONFIGS["one width"]), made(CONFIGS["one width"])
    with pytest.raises(InputError, match=r"(hidden_loss_weight|losses\.cosine\.weight) needs hidden states"):
        DistillationTrainer(student, args, teacher, train_dataset=TokenizedDataset(split))


def test_fake_quantization_reaches_every_product_and_the_table(model):
    plain = logits(model, IDS, MASK)
    with FakeQuantized(model, QuantizationAwareConfig()):
        quantized = logits(model, IDS, MASK)
    assert 0 < float((quantized - plain).abs().max()) < 0.3 * float(plain.std())
    assert torch.equal(logits(model, IDS, MASK), plain)


def test_memory_counts_the_columns_of_a_token():
    small, large = (made(ConvolutionConfig(**SIZES, num_filters=n)) for n in (10, 100))
    shapes = [shape_of(each, batch_size=16, length=12) for each in (small, large)]
    assert [each.num_layers for each in shapes] == [0, 0]
    assert shapes[1].columns - shapes[0].columns == 3 * 90
    parameters = large.num_parameters() - small.num_parameters()
    assert estimated_bytes(shapes[1]) - estimated_bytes(shapes[0]) == 18 * parameters + 4 * 16 * 12 * 270


def test_labels_give_the_loss_of_transformers(model):
    model.config.problem_type = "single_label_classification"
    labels = torch.tensor([0, 2, 1])
    with torch.no_grad():
        found = model(input_ids=IDS, attention_mask=MASK, labels=labels)
    expected = nn.functional.cross_entropy(found.logits, labels)
    assert float(found.loss) == pytest.approx(float(expected))


def test_the_classes_are_those_that_transformers_finds(tmp_path: Path):
    found = {type(AutoModelForSequenceClassification.from_config(config)) for config in CONFIGS.values()}
    assert found == {ConvolutionForSequenceClassification, StaticForSequenceClassification}
