"""The mixture of several teachers: its formula, temperatures, weights against a grid, and its measurement."""

import itertools
import math

import numpy as np
import pytest
import torch

from distiltune.errors import ConfigError
from distiltune.export.temperature import fit_sigmoid_temperature
from distiltune.export.temperature import fit_temperature as fit_softmax_temperature
from distiltune.training.ragged import Ragged, flat
from distiltune.training.tasks import (
    MULTI_LABEL,
    QUESTION_ANSWERING,
    REGRESSION,
    SINGLE_LABEL,
    TOKEN_CLASSIFICATION,
)
from distiltune.training.teacher.config import TeacherConfig
from distiltune.training.teacher.mixture import (
    Mixture,
    fit_mixture,
    fit_temperature,
    fit_weights,
    measure_mixture,
)

DRAWN = np.random.default_rng(5)
NUM, CLASSES = 400, 4


def labels_of(task, num=NUM):
    if task is REGRESSION:
        return (1000 * DRAWN.standard_normal((num, 2))).astype(np.float32)
    if task is MULTI_LABEL:
        return (DRAWN.random((num, CLASSES)) < 0.4).astype(np.int8)
    return DRAWN.integers(0, CLASSES, num)


def teacher_of(task, labels, noise, scale=1.0):
    """Logits of a teacher that are right except for its noise."""
    if task is REGRESSION:
        return (labels + 1000 * noise * DRAWN.standard_normal(labels.shape)).astype(np.float32)
    truth = labels if task is MULTI_LABEL else np.eye(CLASSES)[labels]
    return (scale * (2 * truth - 1 + noise * DRAWN.standard_normal(truth.shape))).astype(np.float32)


def loss_of(task, weights, logits, labels):
    mixed = np.tensordot(np.asarray(weights, np.float32), np.stack(logits), 1)
    return float(task.hard_loss(torch.from_numpy(mixed), torch.from_numpy(labels)))


def config_of(num=2, **keys):
    members = [{"checkpoint": f"hub/{number}"} for number in range(num)]
    for each, weight in zip(members, keys.pop("given", []), strict=False):
        each["weight"] = weight
    return TeacherConfig.model_validate({"ensemble": members, **keys})


# ---- The formula --------------------------------------------------------------------------------------------------


def test_a_mixture_is_the_weighted_mean_of_scaled_logits():
    first, other = (DRAWN.standard_normal((5, 3)).astype(np.float32) for _ in range(2))
    found = Mixture((0.25, 0.75), (2.0, 0.5)).of([first, other])
    np.testing.assert_allclose(found, 0.25 * first / 2 + 0.75 * other / 0.5, rtol=1e-6)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(Mixture((1.0,), (1.0,)).of([first]), first)


def test_its_softmax_is_the_weighted_geometric_mean_of_the_teachers():
    teachers = [DRAWN.standard_normal((6, 3)) for _ in range(3)]
    weights, shares = (0.5, 0.2, 0.3), [SINGLE_LABEL.class_probabilities(each) for each in teachers]
    product = np.prod([share**weight for share, weight in zip(shares, weights, strict=True)], axis=0)
    mixed = SINGLE_LABEL.class_probabilities(Mixture(weights, (1.0, 1.0, 1.0)).of(teachers))
    np.testing.assert_allclose(mixed, product / product.sum(axis=1, keepdims=True), rtol=1e-5)


