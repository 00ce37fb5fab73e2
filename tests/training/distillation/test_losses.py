"""Losses against their formulas in NumPy, closed forms of gradients, and PyTorch's functions."""

import numpy as np
import pytest
import torch

from distiltune.training.distillation.losses import (
    cosine_loss,
    cross_entropy,
    distillation_loss,
    hidden_state_loss,
    soft_target_loss,
)
from distiltune.training.distillation.losses.base import LossInputs
from distiltune.training.distillation.losses.hard_targets import HardTargets
from distiltune.training.distillation.losses.soft_targets import SoftTargets
from distiltune.training.distillation.losses.total import weighted_sum
from distiltune.training.pretraining.loss import pretraining_loss

B, C = 7, 5


def _softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _reference(student, teacher, labels, alpha, temperature):
    """The formula, term by term, in float64."""
    hard = -np.log(_softmax(student)[np.arange(len(labels)), labels]).mean()
    p, q = _softmax(teacher / temperature), _softmax(student / temperature)
    soft = (p * (np.log(p) - np.log(q))).sum() / len(labels)
    return alpha * hard + (1 - alpha) * temperature**2 * soft


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    return random.normal(size=(B, C)) * 3, random.normal(size=(B, C)) * 3, random.integers(0, C, B)


def _loss(batch, alpha, temperature, **more):
    student, teacher, labels = (torch.from_numpy(np.asarray(part)) for part in batch)
    return distillation_loss(student, teacher, labels, alpha=alpha, temperature=temperature, **more)


@pytest.mark.parametrize("alpha", [0.0, 0.12, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1, 4.0, 20])
def test_agrees_with_the_formula_in_numpy(batch, alpha, temperature):
    expected = _reference(*batch, alpha, temperature)
    assert float(_loss(batch, alpha, temperature)) == pytest.approx(expected, rel=1e-5)


def test_identical_logits_leave_no_distillation_loss(batch):
    logits = torch.from_numpy(batch[0])
    assert float(soft_target_loss(logits, logits, temperature=3)) == 0
    assert float(_loss((batch[0], batch[0], batch[2]), 0.0, 7)) == 0


def test_alpha_one_is_cross_entropy_and_needs_no_teacher(batch):
    student, _, labels = batch
    got = distillation_loss(torch.from_numpy(student), None, torch.from_numpy(labels), alpha=1, temperature=2)
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(student).float(), torch.from_numpy(labels))
    assert torch.equal(got, expected)


def test_alpha_zero_needs_no_labels(batch):
    student, teacher, _ = batch
    without = distillation_loss(
        torch.from_numpy(student), torch.from_numpy(teacher), None, alpha=0, temperature=2
    )
    assert torch.equal(without, _loss(batch, 0, 2))


@pytest.mark.parametrize(("alpha", "missing"), [(0.5, 1), (0.5, 2), (0.0, 1), (1.0, 2)])
def test_a_part_with_weight_needs_its_input(batch, alpha, missing):
    parts = [torch.from_numpy(np.asarray(part)) for part in batch]
    parts[missing] = None
    with pytest.raises(ValueError, match=r"teacher_logits|labels"):
        distillation_loss(*parts, alpha=alpha, temperature=2)


def test_teacher_of_another_width_is_refused(batch):
    with pytest.raises(ValueError, match="same examples and labels"):
        _loss((batch[0], batch[1][:, :-1], batch[2]), 0.5, 2)


def test_high_temperature_tends_to_half_the_squared_difference_of_centred_logits(batch):
    # Hinton et al. 2015, section 2.1: the limit in which distillation is matching logits.
    student, teacher, _ = batch
    centred = (student - student.mean(1, keepdims=True)) - (teacher - teacher.mean(1, keepdims=True))
    expected = (centred**2).sum() / (2 * C * B)
    assert float(_loss(batch, 0.0, 300.0)) == pytest.approx(expected, rel=0.02)


