"""How many trials share a GPU: the arithmetic, and steps that are timed on the CPU."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import pytest
from fake_gpus import needs_gpu

from distiltune.errors import RunFailedError
from distiltune.search.trial.gpu import Shape, estimated_bytes
from distiltune.search.trial.inputs import TrialSettings
from distiltune.search.trial.packing import (
    CONTEXT_BYTES,
    USABLE,
    GpuMemory,
    doublings,
    fastest,
    fraction_of,
    limit_of,
    num_by_cpus,
    num_by_memory,
    packing_of,
    pays,
    rate_together,
    settled,
)
from distiltune.storage.store import Store

GIB = 2**30
CONTEXT_GIB = CONTEXT_BYTES / GIB
BERT_BASE = Shape(110_000_000, 12, 768, 12, 64, 64, 151)
H200 = GpuMemory(peak=2 * GIB, free=139 * GIB, total=141 * GIB, estimated=GIB)


def gpu(peak_gib: float | None, free_gib: float, total_gib: float | None = None) -> GpuMemory:
    peak = None if peak_gib is None else int(peak_gib * GIB)
    return GpuMemory(peak, int(free_gib * GIB), int((total_gib or free_gib) * GIB), 3 * GIB)


def test_an_estimate_is_the_sum_of_weights_activations_and_cuda():
    activations = 12 * 64 * 64 * 768 * (34 + 5 * 12 * 64 / 768)
    ends = 6 * 64 * 64 * 768 + 12 * 64 * 151
    assert estimated_bytes(BERT_BASE) == 600 * 2**20 + int(18 * 110_000_000 + activations + ends)
    beside = replace(BERT_BASE, teacher_parameters=1000)
    assert estimated_bytes(beside) - estimated_bytes(BERT_BASE) == 6000


@pytest.mark.parametrize(
    ("peak", "free", "num"), [(2, 16, 7), (2, 8, 3), (14, 16, 1), (14.72, 16, 1), (0.7, 141, 185)]
)
def test_memory_that_is_free_and_not_all_of_it_is_divided(peak, free, num):
    assert num_by_memory(gpu(peak, free, 2 * free), 64) == num == int(USABLE * free / peak)


@pytest.mark.parametrize(
    ("memory", "named"),
    [
        (gpu(20, 16), ["20,480 MiB", "16,384 MiB", "training.batch_size"]),
        (gpu(15, 16), ["15,360 MiB", "training.max_length"]),
        (gpu(None, 16), ["64 texts", "16,384 MiB", "estimated: 3,072 MiB", "smaller student"]),
    ],
)
def test_a_trial_that_fits_no_gpu_is_refused(memory, named):
    with pytest.raises(RunFailedError) as raised:
        num_by_memory(memory, 64)
    assert all(each in str(raised.value) for each in named)


@pytest.mark.parametrize(
    ("nodes", "cpus", "num"),
    [
        ([{"CPU": 16, "GPU": 1}], 1, 16),
        ([{"CPU": 16, "GPU": 1}], 4, 4),
        ([{"CPU": 128, "GPU": 8}], 2, 8),
        ([{"CPU": 128, "GPU": 8}, {"CPU": 8, "GPU": 4}], 1, 2),  # the poorest node decides
        ([{"CPU": 64}, {"CPU": 8, "GPU": 2}], 1, 4),  # one without GPUs does not count
        ([{"CPU": 2, "GPU": 4}], 1, 1),  # at least one
        ([{"CPU": 3, "GPU": 1}], 0.1, 30),  # Ray counts in ten-thousandths
    ],
)
def test_each_trial_needs_its_cpus(nodes, cpus, num):
    assert num_by_cpus(nodes, cpus) == num


@pytest.mark.parametrize(
    ("memory", "cpus", "measured", "num"),
    [(60, 16, False, 8), (60, 16, True, 16), (3, 16, False, 3), (3, 2, True, 2), (500, 500, True, 64)],
)
def test_the_least_of_memory_and_cpus_limits_and_what_is_not_measured(memory, cpus, measured, num):
    assert limit_of(memory, cpus, measured=measured) == num


def test_not_a_hundredth_more_than_fits():
    for num in range(1, 100):
        assert int(1 / fraction_of(num) + 1e-4) == num, num


@pytest.mark.parametrize(
    ("requested", "peak", "gpus"),
    [(0.25, 2, 0.25), (0.1, 4, 0.3333), (0.5, 12, 1.0), (0.0, 1, 0.125), (0.0, 4, 0.3333)],
)
def test_a_fraction_is_raised_until_the_trials_fit(requested, peak, gpus, caplog):
    with caplog.at_level(logging.WARNING):
        found = settled(requested, [gpu(peak, 16)], 16, 64)
    assert found.gpus == gpus
    assert bool(caplog.records) == (requested not in (0.0, gpus))


@pytest.mark.parametrize("requested", [0.0, 0.25, 0.1])
def test_together_trials_take_no_more_memory_than_was_free(requested):
    """A process outside of Ray holds 40 of 80 GiB."""
    found = settled(requested, [gpu(9, 40, 80)], 16, 64)
    num = int(1 / found.gpus + 1e-4)
    assert num * 9 <= 40 * USABLE
    assert num * (found.memory_share * 80 + CONTEXT_GIB) == pytest.approx(USABLE * 40)
    assert found.memory_share * 80 + CONTEXT_GIB >= 9


def test_the_contexts_of_many_small_trials_fit_as_well():
    """32 trials of 1 GiB on an H100: their contexts alone take 19 GiB, which PyTorch's limit does not include."""
    found = packing_of(32, [gpu(1, 79, 80)])
    assert 32 * (found.memory_share * 80 + CONTEXT_GIB) <= 79
    assert found.memory_share * 80 + CONTEXT_GIB >= 1