def test_rows_that_a_teacher_lacks_are_the_mean_of_the_others():
    teachers = [np.full((4, 2), float(number), dtype=np.float32) for number in (1, 2, 4)]
    teachers[0][1:] = np.nan
    teachers[1][2:] = np.nan
    teachers[2][3:] = np.nan
    found = Mixture((0.5, 0.25, 0.25), (1.0, 1.0, 2.0)).of(teachers)
    np.testing.assert_allclose(found[:3, 0], [0.5 + 0.5 + 0.5, 0.5 * 2 + 0.5 * 2, 2])
    assert np.isnan(found[3]).all()
    alone = Mixture((0.0, 0.0, 1.0), (1.0, 1.0, 1.0)).of(teachers)
    assert np.isnan(alone).any(axis=1).tolist() == [False, False, False, True]
    without_weight = Mixture((1.0, 0.0, 0.0), (1.0, 1.0, 1.0)).of(teachers)
    assert np.isnan(without_weight).all(axis=1).tolist() == [False, True, True, True]


def test_rows_of_tokens_keep_their_form():
    rows = [Ragged(DRAWN.standard_normal((5, 3)).astype(np.float32), np.array([0, 2, 5])) for _ in range(2)]
    found = Mixture((0.5, 0.5), (1.0, 1.0)).of(rows)
    assert isinstance(found, Ragged)
    np.testing.assert_array_equal(found.offsets, [0, 2, 5])
    np.testing.assert_allclose(flat(found), (flat(rows[0]) + flat(rows[1])) / 2, rtol=1e-6)


def test_the_others_share_the_weight_of_the_one_that_is_left_out():
    mixture = Mixture((0.5, 0.3, 0.2), (1.0, 2.0, 3.0))
    assert mixture.without(0).weights == pytest.approx((0, 0.6, 0.4))
    assert mixture.without(2).weights == pytest.approx((0.625, 0.375, 0))
    assert mixture.without(1).temperatures == mixture.temperatures
    assert Mixture((1.0, 0.0, 0.0), (1.0, 1.0, 1.0)).without(0).weights == pytest.approx((0, 0.5, 0.5))


# ---- Temperatures -------------------------------------------------------------------------------------------------


def test_temperatures_are_those_of_temperature_scaling():
    """Against the functions that an artifact's scores are calibrated by, which do not smooth the labels."""
    labels = labels_of(SINGLE_LABEL, 4000)
    logits = teacher_of(SINGLE_LABEL, labels, 1.5, scale=3)
    assert fit_temperature(logits, labels, SINGLE_LABEL) == pytest.approx(
        fit_softmax_temperature(logits, labels), rel=0.01
    )
    sets = labels_of(MULTI_LABEL, 4000)
    logits = teacher_of(MULTI_LABEL, sets, 1.5, scale=0.4)
    assert fit_temperature(logits, sets, MULTI_LABEL) == pytest.approx(
        fit_sigmoid_temperature(logits, sets), rel=0.01
    )


@pytest.mark.parametrize(
    "task", [SINGLE_LABEL, MULTI_LABEL, TOKEN_CLASSIFICATION], ids=lambda task: task.name
)
def test_a_scale_of_logits_is_found_again(task):
    labels = labels_of(task)
    logits = teacher_of(task, labels, 1.2)
    once, tenfold = (fit_temperature(scale * logits, labels, task) for scale in (1, 10))
    assert tenfold == pytest.approx(10 * once, rel=0.01)


def test_a_teacher_that_is_always_right_is_not_certain():
    labels = labels_of(SINGLE_LABEL, 50)
    temperature = fit_temperature((5 * np.eye(CLASSES, dtype=np.float32))[labels], labels, SINGLE_LABEL)
    sure = SINGLE_LABEL.class_probabilities(5 * np.eye(CLASSES)[:1] / temperature)[0, 0]
    assert 1 - sure == pytest.approx(0.75 / 51, rel=0.02), (
        "as if one of 51 texts had equal weight on every label"
    )


