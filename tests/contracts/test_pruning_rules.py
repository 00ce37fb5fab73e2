"""The contract of every pruning rule, and a rule registered from outside."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.errors import ConfigError
from distiltune.training.compression.config import pruning_config
from distiltune.training.compression.pruning.base import PRUNING_RULES, ScoresRule, SparsityRule
from distiltune.training.compression.pruning.callback import PruningCallback
from distiltune.training.compression.pruning.masks import top_mask
from distiltune.training.compression.pruning.state import PrunedMatrix, encoder_matrices
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.callbacks import callbacks_of
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.distillation.trainer import DistillationTrainer

RULES = list(PRUNING_RULES)
NAMES = PRUNING_RULES.names
SHAPE = (8, 10)


def matrix_of(rule) -> tuple[PrunedMatrix, np.ndarray, np.ndarray]:
    """A matrix, with its scores if the rule has any, and the weights and scores as arrays."""
    random = np.random.default_rng(0)
    weights, scores = random.normal(size=SHAPE), random.normal(size=SHAPE)
    matrix = PrunedMatrix.of(
        nn.Parameter(torch.from_numpy(weights.copy())), scored=issubclass(rule, ScoresRule)
    )
    if matrix.scores is not None:
        matrix.scores.data.copy_(torch.from_numpy(scores))
    return matrix, weights, scores


def largest(values: np.ndarray, sparsity: float) -> np.ndarray:
    mask = np.ones(values.size, dtype=bool)
    mask[np.argsort(values.ravel())[: round(sparsity * values.size)]] = False
    return mask.reshape(values.shape)


# The mask of each rule in NumPy, with its default keys, at a progress of the schedule.
REFERENCES = {
    "magnitude": lambda weights, scores, progress: largest(np.abs(weights), 0.5 * progress),
    "movement": lambda weights, scores, progress: largest(scores, 0.5 * progress),
    "soft_movement": lambda weights, scores, progress: 1 / (1 + np.exp(-scores)) > 0.1 * progress,
}


def test_the_rules_in_the_order_in_which_they_are_listed():
    assert NAMES == ["magnitude", "movement", "soft_movement"] == list(REFERENCES)
    assert type(pruning_config()) is PRUNING_RULES["magnitude"], "the default"


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_the_mask_of_a_rule_is_that_of_numpy(rule, progress):
    matrix, weights, scores = matrix_of(rule)
    mask = rule().mask(matrix, progress)
    assert mask.dtype == torch.bool and not mask.requires_grad
    expected = REFERENCES[PRUNING_RULES.name_of(rule)](weights, scores, progress)
    np.testing.assert_array_equal(mask.numpy(), expected)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_a_rule_masks_nothing_at_first_and_never_less_later(rule):
    matrix, _, _ = matrix_of(rule)
    before = rule().mask(matrix, 0.0)
    assert before.all()
    for progress in (0.1, 0.5, 0.9, 1.0):
        mask = rule().mask(matrix, progress)
        assert not (mask & ~before).any()
        before = mask
    assert not before.all()


@pytest.mark.parametrize("rule", [rule for rule in RULES if issubclass(rule, SparsityRule)])
def test_a_sparsity_is_reached_from_the_initial_one(rule):
    matrix, _, _ = matrix_of(rule)
    given = rule(sparsity=0.75, initial_sparsity=0.25)
    shares = [float((~given.mask(matrix, progress)).float().mean()) for progress in (0.0, 0.5, 1.0)]
    assert shares == [0.25, 0.5, 0.75]
    searched = given.model_copy(update={"sparsity": 0.1})
    assert searched.sparsity_at(0.0) == searched.sparsity_at(1.0) == 0.1


@pytest.mark.parametrize("rule", [rule for rule in RULES if issubclass(rule, ScoresRule)])
def test_the_penalty_of_scores_is_nothing_or_a_scalar_with_a_gradient_that_rises(rule):
    matrix, _, _ = matrix_of(rule)
    penalties = [rule().penalty([matrix.scores], progress) for progress in (0.0, 0.5, 1.0)]
    if penalties[0] is not None:
        values = [float(each.detach()) for each in penalties]
        assert values == sorted(values)
        penalties[-1].backward()
        assert matrix.scores is not None and matrix.scores.grad is not None


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_a_rule_is_described_takes_its_own_keys_alone_and_survives_json(rule):
    name = PRUNING_RULES.name_of(rule)
    schema = JobConfig.model_json_schema()["$defs"]
    assert set(schema[rule.__name__]["properties"]) == set(rule.model_fields)
    assert all("description" in each for each in schema[rule.__name__]["properties"].values())
    training = load_config("quickstart", [f"training.pruning={{method: {name}}}"]).training
    assert training.pruning == rule()
    assert TrainingConfig.model_validate_json(training.model_dump_json()) == training
    for key in {key for other in RULES for key in other.model_fields} - set(rule.model_fields):
        owners = ", ".join(PRUNING_RULES.with_key(key))
        with pytest.raises(ConfigError, match=rf"training\.pruning\.{key}: .*method {owners} "):
            load_config("quickstart", [f"training.pruning={{method: {name}, {key}: 0.5}}"])
    with pytest.raises(ValidationError, match="speed"):
        pruning_config(method=name, speed=3)


# ---- From outside ---------------------------------------------------------------------------------------


class Rows(SparsityRule):
    """Mask the rows of the smallest norm."""

    method: Literal["rows"] = "rows"

    def mask(self, matrix: PrunedMatrix, progress: float) -> torch.Tensor:
        kept = top_mask(matrix.values.norm(dim=1), self.sparsity_at(progress))
        return kept[:, None].expand_as(matrix.values)


def test_a_rule_that_is_added_from_outside_prunes_a_training(tmp_path):
    given = ["training.pruning={method: rows, sparsity: 0.25, begin: 0.1, update_every: 1}"]
    with pytest.raises(ConfigError, match=r"training\.pruning\.method: 'rows' .*magnitude, movement"):
        load_config("quickstart", given)
    with PRUNING_RULES.temporarily(Rows):
        training = load_config("quickstart", given).training
        with pytest.raises(ConfigError, match=r"training\.pruning: initial_sparsity 0\.6 given"):
            load_config("quickstart", ["training.pruning={method: rows, initial_sparsity: 0.6}"])
        assert "Rows" in JobConfig.model_json_schema()["$defs"]
    random = np.random.default_rng(1)
    rows = [{"input_ids": random.integers(1, 40, 6).tolist(), "labels": index % 4} for index in range(16)]
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                   intermediate_size=32, max_position_embeddings=32, num_labels=4)
    )  # fmt: skip
    args = DistillationTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, alpha=1.0,
        per_device_train_batch_size=8, num_train_epochs=4, train_sampling_strategy="random",
        save_strategy="epoch", learning_rate=1e-2,
    )  # fmt: skip
    trainer = DistillationTrainer(
        model=model,
        args=args,
        train_dataset=rows,  # pyright: ignore[reportArgumentType]
        data_collator=DistillationCollator(0),
        callbacks=callbacks_of(training),
    )
    trainer.train()
    for weight in encoder_matrices(model).values():
        empty = (weight == 0).all(dim=1)
        assert int(empty.sum()) == round(0.25 * len(weight)) and not (weight[~empty] == 0).any()
    [pruning] = [each for each in trainer.callback_handler.callbacks if isinstance(each, PruningCallback)]
    assert pruning.sparsity == 0.25
    assert any(tmp_path.glob("checkpoint-*/pruning.state"))