def test_gradient_agrees_with_the_closed_form(batch):
    student, teacher, labels = batch
    alpha, temperature = 0.3, 4.0
    leaf = torch.from_numpy(student).float().requires_grad_()
    distillation_loss(
        leaf, torch.from_numpy(teacher), torch.from_numpy(labels), alpha=alpha, temperature=temperature
    ).backward()
    hard = _softmax(student) - np.eye(C)[labels]
    soft = temperature * (_softmax(student / temperature) - _softmax(teacher / temperature))
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad.numpy(), (alpha * hard + (1 - alpha) * soft) / B, atol=1e-6)


def test_no_gradient_flows_into_the_teacher(batch):
    student, teacher, _ = (torch.from_numpy(np.asarray(part)).float().requires_grad_() for part in batch)
    soft_target_loss(student, teacher, temperature=2).backward()
    assert teacher.grad is None and student.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(batch, dtype):
    student, teacher = (torch.from_numpy(part).to(dtype) for part in batch[:2])
    labels = torch.from_numpy(batch[2])
    got = distillation_loss(student, teacher, labels, alpha=0.4, temperature=3)
    assert got.dtype == torch.float32
    expected = distillation_loss(student.float(), teacher.float(), labels, alpha=0.4, temperature=3)
    assert torch.equal(got, expected)


def test_huge_logits_stay_finite():
    student, teacher = torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])
    loss = distillation_loss(student, teacher, torch.tensor([1]), alpha=0.5, temperature=1)
    assert torch.isfinite(loss)


def test_parts_of_micro_batches_add_up(batch):
    whole = _loss(batch, 0.4, 3)
    parts = [
        _loss([x[s] for x in batch], 0.4, 3, num_items=B) for s in (slice(0, 3), slice(3, 5), slice(5, 7))
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


def test_unlabelled_rows_add_distillation_only(batch):
    student, teacher, labels = (torch.from_numpy(np.asarray(part)) for part in batch)
    labels = labels.clone()
    labels[2:] = -100
    terms = (HardTargets(weight=0.5), SoftTargets(weight=0.5, temperature=2))
    _, values = weighted_sum(terms, LossInputs(student, B, labels, teacher))
    expected = torch.nn.functional.cross_entropy(student[:2].float(), labels[:2], reduction="sum") / B
    assert float(values["cross_entropy"]) == pytest.approx(float(expected), rel=1e-6)
    assert float(values["distillation"]) == float(soft_target_loss(student, teacher, temperature=2))
    # Alone, cross-entropy is the mean over the labelled.
    assert float(cross_entropy(student, labels)) == pytest.approx(float(expected) * B / 2, rel=1e-6)
    assert float(cross_entropy(student, torch.full((B,), -100))) == 0


def test_hidden_state_loss_leaves_padding_out():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    expected = np.mean(
        [
            ((student[layer, row, :n] - teacher[layer, row, :n]) ** 2).mean().item()
            for layer in range(2)
            for row, n in enumerate((4, 2, 1))
        ]
    )
    got = hidden_state_loss(list(student), list(teacher), mask)
    assert float(got) == pytest.approx(expected, rel=1e-5)
    assert float(hidden_state_loss(list(student), list(student), mask)) == 0


def test_pretraining_loss_is_the_sum_of_its_three_parts():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 11), torch.randn(2, 3, 11)
    own, others = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    labels = torch.tensor([[-100, 4, -100], [7, -100, -100]])

    def weighted(alpha, beta, gamma):
        return float(
            pretraining_loss(
                student,
                teacher,
                labels,
                own,
                others,
                mask,
                alpha=alpha,
                beta=beta,
                gamma=gamma,
                temperature=2,
            )
        )

    masked = torch.nn.functional.cross_entropy(student.flatten(0, 1), labels.flatten())
    assert weighted(1, 0, 0) == pytest.approx(float(masked), rel=1e-6)
    assert weighted(0, 0, 1) == pytest.approx(float(cosine_loss(own, others, mask)), rel=1e-6)
    assert float(cosine_loss(own, own * 2, mask)) == pytest.approx(0, abs=1e-6)
    assert float(cosine_loss(own, -own, mask)) == pytest.approx(2, abs=1e-6)
    total = 2 * weighted(1, 0, 0) + 5 * weighted(0, 1, 0) + weighted(0, 0, 1)
    assert weighted(2, 5, 1) == pytest.approx(total, rel=1e-6)