def test_a_teacher_that_finds_every_answer_is_not_certain():
    length, num = 6, 50
    labels = DRAWN.integers(0, length, (num, 2))
    for longest in (length, 4 * length):  # padding changes nothing
        logits = np.full((num, longest, 2), QUESTION_ANSWERING.padding_logit, dtype=np.float32)
        logits[:, :length] = 5 * np.eye(length)[labels].transpose(0, 2, 1)
        temperature = fit_temperature(logits, labels, QUESTION_ANSWERING)
        weights = np.exp(5 / temperature * np.eye(length)[0])
        assert 1 - weights[0] / weights.sum() == pytest.approx((1 - 1 / length) / (num + 1), rel=0.02)
        assert fit_temperature(20 * logits.clip(-500), labels, QUESTION_ANSWERING) == pytest.approx(
            20 * temperature, rel=0.02
        )


def test_what_has_no_scale_to_fit_keeps_its_own():
    assert (
        fit_temperature(teacher_of(REGRESSION, labels_of(REGRESSION), 3), labels_of(REGRESSION), REGRESSION)
        == 1
    )
    logits = teacher_of(SINGLE_LABEL, labels_of(SINGLE_LABEL), 1)
    assert fit_temperature(np.full_like(logits, np.nan), labels_of(SINGLE_LABEL), SINGLE_LABEL) == 1
    assert fit_temperature(logits, np.full(NUM, -100), SINGLE_LABEL) == 1
    assert fit_temperature(np.zeros_like(logits), labels_of(SINGLE_LABEL), SINGLE_LABEL) == 1


def test_rows_and_labels_that_are_missing_change_no_temperature():
    labels = labels_of(SINGLE_LABEL)
    logits = teacher_of(SINGLE_LABEL, labels, 1.5)
    fewer, unlabelled = logits.copy(), labels.copy()
    fewer[200:], unlabelled[200:] = np.nan, -100
    expected = fit_temperature(logits[:200], labels[:200], SINGLE_LABEL)
    assert fit_temperature(fewer, labels, SINGLE_LABEL) == pytest.approx(expected, rel=1e-4)
    assert fit_temperature(logits, unlabelled, SINGLE_LABEL) == pytest.approx(expected, rel=0.02)


# ---- Weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task", [SINGLE_LABEL, MULTI_LABEL, REGRESSION, TOKEN_CLASSIFICATION], ids=lambda task: task.name
)
@pytest.mark.parametrize("noises", [(0.8, 1.6), (2.0, 1.0, 1.4)], ids=["two", "three"])
def test_no_weights_of_a_grid_are_better(task, noises):
    labels = labels_of(task)
    logits = [teacher_of(task, labels, noise) for noise in noises]
    weights = fit_weights(logits, labels, task)
    assert sum(weights) == pytest.approx(1) and min(weights) >= 0
    steps = 50 if len(noises) == 2 else 20
    grid = [
        np.array(point) / steps
        for point in itertools.product(range(steps + 1), repeat=len(noises))
        if sum(point) == steps
    ]
    losses = [loss_of(task, point, logits, labels) for point in grid]
    assert loss_of(task, weights, logits, labels) <= min(losses) * (1 + 1e-5)
    assert np.abs(grid[int(np.argmin(losses))] - weights).max() <= 1.5 / steps


def test_a_random_teacher_gets_no_weight():
    labels = labels_of(SINGLE_LABEL)
    logits = [
        teacher_of(SINGLE_LABEL, labels, 0.5),
        5 * DRAWN.standard_normal((NUM, CLASSES)).astype(np.float32),
    ]
    assert fit_weights(logits, labels, SINGLE_LABEL)[1] < 0.02
    assert fit_weights(logits[::-1], labels, SINGLE_LABEL)[0] < 0.02


def test_equal_teachers_keep_equal_weights():
    labels = labels_of(SINGLE_LABEL)
    logits = teacher_of(SINGLE_LABEL, labels, 1.0)
    assert fit_weights([logits, logits, logits], labels, SINGLE_LABEL) == pytest.approx((1 / 3,) * 3)


