"""A model's logits: batches that are kept between evaluations, and batches as large as a GPU's memory allows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_gpus import needs_gpu
from models import tiny_classifier
from searches import split

from distiltune.errors import InputError
from distiltune.training.checkpoints.load import load_model
from distiltune.training.models import inference, passes
from distiltune.training.models.inference import (
    KeptBatches,
    batch_tokens,
    compute_logits,
    logits_of_batches,
)
from distiltune.training.models.passes import length_batches, tokens_of_passes

TEXTS = split(37, 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tiny_classifier(tmp_path_factory.mktemp("model"), num_layers=1, hidden_size=16)).train()


@torch.no_grad()
def expected_logits(model) -> np.ndarray:
    order = np.argsort(TEXTS.lengths, kind="stable")
    batches = [order[start : start + 8] for start in range(0, len(order), 8)]
    logits = np.empty((len(TEXTS), 4), dtype=np.float32)
    for rows, _, found in logits_of_batches(model, TEXTS, batches, pad_token_id=0):
        logits[rows] = found.float().numpy()
    return logits


@pytest.mark.parametrize("kept_bytes", [2**20, 0])
def test_an_evaluation_collates_once_and_computes_the_same_bits(model, kept_bytes, monkeypatch):
    monkeypatch.setattr(inference, "_KEPT_BYTES", kept_bytes)
    calls = []
    collated = inference._collated
    monkeypatch.setattr(inference, "_collated", lambda *given: calls.append(1) or collated(*given))
    kept, expected = KeptBatches(TEXTS, 8, 0), expected_logits(model)
    calls.clear()
    for _ in range(3):
        assert np.array_equal(kept.logits(model), expected)
    assert len(calls) == 5 * (1 if kept_bytes else 3)
    assert model.training


def test_an_evaluation_is_exact_while_the_training_around_it_uses_tf32(model, monkeypatch):
    seen, forward = [], model.forward
    monkeypatch.setattr(
        model,
        "forward",
        lambda *args, **given: seen.append(torch.get_float32_matmul_precision()) or forward(*args, **given),
        raising=False,
    )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        KeptBatches(TEXTS, 8, 0).logits(model)
        assert set(seen) == {"highest"} and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_model_that_has_learnt_gets_other_logits_from_the_same_batches(model):
    kept = KeptBatches(TEXTS, 8, 0)
    before = kept.logits(model)
    with torch.no_grad():
        model.classifier.bias += 1
    assert np.allclose(kept.logits(model), before + 1, atol=1e-5)


class Gpu:
    """Make a model on the CPU look like one on a GPU, on which batches of too many tokens do not fit."""

    def __init__(self, monkeypatch, model, fitting: int) -> None:
        self.tokens: list[int] = []
        self.emptied = 0
        forward = model.forward

        def limited(input_ids, **given):
            self.tokens.append(input_ids.numel())
            if input_ids.numel() > fitting:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return forward(input_ids=input_ids, **given)

        def empty():
            self.emptied += 1

        monkeypatch.setattr(model, "forward", limited, raising=False)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**40, 2**40))
        monkeypatch.setattr(torch.cuda, "empty_cache", empty)
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)
        monkeypatch.setattr(passes, "MOST_TOKENS", 256)
        kind = type(model)
        device = SimpleNamespace(type="cuda")
        monkeypatch.setattr(kind, "device", property(lambda _: device))
        collate = inference._collated
        monkeypatch.setattr(
            inference, "_collated", lambda texts, rows, pad, _: collate(texts, rows, pad, torch.device("cpu"))
        )


def test_what_does_not_fit_is_run_in_smaller_batches(model, monkeypatch):
    expected = compute_logits(model, TEXTS, pad_token_id=0, num_threads=1, use_gpu=False)
    monkeypatch.setattr(model, "to", lambda _: model, raising=False)
    gpu = Gpu(monkeypatch, model, fitting=100)
    found = compute_logits(model, TEXTS, pad_token_id=0, num_threads=1, use_gpu=False)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert gpu.emptied == 2 and max(gpu.tokens) <= 256
    assert all(each <= 64 for each in gpu.tokens[2:]), "256, 128, then 64 at a time"


def test_a_text_that_does_not_fit_alone_is_an_error(model, monkeypatch):
    monkeypatch.setattr(model, "to", lambda _: model, raising=False)
    Gpu(monkeypatch, model, fitting=0)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        compute_logits(model, TEXTS, pad_token_id=0, num_threads=1, use_gpu=False)


@pytest.mark.parametrize("num_tokens", [8, 20, 64])
def test_batches_of_labelling_and_evaluation_have_the_tokens_that_are_given(num_tokens, model, monkeypatch):
    expected, seen, forward = expected_logits(model), [], model.forward

    def counted(input_ids, **given):
        seen.append(input_ids.shape)
        return forward(input_ids=input_ids, **given)

    monkeypatch.setattr(model, "forward", counted, raising=False)
    kept = KeptBatches(TEXTS, 8, 0, num_tokens)
    np.testing.assert_allclose(kept.logits(model), expected, atol=1e-6)
    with tokens_of_passes(num_tokens):
        assert batch_tokens(model, 8) == num_tokens
        found = compute_logits(model, TEXTS, pad_token_id=0, num_threads=1, use_gpu=False)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert all(rows == 1 or rows * width <= num_tokens for rows, width in seen)
    assert sum(rows for rows, _ in seen) == 2 * len(TEXTS)


def test_the_least_memory_runs_one_text_at_a_time(model, monkeypatch):
    expected = expected_logits(model)
    monkeypatch.setattr(passes, "bytes_of_passes", lambda _: 0)
    np.testing.assert_allclose(KeptBatches(TEXTS, 8, 0).logits(model), expected, atol=1e-6)
    found = compute_logits(model, TEXTS, pad_token_id=0, num_threads=1, use_gpu=False)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("start", [0, 5, 36, 37])
def test_batches_skip_the_longest_that_are_done(start):
    found = list(length_batches(TEXTS.lengths, 4, 20, start))
    assert all(len(rows) <= 4 and len(rows) * TEXTS.lengths[rows].max() <= 20 for rows in found)
    order = np.argsort(-TEXTS.lengths, kind="stable")
    assert np.concatenate([*found, np.zeros(0, dtype=int)]).tolist() == order[start:].tolist()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_precision_of_labelling_is_that_of_the_products(model, dtype):
    exact = compute_logits(model, TEXTS, pad_token_id=0, num_threads=1, use_gpu=False)
    found = compute_logits(model, TEXTS, pad_token_id=0, num_threads=1, use_gpu=False, dtype=dtype)
    assert np.array_equal(found, exact) == (dtype == "float32")
    np.testing.assert_allclose(found, exact, atol=0.05)


def test_a_cpu_has_no_tf32(model):
    with pytest.raises(InputError, match="logits_precision is tf32, but a CPU"):
        compute_logits(model, TEXTS, pad_token_id=0, num_threads=1, use_gpu=False, dtype="tf32")


# --- Copies between a GPU and the host ---------------------------------------------------------------------------


def test_logits_of_a_gpu_are_copied_while_the_next_batch_runs(monkeypatch):
    log: list[str] = []

    class OnGpu:
        device = torch.device("cuda")

        def __init__(self, number):
            self.number = number

        def float(self):
            return self

        def to(self, device, non_blocking):
            assert (device, non_blocking) == ("cpu", True)
            log.append(f"copy {self.number}")
            return torch.full((2, 3), self.number)

    class Event:
        def record(self):
            self.number = log[-1].split()[-1]

        def synchronize(self):
            log.append(f"wait for {self.number}")

    def batches():
        for number in range(3):
            log.append(f"run {number}")
            yield np.array([number]), OnGpu(number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    found = [(rows.tolist(), logits[0, 0].item()) for rows, logits in inference.copied_late(batches())]
    assert found == [([0], 0), ([1], 1), ([2], 2)]
    assert log == [
        *("run 0", "copy 0", "run 1", "copy 1", "wait for 0"),
        *("run 2", "copy 2", "wait for 1", "wait for 2"),
    ]


def test_on_a_cpu_nothing_is_copied_or_late():
    log, tensors = [], [torch.rand(2, 3) for _ in range(3)]

    def batches():
        for number, each in enumerate(tensors):
            log.append(number)
            yield np.array([number]), each

    for number, (_, found) in enumerate(inference.copied_late(batches())):
        assert found is tensors[number]
        assert log == list(range(number + 1))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_for_a_gpu_are_copied_from_pinned_memory(device, monkeypatch):
    calls = []

    class Batch:
        def __init__(self, is_pinned=False):
            self._is_pinned = is_pinned

        def pin_memory(self):
            return Batch(is_pinned=True)

        def to(self, device, non_blocking):
            calls.append((device.type, self._is_pinned, non_blocking))
            return self

    monkeypatch.setattr(inference, "DistillationCollator", lambda *_, **__: lambda _: {"input_ids": Batch()})
    inference._collated(TEXTS, np.arange(4), 0, torch.device(device))
    assert calls == [(device, device == "cuda", True)]


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_labels_as_the_cpu_does(model, monkeypatch):
    expected = compute_logits(model, TEXTS, pad_token_id=0, num_threads=1, use_gpu=False)
    monkeypatch.setattr(inference, "batch_tokens", lambda _, length: 3 * length)  # many batches
    found = compute_logits(model, TEXTS, pad_token_id=0, num_threads=1, use_gpu=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    model.to("cpu")