def test_the_student_that_takes_most_decides():
    assert settled(0.0, [gpu(1, 16), gpu(6, 16)], 16, 64).gpus == 0.5
    with pytest.raises(RunFailedError, match="does not fit"):
        settled(0.25, [gpu(1, 16), gpu(None, 16)], 16, 64)


@pytest.mark.parametrize(
    ("limit", "expected"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])]
)
def test_numbers_are_doubled_up_to_the_limit(limit, expected):
    assert list(doublings(limit)) == expected


@pytest.mark.parametrize(
    ("rates", "num"),
    [
        ({1: 100.0}, 1),
        ({1: 100.0, 2: 195.0, 4: 380.0}, 4),
        ({1: 100.0, 2: 195.0, 4: 200.0}, 2),
        ({1: 100.0, 2: 90.0}, 1),
        ({1: 100.0, 2: 109.0}, 1),
        ({1: 100.0, 2: 111.0}, 2),
        ({1: 0.0, 2: 5.0}, 2),
    ],
)
def test_doubling_ends_where_it_no_longer_pays(rates, num):
    assert fastest(rates) == num
    assert pays(rates) == (num == max(rates))


def test_steps_count_while_all_processes_are_at_work():
    first, second = [0.0, 1.0, 2.0, 3.0, 4.0], [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0]
    assert rate_together([first]) == 1.0
    assert rate_together([first, second]) == (2 + 4) / 2.0
    assert rate_together([first, [5.0, 6.0]]) == 0.0
    assert rate_together([first, [1.0]]) == 0.0


def test_a_packing_shares_memory_equally():
    assert packing_of(4, [H200]).gpus == 0.25
    assert packing_of(4, [H200]).memory_share == pytest.approx((USABLE * 139 / 4 - CONTEXT_GIB) / 141)


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """Inputs and settings of a trial on the CPU."""
    from searches import TRAINING, linked, trial_inputs

    folder = tmp_path_factory.mktemp("probe")
    inputs = linked(trial_inputs(folder / "student"), folder / "store")
    store = Store(str(folder / "store"))
    return inputs, TrialSettings(
        TRAINING, "validation_accuracy", "max", store, "s", "t", "l", 1, use_gpu=False
    )


def test_steps_of_a_trial_are_timed_and_nothing_is_left(trial, monkeypatch, tmp_path):
    from distiltune.search.trial import gpu as probes

    monkeypatch.setattr(probes, "_SECONDS", 0.05)
    began = time.time()
    moments = probes.measure_steps({"num_train_epochs": 50, "temperature": 2.0}, *trial)
    assert len(moments) > 1 and moments == sorted(moments)
    assert began < moments[0] and moments[-1] - moments[0] < 5
    assert rate_together([moments]) > 0
    assert not trial[1].store.names("s")


@pytest.mark.gpu
@needs_gpu
def test_a_probe_is_not_below_the_peak_of_a_trial(trial):
    """And at most 15 % above it; a trial is what run_trial trains."""
    import torch

    from distiltune.search.trial import gpu as probes

    inputs, settings = trial
    settings = replace(settings, use_gpu=True)
    found = probes.measure_memory({"per_device_train_batch_size": 16}, inputs, settings)
    torch.cuda.reset_peak_memory_stats()
    trainer = probes._trainer({"per_device_train_batch_size": 16}, inputs, settings, settings.store.directory)
    trainer.train()
    peak = torch.cuda.max_memory_reserved() + CONTEXT_BYTES
    assert peak <= found.peak <= 1.15 * peak