def test_texts_without_a_label_change_no_weight():
    labels = labels_of(SINGLE_LABEL)
    logits = [teacher_of(SINGLE_LABEL, labels, noise) for noise in (1.0, 1.5)]
    expected = fit_weights([each[:300] for each in logits], labels[:300], SINGLE_LABEL)
    labels[300:] = -100
    assert fit_weights(logits, labels, SINGLE_LABEL) == pytest.approx(expected, abs=1e-3)


def test_the_two_ends_of_a_span_are_fitted_by_text():
    """Logits of each token, of texts with one label each: the first and the last token of an answer."""

    class Ends:
        padding_logit = -1e4
        has_temperature = True

        def known_labels(self, labels, num_outputs):
            assert num_outputs == 2
            return labels

        def hard_loss(self, logits, labels, *, label_smoothing=0.0):
            del label_smoothing  # padding has a probability of 0
            by_end = logits.transpose(1, 2).reshape(-1, logits.shape[1])
            return torch.nn.functional.cross_entropy(by_end, labels.reshape(-1))

    lengths = DRAWN.integers(3, 9, 200)
    labels = np.stack([DRAWN.integers(0, lengths) for _ in range(2)], axis=1)
    teachers = []
    for noise in (0.7, 1.4):
        rows = []
        for length, ends in zip(lengths, labels, strict=True):
            row = noise * DRAWN.standard_normal((length, 2))
            row[ends, [0, 1]] += 2
            rows.append(row)
        teachers.append(Ragged.of(rows, np.float32, (2,)))
    task, config = Ends(), config_of(weights="fit")
    found = fit_mixture(config, teachers, labels, task)
    tenfold = fit_mixture(config, [teachers[0].like(10 * teachers[0].values), teachers[1]], labels, task)
    assert tenfold.temperatures[0] == pytest.approx(10 * found.temperatures[0], rel=0.01)
    assert tenfold.weights == pytest.approx(found.weights, abs=0.01)
    padded = [each.padded(-1e4) / scale for each, scale in zip(teachers, found.temperatures, strict=True)]
    losses = [loss_of(task, (share, 1 - share), padded, labels) for share in np.linspace(0, 1, 51)]
    assert found.weights[0] == pytest.approx(np.linspace(0, 1, 51)[int(np.argmin(losses))], abs=0.03)
    mixed = found.of(teachers)
    assert isinstance(mixed, Ragged) and mixed.lengths.tolist() == lengths.tolist()


# ---- A job's mixture ----------------------------------------------------------------------------------------------


def test_given_weights_are_shares_and_scales_are_made_alike():
    labels = labels_of(SINGLE_LABEL)
    logits = [teacher_of(SINGLE_LABEL, labels, 1.0), teacher_of(SINGLE_LABEL, labels, 1.0, scale=30)]
    mixture = fit_mixture(config_of(given=[3, 1]), logits, labels, SINGLE_LABEL)
    assert mixture.weights == (0.75, 0.25)
    assert mixture.temperatures[1] / mixture.temperatures[0] == pytest.approx(30, rel=0.2)


def test_teachers_that_differ_in_their_seed_are_not_scaled():
    labels = labels_of(SINGLE_LABEL)
    logits = [teacher_of(SINGLE_LABEL, labels, 1.0, scale=5) for _ in range(3)]
    seeds = TeacherConfig.model_validate({"scratch": {}, "ensemble": 3})
    assert fit_mixture(seeds, logits, labels, SINGLE_LABEL) == Mixture((1 / 3,) * 3, (1.0,) * 3)
    fitted = TeacherConfig.model_validate({"scratch": {}, "ensemble": 3, "weights": "fit"})
    found = fit_mixture(fitted, logits, labels, SINGLE_LABEL)
    assert found.temperatures == (1.0,) * 3 and found.weights == fit_weights(logits, labels, SINGLE_LABEL)


