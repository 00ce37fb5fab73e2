"""The measured batches are those of the sampler, and a cost is fitted to them."""

import numpy as np
import pytest

from distiltune.cluster.pipeline.forecast import cost
from distiltune.cluster.pipeline.forecast.cost import (
    BatchCost,
    measured_batches,
    sampled,
    tokens_of,
    training_batches,
)
from distiltune.cluster.pipeline.forecast.stopwatch import undisturbed
from distiltune.training.data.tokenized import TokenizedDataset, from_rows
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.trainer import DistillationTrainer

LENGTHS = np.random.default_rng(3).integers(4, 60, 500)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    from models import tiny_classifier

    from distiltune.training.checkpoints.load import load_classifier

    folder = tiny_classifier(tmp_path_factory.mktemp("m") / "c", label_names=["a", "b"])
    args = DistillationTrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=16, seed=7, alpha=1.0, disable_tqdm=True
    )
    split = from_rows([np.full(each, 5, dtype=np.int32) for each in LENGTHS], np.zeros(len(LENGTHS), int))
    model, _ = load_classifier(folder)
    return DistillationTrainer(model=model, args=args, train_dataset=TokenizedDataset(split))


def test_the_batches_are_those_that_the_trainer_draws(trainer) -> None:
    drawn = list(trainer._get_train_sampler())
    batches = training_batches(LENGTHS, 16, 7)
    assert np.concatenate(batches).tolist() == drawn
    assert [len(rows) for rows in batches] == [16] * 31 + [4]


def test_batches_that_are_not_grouped_have_the_padding_of_a_random_order() -> None:
    grouped, random = (
        tokens_of(training_batches(LENGTHS, 16, 7, grouped=each), LENGTHS).sum() for each in (True, False)
    )
    assert random > 1.3 * grouped


def test_a_sample_starts_with_the_largest_batch_and_has_the_mean_of_all() -> None:
    tokens = tokens_of(training_batches(LENGTHS, 16, 7), LENGTHS)
    chosen = sampled(tokens, 16)
    assert tokens[chosen[0]] == tokens.max()
    assert np.mean(tokens[chosen[1:]]) == pytest.approx(tokens.mean(), rel=0.05)
    assert sampled(np.array([9]), 4) == [0, 0, 0, 0]


def test_a_cost_is_fitted_to_fixed_and_proportional_parts() -> None:
    tokens = [100, 200, 300, 400]
    fitted = BatchCost.fit(tokens, [0.02 + 0.001 * each for each in tokens])
    assert (fitted.fixed_s, fitted.token_s) == pytest.approx((0.02, 0.001))
    assert fitted.of(np.array([1000, 2000])) == pytest.approx(3.04)


@pytest.mark.parametrize(
    ("tokens", "seconds", "total"),
    [
        ([100, 101, 102], [1.0, 1.0, 1.0], 3.0),  # too alike for a slope
        ([100, 200, 300], [3.0, 2.0, 1.0], 6.0),  # a slope below 0
        ([100, 200, 300], [0.1, 1.0, 2.0], 3.1),  # a fixed part below 0
    ],
)
def test_no_part_of_a_cost_is_negative_and_the_total_stays(tokens, seconds, total) -> None:
    fitted = BatchCost.fit(tokens, seconds)
    assert min(fitted.fixed_s, fitted.token_s) >= 0
    assert fitted.of(np.array(tokens)) == pytest.approx(total)


def test_measured_batches_stop_when_the_time_is_over(monkeypatch) -> None:
    seconds = iter(range(1000))
    monkeypatch.setattr(cost, "Stopwatch", lambda: type("Watch", (), {"lap": lambda self: 0.5})())
    monkeypatch.setattr(cost.time, "perf_counter", lambda: float(next(seconds)))
    batches = training_batches(LENGTHS, 16, 7)
    run = []
    found = measured_batches(run.append, batches, LENGTHS, 10.0)
    assert 3 < len(run) < 20
    assert found.of(tokens_of(run[1:], LENGTHS)) == pytest.approx(0.5 * (len(run) - 1))


def test_time_spent_waiting_for_processors_is_excluded() -> None:
    assert undisturbed(10.0, [0.0, 0.0]) == 10.0
    assert undisturbed(10.0, [4.0]) == pytest.approx(6.0)
    assert undisturbed(10.0, [5.0, 5.0]) == pytest.approx(2.5)
    assert undisturbed(10.0, [11.0]) == 0.0
