"""How many trials share a GPU: the arithmetic; nothing here needs a GPU, or has seen one."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from distiltune.errors import RunFailedError
from distiltune.search.config import SearchConfig
from distiltune.search.driver.run_search import _runs_teacher
from distiltune.search.space.students import Student
from distiltune.search.trial.gpu import Shape, estimated_bytes, fit_gpu, settled_fraction
from distiltune.training.distillation.config import TrainingConfig

GIB = 2**30
BERT_BASE = Shape(110_000_000, 12, 768, 12, 64, 64, 151)


def test_an_estimate_is_the_sum_of_weights_activations_and_cuda():
    activations = 12 * 64 * 64 * 768 * (34 + 5 * 12 * 64 / 768)
    ends = 6 * 64 * 64 * 768 + 12 * 64 * 151
    assert estimated_bytes(BERT_BASE) == 600 * 2**20 + int(18 * 110_000_000 + activations + ends)
    beside = replace(BERT_BASE, teacher_parameters=1000)
    assert estimated_bytes(beside) - estimated_bytes(BERT_BASE) == 6000


@pytest.mark.parametrize(
    ("space", "arguments", "runs"),
    [
        ({}, {}, False),
        ({}, {"hidden_loss_weight": 0.5}, True),
        ({"hidden_loss_weight": 0.0}, {"hidden_loss_weight": 0.5}, False),
        ({"hidden_loss_weight": {"type": "float", "low": 0.0, "high": 1.0}}, {}, True),
        (
            {"alpha": 0.5, "hidden_loss_weight": {"type": "choice", "values": [0.0], "when": {"alpha": 0.5}}},
            {"hidden_loss_weight": 0.5},
            True,
        ),
    ],
)
def test_the_teacher_counts_where_a_trial_may_run_it(space, arguments, runs):
    config = SearchConfig.model_validate({"space": space})
    assert _runs_teacher(config, TrainingConfig(arguments=arguments)) is runs


@pytest.mark.parametrize(("asked", "gib", "settled"), [(0.25, 2, 0.25), (0.1, 4, 0.3333), (0.5, 12, 1.0)])
def test_a_fraction_is_raised_until_the_trials_fit(asked, gib, settled, caplog):
    with caplog.at_level(logging.WARNING):
        assert settled_fraction(asked, gib * GIB, 16 * GIB) == settled
    assert bool(caplog.records) == (settled != asked)


def test_not_a_hundredth_more_than_fits():
    for fitting in range(1, 40):
        fraction = settled_fraction(0.01, GIB, int(fitting * GIB / 0.92) + GIB // 100)
        assert int(1 / fraction + 1e-6) == fitting


def test_a_trial_that_fits_no_gpu_is_refused():
    with pytest.raises(RunFailedError, match=r"20,480 MiB of a GPU's 16,384 MiB"):
        settled_fraction(0.5, 20 * GIB, 16 * GIB)


@pytest.mark.parametrize(
    ("found", "fraction"),
    [
        ([(100 * GIB, GIB, 16 * GIB)], 0.25),
        ([(GIB, GIB, 16 * GIB), (GIB, 7 * GIB, 16 * GIB)], 0.5),
        ([(GIB, GIB, 16 * GIB), None], 0.25),
        ([(20 * GIB, None, 16 * GIB)], "16,384 MiB (estimated: 20,480 MiB)"),
    ],
)
def test_the_largest_student_that_was_measured_decides(found, fraction, monkeypatch):
    """What the probes say is made up: no GPU is needed."""
    import ray

    answers = iter(found)
    probe = SimpleNamespace(remote=lambda *_: next(answers))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 1.0})
    monkeypatch.setattr(ray, "remote", lambda **_: lambda _: probe)
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    students = {str(number): Student(str(number)) for number in range(len(found))}
    inputs: Any = SimpleNamespace(students=students)
    settings: Any = None
    if isinstance(fraction, float):
        assert fit_gpu(0.25, inputs, settings, 64) == fraction
    else:
        with pytest.raises(RunFailedError, match=re.escape(fraction)):
            fit_gpu(0.25, inputs, settings, 64)
