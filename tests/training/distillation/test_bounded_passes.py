"""Trainings and evaluations whose batches are split into passes: the losses, gradients and predictions of the whole."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from convolution_students import convolution, static
from transformers import BertConfig, BertForSequenceClassification, Trainer

from distiltune.errors import InputError
from distiltune.training.compression.config import QuantizationAwareConfig
from distiltune.training.compression.quantization_aware import QuantizationAwareTraining
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.tokenized import JoinedDataset, LabelledSplit, TokenizedDataset, from_rows
from distiltune.training.distillation.arguments import (
    DistillationTrainingArguments,
    argument_names,
    arguments_from_config,
)
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.distillation.lean_trainer import BoundedTrainer
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models import passes
from distiltune.training.ragged import Ragged
from distiltune.training.tasks import (
    MULTI_LABEL,
    QUESTION_ANSWERING,
    REGRESSION,
    SINGLE_LABEL,
    TOKEN_CLASSIFICATION,
)

NUM_ROWS, NUM_LABELS = 22, 4


def model_of(task=SINGLE_LABEL, *, layers=2, seed=0, dropout=0.0, **more) -> Any:
    torch.manual_seed(seed)
    names = list(task.fixed_outputs) or [f"label {number}" for number in range(NUM_LABELS)]
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        pad_token_id=0, **{**task.model_config(names), **more},
    )  # fmt: skip
    return task.model_class(config)(config).eval()


def texts(task=SINGLE_LABEL, *, num=NUM_ROWS, unlabelled=0) -> LabelledSplit:
    """Texts of 3 to 20 tokens with labels and logits of the task; the first ones have no label."""
    random = np.random.default_rng(0)
    lengths = random.integers(3, 21, num)
    rows = [random.integers(1, 40, length).astype(np.int32) for length in lengths]
    if task.of_windows:
        ends = [np.sort(random.integers(0, length, 2)) for length in lengths]
        logits = Ragged.of([random.standard_normal((n, 2)) for n in lengths], np.float32, (2,))
        return LabelledSplit(from_rows(rows, np.array(ends)), logits)
    if task.of_tokens:
        labels: Any = [random.integers(0, NUM_LABELS, length) for length in lengths]
        for row in labels:
            row[[0, -1]] = -100
        logits: Any = Ragged.of(
            [random.standard_normal((n, NUM_LABELS)) for n in lengths], np.float32, (NUM_LABELS,)
        )
        return LabelledSplit(from_rows(rows, Ragged.of(labels, np.int64, ())), logits)
    if task.has_label_sets:
        labels = random.integers(0, 2, (num, NUM_LABELS)).astype(np.float32)
    elif task.label_dtype == "float32":
        labels = random.standard_normal((num, NUM_LABELS)).astype(np.float32)
    else:
        labels = random.choice(NUM_LABELS, num, p=[0.6, 0.2, 0.1, 0.1])
        labels[:unlabelled] = -100
    logits = random.standard_normal((num, NUM_LABELS)).astype(np.float32)
    return LabelledSplit(from_rows(rows, labels), logits)


def trainer_of(
    path, task=SINGLE_LABEL, data=None, *, model=None, teacher=None, with_logits=True, callbacks=(), **more
):
    given = {
        "bf16": False, "use_cpu": True, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8,
        "num_train_epochs": 2, "learning_rate": 0.1, "optim": "sgd", "disable_tqdm": True, "save_strategy": "no",
        "logging_steps": 1, "report_to": "none", **more,
    }  # fmt: skip
    data = texts(task) if data is None else data
    return DistillationTrainer(
        model=model_of(task) if model is None else model,
        args=DistillationTrainingArguments(output_dir=str(path), **given),
        teacher_model=teacher,
        train_dataset=JoinedDataset([data], with_teacher=with_logits),
        eval_dataset=JoinedDataset([data], with_teacher=with_logits),
        data_collator=DistillationCollator(0),
        callbacks=list(callbacks),
        task=task,
    )


def trained(*given, **more):
    trainer = trainer_of(*given, **more)
    trainer.train()
    return trainer


def logged(trainer, *names):
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    return np.array([[entry[name] for name in (names or ("loss",))] for entry in entries])


def weights(trainer):
    return torch.cat([each.detach().flatten() for each in trainer.model.state_dict().values()])


@pytest.fixture
def num_passes(monkeypatch):
    """The number of passes of each batch, recorded when it is split."""
    found = []
    parts = BoundedTrainer.parts

    def counted(self, inputs, *, is_trained):
        made = parts(self, inputs, is_trained=is_trained)
        found.append(len(made))
        return made

    monkeypatch.setattr(BoundedTrainer, "parts", counted)
    return found


KINDS = {
    "labels and logits": {},
    "labels alone": {"alpha": 1.0},
    "unlabelled": {"data": texts(unlabelled=9), "alpha": 0.7},
    "class weights": {"balance": "class_weights", "data": texts(unlabelled=3)},
    "accumulated": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    "random order": {"train_sampling_strategy": "random"},
    "padded": {"pad_to_multiple_of": 8},
    "hidden states": {
        "hidden_loss_weight": 0.5, "losses": {"cosine": {"weight": 0.3}}, "teacher": model_of(layers=4, seed=7),
    },
    "on the device": {"data_on_device": True},
    **{each.name: {"task": each} for each in (MULTI_LABEL, REGRESSION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING)},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_weights_are_those_of_whole_batches(kind, tmp_path, num_passes):
    given = KINDS[kind]
    whole = trained(tmp_path, max_batch_tokens=10_000, **given)
    assert set(num_passes) == {1}
    num_passes.clear()
    split = trained(tmp_path, max_batch_tokens=40, **given)
    assert max(num_passes) >= 2
    np.testing.assert_allclose(logged(split), logged(whole), rtol=1e-4)
    torch.testing.assert_close(weights(split), weights(whole), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("make", [convolution, static], ids=lambda each: each.__name__)
def test_students_without_attention_normalize_the_whole_batch(make, quantized, tmp_path, num_passes):
    def run(bound):
        callbacks = [QuantizationAwareTraining(QuantizationAwareConfig(num_epochs=1))] if quantized else []
        model = make(dropout=0.3)
        return trained(tmp_path, model=model, max_batch_tokens=bound, callbacks=callbacks, seed=5)

    whole = run(10_000)
    assert set(num_passes) == {1}
    num_passes.clear()
    split = run(40)
    assert min(num_passes) >= 2
    np.testing.assert_allclose(logged(split), logged(whole), rtol=1e-4)
    torch.testing.assert_close(weights(split), weights(whole), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("max_batch_tokens", [None, 160])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_short_texts_are_learned_bit_for_bit_as_without_a_bound(
    max_batch_tokens, dropout, tmp_path, monkeypatch, num_passes
):
    found = trained(tmp_path, model=model_of(dropout=dropout), max_batch_tokens=max_batch_tokens, seed=5)
    assert set(num_passes) == {1}
    monkeypatch.setattr(BoundedTrainer, "training_step", Trainer.training_step)
    plain = trained(tmp_path, model=model_of(dropout=dropout), seed=5)
    names = ("loss", "cross_entropy", "distillation")
    assert logged(found, *names).tolist() == logged(plain, *names).tolist()
    assert torch.equal(weights(found), weights(plain))


def test_terms_are_logged_as_of_whole_batches(tmp_path):
    given = {"hidden_loss_weight": 0.5, "teacher": model_of(layers=4, seed=7)}
    names = ("loss", "cross_entropy", "distillation", "hidden_loss")
    whole, split = (trained(tmp_path, max_batch_tokens=each, **given) for each in (10_000, 30))
    np.testing.assert_allclose(logged(split, *names), logged(whole, *names), rtol=1e-4)
    loss, *terms = logged(split, *names).T
    np.testing.assert_allclose(loss, 0.5 * terms[0] + 0.5 * terms[1] + 0.5 * terms[2], rtol=1e-4)


def test_a_bound_below_a_text_runs_each_alone(tmp_path, num_passes):
    whole = trained(tmp_path, num_train_epochs=1)
    num_passes.clear()
    alone = trained(tmp_path, num_train_epochs=1, max_batch_tokens=1)
    assert num_passes == [8, 8, 6]
    torch.testing.assert_close(weights(alone), weights(whole), atol=1e-5, rtol=1e-4)


def test_without_a_bound_memory_limits_passes_and_it_is_logged(tmp_path, monkeypatch, num_passes, caplog):
    monkeypatch.setattr(passes, "bytes_of_passes", lambda _: 0)
    with caplog.at_level(logging.INFO, "distiltune"):
        trained(tmp_path, num_train_epochs=1)
    assert num_passes == [8, 8, 6]
    assert "8 texts of up to 20 tokens in 8 passes" in caplog.text


def test_free_memory_is_read_once_for_each_training(tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(passes, "bytes_of_passes", lambda _: reads.append(1) or 2**30)
    trainer = trained(tmp_path)
    assert len(reads) == 1
    trainer.evaluate()
    trainer.evaluate()
    assert len(reads) == 2, "a bound on passes without gradients"
    trainer.train()
    assert len(reads) == 3


# ---- Evaluation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task",
    [SINGLE_LABEL, MULTI_LABEL, TOKEN_CLASSIFICATION, QUESTION_ANSWERING],
    ids=lambda each: each.name,
)
@pytest.mark.parametrize("with_logits", [True, False])
def test_an_evaluation_finds_the_same_in_parts(task, with_logits, tmp_path, num_passes):
    teacher = None if with_logits else model_of(task, layers=3, seed=3)
    given = {"eval_with_teacher": True, "teacher": teacher, "with_logits": with_logits}
    whole, split = (trainer_of(tmp_path, task, max_batch_tokens=each, **given) for each in (10_000, 40))
    expected = whole.predict(whole.eval_dataset)
    num_passes.clear()
    found = split.predict(split.eval_dataset)
    assert max(num_passes) > 2
    kept = np.arange(20) < texts(task).tokens.lengths[:, None] if task.of_tokens else slice(None)
    np.testing.assert_allclose(found.predictions[kept], expected.predictions[kept], atol=1e-6)
    assert np.array_equal(found.label_ids, expected.label_ids)
    for name in ("test_loss", "test_distillation"):
        assert found.metrics[name] == pytest.approx(expected.metrics[name], rel=1e-5)


def test_texts_without_labels_are_predicted_in_parts(tmp_path):
    class Unlabelled(TokenizedDataset):
        def __getitem__(self, index):
            return {"input_ids": super().__getitem__(index)["input_ids"]}

    data = Unlabelled(texts().tokens)
    whole, split = (trainer_of(tmp_path, max_batch_tokens=each) for each in (10_000, 40))
    expected, found = (each.predict(data) for each in (whole, split))
    np.testing.assert_allclose(found.predictions, expected.predictions, atol=1e-6)
    assert found.label_ids is None


# ---- Arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", True])
def test_other_bounds_are_refused(value, tmp_path):
    with pytest.raises(InputError, match=r"max_batch_tokens is .*accepted: a whole number above 0, or null"):
        DistillationTrainingArguments(output_dir=str(tmp_path), max_batch_tokens=value)


def test_the_key_of_a_job_is_an_argument_of_its_trials_and_is_not_searched(tmp_path):
    def given(**training):
        return arguments_from_config(TrainingConfig(**training), str(tmp_path)).max_batch_tokens

    assert given() is None and TrainingConfig().batch_tokens is None
    assert given(max_batch_tokens=4096) == TrainingConfig(max_batch_tokens=4096).batch_tokens == 4096
    assert "max_batch_tokens" not in argument_names()


@pytest.mark.parametrize("longest", [8, 600])
def test_attention_without_dropout_stays_with_the_kernel_that_keeps_no_scores_for_long_texts(
    longest, tmp_path
):
    row = np.ones(longest, dtype=np.int32)
    data = LabelledSplit(from_rows([row, row[:3]], [0, 1]), np.zeros((2, NUM_LABELS), np.float32))
    trainer = trainer_of(tmp_path, data=data, dropout=0.0)
    used = trainer.model.config._attn_implementation
    assert used == ("eager" if longest < 512 else "sdpa")
    assert trainer.pass_limit(is_trained=True).shape.num_maps == (8 if longest < 512 else 1)


def test_a_model_that_is_no_transformer_is_trained_as_before(tmp_path):
    trainer = trainer_of(tmp_path)
    batch = {"other": torch.zeros(4, 2)}
    [part] = trainer.parts(batch, is_trained=True)
    assert part.batch is batch
    assert isinstance(trainer.bare_model(), BertForSequenceClassification)
