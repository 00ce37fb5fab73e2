"""The tokens of a forward pass: limited by memory or by a given number, and batches split accordingly."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from convolution_students import convolution, static
from models import tiny_classifier
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, ModernBertConfig

from distiltune.training.checkpoints.load import load_model
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.models import passes
from distiltune.training.models.attention_mask import PADDED
from distiltune.training.models.passes import (
    PassLimit,
    PassShape,
    bytes_of_passes,
    inference_limit,
    length_batches,
    parts_of,
    run_in_parts,
    step_in_parts,
    tokens_of_passes,
    training_limit,
)

BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
# 4 · (100 + 3 L) bytes for each token.
SHAPE = PassShape(width=10, inner=10, num_states=8, num_maps=1, num_held=1, num_masks=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tiny_classifier(tmp_path_factory.mktemp("model"), num_layers=1, hidden_size=16))


def sizes(**more):
    return SimpleNamespace(**{**BASE, **more})


# ---- Memory ---------------------------------------------------------------------------------------------


def test_scores_count_for_each_head_unless_the_kernel_keeps_none():
    plain = PassShape.of(sizes(), is_trained=False)
    fused = PassShape.of(sizes(_attn_implementation="sdpa"), is_trained=False)
    assert plain.token_bytes(512) == 4 * (8 * 768 + 2 * 3072 + 2 * 12 * 512 + 2 * 512)
    assert fused.token_bytes(512) == 4 * (8 * 768 + 2 * 3072 + 3 * 512)
    assert plain.text_bytes(512) == 512 * plain.token_bytes(512)


def test_a_backward_pass_holds_the_states_of_all_layers():
    trained = PassShape.of(sizes(), is_trained=True)
    assert trained.token_bytes(64) == 4 * (12 * (20 * 768 + 2 * 3072 + 4 * 12 * 64) + 2 * 64)


@pytest.mark.parametrize(
    ("config", "num_maps"),
    [
        ({"attention_probs_dropout_prob": 0.1}, 48),
        ({"attention_dropout": 0.1}, 48),
        ({"attention_probs_dropout_prob": 0.0}, 1),
        ({}, 1),
    ],
)
def test_dropout_of_attention_needs_scores_on_a_cpu_in_training(config, num_maps):
    config = sizes(_attn_implementation="sdpa", **config)
    assert PassShape.of(config, is_trained=True).num_maps == num_maps
    assert PassShape.of(config, is_trained=True, fuses_dropout=True).num_maps == 1
    assert PassShape.of(config, is_trained=False).num_maps == 1
    assert PassShape.of(sizes(**vars(config)), is_trained=False, attention="eager").num_maps == 24


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SimpleNamespace(hidden_size=768, hidden_dim=3072, num_attention_heads=12), (768, 3072, 48, 1)),
        (SimpleNamespace(hidden_size=64), (64, 256, 0, 1)),
        (
            ModernBertConfig(
                hidden_size=48, intermediate_size=96, num_attention_heads=3, num_hidden_layers=2
            ),
            (48, 96, 12, 2),
        ),
    ],
)
def test_each_family_names_its_sizes_in_its_own_way(config, expected):
    shape = PassShape.of(config, is_trained=True)
    assert (shape.width, shape.inner, shape.num_maps, shape.num_held) == expected


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (convolution, {"num_filters": 40}),
        (convolution, {"num_filters": 40, "window_sizes": [1, 2, 3], "pooling": "max"}),
        (convolution, {"hidden_size": 24, "num_blocks": 2, "block_size": 32}),
        (static, {"hidden_size": 32}),
        (static, {"hidden_size": 32, "hashed_bigrams": 20, "pooling": "mean"}),
    ],
    ids=["filters", "window sizes", "blocks", "static", "pairs"],
)
def test_the_memory_of_models_without_layers_is_that_of_their_columns(make, shape):
    model = make(**shape).train()
    ids, held = torch.randint(1, 60, (8, 64)), {}

    def keep(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda each: each):
        model(ids, torch.ones_like(ids))
    kept = sum(num for place, num in held.items() if place not in weights)
    estimated = PassShape.of(model.config, is_trained=True).token_bytes(64) * ids.numel()
    assert 0.1 * estimated < kept < estimated
    assert PassShape.of(model.config, is_trained=False).token_bytes(64) * ids.numel() < estimated


def test_memory_of_a_cpu_is_shared_by_threads_and_half_of_it_is_used(monkeypatch):
    monkeypatch.setattr(passes, "free_memory", lambda: 1000)
    monkeypatch.setattr(passes, "num_usable_cores", lambda: 4)
    cpu = torch.device("cpu")
    assert [bytes_of_passes(cpu, num) for num in (1, 2, 4, 9)] == [125, 250, 500, 500]


@pytest.mark.parametrize(("share", "expected"), [(1.0, 300), (0.25, 250)])
def test_memory_of_a_gpu_is_what_is_free_and_the_process_may_use(share, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (600, 2000))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _: share)
    assert bytes_of_passes(torch.device("cuda")) == expected


# ---- The limit ------------------------------------------------------------------------------------------


def test_a_given_limit_is_kept_and_one_text_always_fits():
    limit = PassLimit(SHAPE, num_tokens=64)
    assert [limit.tokens(each) for each in (8, 64, 100)] == [64, 64, 100]
    assert [limit.rows(each) for each in (8, 30, 64, 100)] == [8, 2, 1, 1]


def test_memory_limits_the_tokens_of_longer_texts_more():
    limit = PassLimit(SHAPE, num_bytes=4 * 400 * 150)
    assert limit.tokens(100) == 150, "a token of a text of 100 has 400 numbers"
    assert limit.tokens(200) == 200, "one text"
    assert limit.tokens(10) == 400 * 150 // 130
    assert PassLimit(SHAPE, num_bytes=10**9, most=77).tokens(10) == 77
    assert PassLimit(SHAPE).tokens(10) == 10
    assert PassLimit(None).tokens(10) == 2**19


def test_in_training_memory_is_left_for_the_optimizer_and_the_limit_is_a_power_of_two(model, monkeypatch):
    num = model.num_parameters()
    for free, expected in ((2**20 + 12 * num, 2**20), (2**21 + 12 * num - 1, 2**20), (12 * num, 0), (1, 0)):
        monkeypatch.setattr(passes, "bytes_of_passes", lambda _, free=free: free)
        assert training_limit(model).num_bytes == expected
        assert training_limit(model).tokens(16) >= 16
        assert inference_limit(model).num_bytes == free
    assert training_limit(model).shape == PassShape.of(model.config, is_trained=True)


def test_dropout_that_is_switched_off_needs_no_scores(model):
    assert training_limit(model).shape.num_maps == 8  # four for each of two heads
    model = BertForSequenceClassification(model.config)
    for each in model.modules():
        if isinstance(each, nn.Dropout):
            each.p = 0.0
    assert training_limit(model).shape.num_maps == 1


def test_without_gradients_a_pass_on_a_cpu_has_16384_tokens_at_most(model, monkeypatch):
    monkeypatch.setattr(passes, "bytes_of_passes", lambda _: 2**50)
    assert inference_limit(model).tokens(16) == 16_384
    assert inference_limit(model, most=99).tokens(16) == 99
    assert training_limit(model).tokens(16) == 2**19


def test_a_limit_of_a_block_applies_to_every_model_in_it(model):
    with tokens_of_passes(48):
        assert training_limit(model).tokens(8) == inference_limit(model).tokens(8) == 48
        assert training_limit(model, 24).tokens(8) == 24, "a number that is given comes first"
        with tokens_of_passes(None):
            assert training_limit(model).num_tokens is None
    assert training_limit(model).num_tokens is inference_limit(model).num_tokens is None


def test_a_model_of_another_library_has_a_limit_only_if_it_is_given():
    assert (
        training_limit(nn.Linear(2, 2)).tokens(100) == inference_limit(nn.Linear(2, 2)).tokens(100) == 2**19
    )
    assert training_limit(nn.Linear(2, 2), 150).rows(100) == 1


def test_batches_are_limited_by_their_longest_text():
    lengths = np.array([2, 9, 4, 4, 1, 9, 2])
    found = list(length_batches(lengths, 3, lambda longest: 18 if longest > 4 else 8))
    assert [rows.tolist() for rows in found] == [[1, 5], [2, 3], [0, 6, 4]]


# ---- Batches --------------------------------------------------------------------------------------------


def a_batch(lengths=(3, 9, 5, 9, 2, 7), *, of_tokens=False, padded=None, **more):
    random = np.random.default_rng(0)
    rows = [
        {
            "input_ids": random.integers(1, 40, length),
            "labels": random.integers(0, 4, length) if of_tokens else int(random.integers(0, 4)),
            "teacher_logits": random.standard_normal((length, 4) if of_tokens else 9),
        }
        for length in lengths
    ]
    batch = DistillationCollator(0)(rows)
    return batch | ({} if padded is None else {PADDED: padded}) | more, rows


def test_a_batch_within_the_limit_stays_as_it_is():
    batch, _ = a_batch()
    [part] = parts_of(batch, PassLimit(SHAPE, 6 * 9))
    assert part.batch is batch and part.rows is None
    other = {"pixel_values": torch.zeros(3, 4)}
    assert parts_of(other, PassLimit(SHAPE, 1))[0].batch is other


@pytest.mark.parametrize("of_tokens", [False, True])
@pytest.mark.parametrize("num_tokens", [9, 18, 20, 53])
def test_parts_are_the_batches_of_their_rows_within_the_limit(num_tokens, of_tokens):
    batch, rows = a_batch(of_tokens=of_tokens)
    parts = parts_of(batch, PassLimit(SHAPE, num_tokens), of_tokens=of_tokens)
    assert len(parts) > 1
    assert sorted(int(row) for part in parts for row in part.rows) == list(range(6))
    for part in parts:
        assert part.batch["input_ids"].numel() <= num_tokens
        alone = DistillationCollator(0)([rows[row] for row in part.rows])
        assert part.batch.keys() == alone.keys()
        assert all(torch.equal(value, alone[name]) for name, value in part.batch.items())


def test_logits_that_have_as_many_columns_as_texts_have_tokens_are_not_cut():
    batch, _ = a_batch()
    assert batch["teacher_logits"].shape[1] == batch["input_ids"].shape[1] == 9
    parts = parts_of(batch, PassLimit(SHAPE, 9))
    assert {part.batch["teacher_logits"].shape[1] for part in parts} == {9}
    assert {part.batch["input_ids"].shape[1] for part in parts} == {9, 7, 5, 3}


def test_padding_is_recorded_for_each_part():
    parts = parts_of(a_batch(padded=True)[0], PassLimit(SHAPE, 20))
    assert [part.batch[PADDED] for part in parts] == [
        bool((part.batch["attention_mask"] == 0).any()) for part in parts
    ]
    assert {part.batch[PADDED] for part in parts} == {True, False}


def test_parts_are_padded_to_multiples_and_other_entries_stay():
    batch, _ = a_batch(repeated=True)
    parts = parts_of(batch, PassLimit(SHAPE, 16), multiple=4)
    assert {part.batch["input_ids"].shape[1] for part in parts} == {9, 8, 4}, "no wider than the batch"
    assert all(part.batch["repeated"] is True for part in parts)


def test_texts_that_are_padded_on_the_left_or_have_no_mask_keep_their_columns():
    batch, _ = a_batch()
    left = {
        name: each.flip(1) if name in ("input_ids", "attention_mask") else each
        for name, each in batch.items()
    }
    without = {name: each for name, each in batch.items() if name != "attention_mask"}
    for given in (left, without):
        parts = parts_of(given, PassLimit(SHAPE, 18))
        assert {part.batch["input_ids"].shape for part in parts} == {(2, 9)}
        rows = torch.cat([part.rows for part in parts])
        assert torch.equal(torch.cat([part.batch["input_ids"] for part in parts]), given["input_ids"][rows])


@pytest.mark.parametrize("of_tokens", [False, True])
def test_logits_of_parts_are_those_of_the_batch_in_its_order(of_tokens):
    batch, _ = a_batch()

    def run(part):
        kept = part["attention_mask"] * part["input_ids"]
        states = torch.stack([kept, 2 * kept], dim=-1).float()  # [B, L, 2]
        return states if of_tokens else states.sum(dim=1)

    parts = parts_of(batch, PassLimit(SHAPE, 18))
    assert torch.equal(run_in_parts(parts, run, 9), run(batch))
    [whole] = parts_of(batch, PassLimit(SHAPE, 99))
    assert torch.equal(run_in_parts([whole], run, 9), run(batch))


def test_processes_exchange_gradients_only_at_the_last_part():
    entered = []

    class NoSync:
        def __enter__(self):
            entered.append(True)

        def __exit__(self, *_):
            entered.append(False)

    accelerator = SimpleNamespace(no_sync=lambda _: NoSync())
    parts = parts_of(a_batch()[0], PassLimit(SHAPE, 18))
    at = []

    def step(part):
        at.append(sum(1 if each else -1 for each in entered))
        return torch.tensor(float(len(part["input_ids"])))

    assert step_in_parts(parts, step, accelerator, None) == 6.0
    assert at == [1] * (len(parts) - 1) + [0]


def test_a_small_model_has_the_same_logits_in_parts():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
    )
    model, (batch, _) = BertForSequenceClassification(config).eval(), a_batch()
    features = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        whole = model(**features).logits
        found = run_in_parts(
            parts_of(features, PassLimit(SHAPE, 14)), lambda part: model(**part).logits, width=9
        )
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=1e-5)