def test_weights_are_fitted_on_the_texts_that_all_teachers_have():
    labels = labels_of(SINGLE_LABEL)
    logits = [teacher_of(SINGLE_LABEL, labels, noise) for noise in (1.0, 1.6)]
    config = config_of(weights="fit")
    logits[1][250:] = np.nan
    found = fit_mixture(config, logits, labels, SINGLE_LABEL)
    scaled = [each[:250] / scale for each, scale in zip(logits, found.temperatures, strict=True)]
    assert found.weights == pytest.approx(fit_weights(scaled, labels[:250], SINGLE_LABEL))
    logits[0][:250] = np.nan
    with pytest.raises(ConfigError, match=r"teacher\.weights: 'fit' given, but no validation text"):
        fit_mixture(config, logits, labels, SINGLE_LABEL)


def test_an_out_of_scope_label_that_no_teacher_knows_is_left_out_of_the_fit():
    labels = labels_of(SINGLE_LABEL)
    logits = [teacher_of(SINGLE_LABEL, labels, noise) for noise in (1.0, 1.6)]
    expected = fit_mixture(
        config_of(weights="fit"), [each[:300] for each in logits], labels[:300], SINGLE_LABEL
    )
    labels[300:] = CLASSES  # a label of the data that no teacher has
    found = fit_mixture(config_of(weights="fit"), logits, labels, SINGLE_LABEL)
    assert found.weights == pytest.approx(expected.weights, abs=1e-2)


def against(labels):
    """Return a function that measures logits against the first of these labels."""

    def measure(split, logits, rows):
        assert split in ("validation", "test")
        return SINGLE_LABEL.metrics(logits.argmax(-1), labels[rows])

    return measure


def test_a_mixture_and_each_of_its_teachers_are_measured():
    """Two teachers that are right on different halves, and a mixture that is right on all."""
    labels = np.arange(8) % 2
    sure, unsure = 4 * np.eye(2, dtype=np.float32)[labels], np.eye(2, dtype=np.float32)[1 - labels]
    halves = np.arange(8) < 4
    logits = [np.where(halves[:, None], sure, unsure), np.where(halves[:, None], unsure, sure)]
    logits[1] = logits[1].copy()
    logits[1][7] = np.nan
    splits = {"validation": logits, "test": [each[:4] for each in logits]}
    config, mixture = config_of(given=[1, 1]), Mixture((0.5, 0.5), (1.0, 1.0))
    found = measure_mixture(config, mixture, splits, against(labels), "accuracy", "max")
    assert found["mixture"]["validation"]["accuracy"] == pytest.approx(7 / 8)
    assert found["mixture"]["test"]["accuracy"] == 1
    first, other = found["members"]
    assert first["validation"]["accuracy"] == 0.5 and first["missing"] == {"validation": 0, "test": 0}
    assert other["validation"]["accuracy"] == pytest.approx(3 / 7), "of the seven that it has"
    assert other["missing"] == {"validation": 1, "test": 0}
    assert first["others"]["test"]["accuracy"] == 0 and other["others"]["test"]["accuracy"] == 1
    assert [each["teacher"] for each in found["members"]] == ["hub/0", "hub/1"]
    assert (found["best"], found["weights"], found["metric"]) == (0, "given", "accuracy")
    assert math.isclose(sum(each["weight"] for each in found["members"]), 1)


def test_a_teacher_without_any_text_of_a_split_has_no_measurement():
    labels = np.arange(6) % 2
    logits = [np.eye(2, dtype=np.float32)[labels], np.full((6, 2), np.nan, dtype=np.float32)]
    splits, mixture = dict.fromkeys(("validation", "test"), logits), Mixture((0.5, 0.5), (1.0, 1.0))
    found = measure_mixture(config_of(), mixture, splits, against(labels), "accuracy", "max")
    assert found["members"][1]["test"] is None and found["members"][1]["missing"]["test"] == 6
    assert found["members"][0]["others"]["test"] is None, "nothing is left without the first"
    assert found["mixture"]["test"]["accuracy"] == 1 and found["best"] == 0
