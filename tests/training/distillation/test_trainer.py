"""The trainer on tiny models: what it learns from, what it counts, what it logs, how it resumes."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    EarlyStoppingCallback,
    HfArgumentParser,
    RobertaConfig,
    RobertaForSequenceClassification,
    Trainer,
    TrainerCallback,
)

from distiltune.errors import ConfigError, InputError, ModelError
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.sampling import LengthGroupedSampler, dataset_lengths
from distiltune.training.data.tokenized import TokenizedDataset, from_rows
from distiltune.training.distillation.arguments import (
    DistillationTrainingArguments,
    argument_names,
    arguments_from_config,
)
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.distillation.losses import distillation_loss
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models.first_token import first_token_in_last_layer
from distiltune.training.models.inference import compute_logits
from distiltune.training.models.trainable_embedding_rows import train_used_rows

NUM_LABELS, VOCABULARY, NUM_ROWS = 4, 40, 22


def _config(layers=2, width=16, dropout=0.0, **more):
    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=NUM_LABELS,
        pad_token_id=0,
        **more,
    )


def _bert(seed=0, **more):
    torch.manual_seed(seed)
    return BertForSequenceClassification(_config(**more)).eval()


@pytest.fixture
def teacher():
    return _bert(seed=9, layers=4, initializer_range=0.5)


class _Rows(Dataset):
    """A dataset like TokenizedDataset: rows of token ids and labels, with known lengths."""

    def __init__(self, rows, with_logits):
        keep = ("input_ids", "labels", *(["teacher_logits"] if with_logits else []))
        self.rows = [{name: row[name] for name in keep} for row in rows]
        self.lengths = np.array([len(row["input_ids"]) for row in rows])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


@pytest.fixture
def rows(teacher):
    random = np.random.default_rng(0)
    made = [
        {
            "input_ids": random.integers(1, VOCABULARY, random.integers(3, 12)).tolist(),
            "labels": int(random.integers(0, NUM_LABELS)),
        }
        for _ in range(NUM_ROWS)
    ]
    for row in made:
        with torch.no_grad():
            row["teacher_logits"] = teacher(torch.tensor([row["input_ids"]])).logits[0].numpy()
    return made


def _args(path, **more):
    given = {
        "output_dir": str(path),
        "bf16": False,
        "use_cpu": True,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        **more,
    }
    return DistillationTrainingArguments(**given)


def _weights(model):
    return torch.cat([value.detach().flatten() for value in model.state_dict().values()])


def _trained(path, rows, *, with_logits=True, teacher_model=None, model=None, **more):
    trainer = DistillationTrainer(
        model=_bert() if model is None else model,
        args=_args(path, **more),
        teacher_model=teacher_model,
        train_dataset=_Rows(rows, with_logits),
        eval_dataset=_Rows(rows, with_logits),
    )
    trainer.train()
    return trainer


def _losses(trainer, name="loss"):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


# ---- The teacher ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bf16", [False, True])
def test_online_and_cached_teacher_give_the_same_loss(tmp_path, rows, teacher, bf16):
    cached = _trained(tmp_path, rows, bf16=bf16)
    online = _trained(tmp_path, rows, with_logits=False, teacher_model=teacher, bf16=bf16)
    # In bf16 the weights of later steps amplify the last bit of the logits: the first losses are compared.
    num_steps = 1 if bf16 else len(_losses(cached))
    np.testing.assert_allclose(_losses(cached)[:num_steps], _losses(online)[:num_steps], atol=1e-5)
    if not bf16:
        torch.testing.assert_close(_weights(cached.model), _weights(online.model), atol=1e-4, rtol=1e-4)


def test_first_loss_is_the_formula(tmp_path, rows):
    trainer = _trained(tmp_path, rows, per_device_train_batch_size=NUM_ROWS, num_train_epochs=1, alpha=0.3)
    model, batch = _bert(), DistillationCollator(0)(_Rows(rows, True).rows)
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    expected = distillation_loss(logits, batch["teacher_logits"], batch["labels"], alpha=0.3, temperature=4)
    assert _losses(trainer) == [pytest.approx(expected.item(), abs=1e-6)]


class _MustNotRun(BertForSequenceClassification):
    def forward(self, *args, **kwargs):
        raise AssertionError("the teacher was run")


def test_alpha_one_runs_no_teacher(tmp_path, rows):
    with_teacher = _trained(
        tmp_path,
        rows,
        with_logits=False,
        teacher_model=_MustNotRun(_config()),
        alpha=1.0,
        eval_strategy="epoch",
    )
    without = _trained(tmp_path, rows, with_logits=False, alpha=1.0, eval_strategy="epoch")
    assert torch.equal(_weights(with_teacher.model), _weights(without.model))
    assert not _losses(without, "distillation")


def test_a_cached_column_is_used_instead_of_the_teacher(tmp_path, rows):
    _trained(tmp_path, rows, teacher_model=_MustNotRun(_config()))


def test_no_teacher_and_no_column_is_one_clear_error(tmp_path, rows):
    with pytest.raises(InputError, match=r"alpha is 0\.5.*teacher_logits.*set alpha to 1"):
        DistillationTrainer(model=_bert(), args=_args(tmp_path, alpha=0.5), train_dataset=_Rows(rows, False))
    frame = datasets.Dataset.from_list(_Rows(rows, False).rows)
    with pytest.raises(InputError, match="teacher_logits"):
        DistillationTrainer(model=_bert(), args=_args(tmp_path), train_dataset=frame)


def test_no_column_in_a_stream_is_found_at_the_first_step(tmp_path, rows):
    stream = datasets.Dataset.from_list(_Rows(rows, False).rows).to_iterable_dataset()
    stream = stream.map(lambda row: row)
    trainer = DistillationTrainer(model=_bert(), args=_args(tmp_path, max_steps=2), train_dataset=stream)
    with pytest.raises(InputError, match="teacher_logits"):
        trainer.train()


def test_labels_in_another_order_are_refused(tmp_path, rows, teacher):
    names = ["a", "b", "c", "d"]
    student = _bert()
    student.config.id2label = dict(enumerate(names))
    teacher.config.id2label = dict(enumerate(reversed(names)))
    with pytest.raises(ModelError, match="different order"):
        DistillationTrainer(model=student, args=_args(tmp_path), teacher_model=teacher)


def test_logits_of_other_labels_are_refused(tmp_path, rows):
    for row in rows:
        row["teacher_logits"] = row["teacher_logits"][:-1]
    with pytest.raises(InputError, match="same examples and labels"):
        _trained(tmp_path, rows)


def test_unlabelled_texts_can_be_distilled(tmp_path, rows):
    unlabelled = [{**row, "labels": -100} for row in rows]
    trainer = _trained(tmp_path, unlabelled, alpha=0.0)
    assert np.isfinite(_losses(trainer)).all() and _losses(trainer)[0] > 0
    frame = datasets.Dataset.from_list(
        [{"input_ids": row["input_ids"], "teacher_logits": row["teacher_logits"]} for row in rows]
    )
    same = DistillationTrainer(model=_bert(), args=_args(tmp_path, alpha=0.0), train_dataset=frame)
    same.train()
    torch.testing.assert_close(_weights(same.model), _weights(trainer.model))


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_hidden_states_of_matched_layers(tmp_path, rows, teacher, family):
    torch.manual_seed(0)
    if family == "bert":
        student = _bert()
    elif family == "distilbert":
        config = DistilBertConfig(
            vocab_size=VOCABULARY, dim=16, n_layers=2, n_heads=2, hidden_dim=32, num_labels=NUM_LABELS
        )
        student = DistilBertForSequenceClassification(config)
    else:
        config = RobertaConfig(**{**_config().to_dict(), "model_type": "roberta", "pad_token_id": 0})
        student = RobertaForSequenceClassification(config)
    trainer = _trained(
        tmp_path,
        rows,
        with_logits=False,
        teacher_model=teacher,
        model=student,
        hidden_loss_weight=0.7,
        alpha=0.5,
    )
    first = trainer.state.log_history[0]
    expected = 0.5 * first["cross_entropy"] + 0.5 * first["distillation"] + 0.7 * first["hidden_loss"]
    assert first["hidden_loss"] > 0
    assert first["loss"] == pytest.approx(expected, rel=1e-4)


def test_hidden_state_loss_needs_a_teacher_of_the_same_width(tmp_path, rows, teacher):
    for more, teacher_model, message in (
        ({}, None, "no teacher_model"),
        ({}, _bert(width=8), "equal widths: the student's is 16, the teacher's 8"),
        ({"hidden_layers": [1]}, teacher, "accepted: 2 numbers"),
        ({"hidden_layers": [1, 4]}, teacher, "each from 0 to 3"),
    ):
        with pytest.raises(InputError, match=message):
            DistillationTrainer(
                model=_bert(),
                args=_args(tmp_path, hidden_loss_weight=1.0, **more),
                teacher_model=teacher_model,
                train_dataset=_Rows(rows, True),
            )


# ---- Steps and precision --------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_accumulation_changes_neither_loss_nor_weights(tmp_path, rows, alpha):
    """22 rows in steps of 8: the last step of an epoch is ragged (6), and so is its last micro-batch."""
    whole = _trained(tmp_path, rows, alpha=alpha)
    for size, steps in ((4, 2), (2, 4), (1, 8)):
        parts = _trained(
            tmp_path, rows, alpha=alpha, per_device_train_batch_size=size, gradient_accumulation_steps=steps
        )
        np.testing.assert_allclose(_losses(parts), _losses(whole), rtol=1e-4)
        np.testing.assert_allclose(_losses(parts, "grad_norm"), _losses(whole, "grad_norm"), rtol=1e-3)
        torch.testing.assert_close(_weights(parts.model), _weights(whole.model), atol=2e-4, rtol=1e-3)
        for name in ("cross_entropy", "distillation"):
            np.testing.assert_allclose(_losses(parts, name), _losses(whole, name), rtol=1e-4)


@pytest.mark.parametrize("strategy", ["group_by_length", "random"])
def test_logged_parts_add_up_to_the_loss(tmp_path, rows, strategy):
    trainer = _trained(tmp_path, rows, alpha=0.3, logging_steps=2, train_sampling_strategy=strategy)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 3
    for entry in logged:
        total = 0.3 * entry["cross_entropy"] + 0.7 * entry["distillation"]
        assert entry["loss"] == pytest.approx(total, rel=1e-4)


def test_bf16_runs_the_student_in_bf16_and_the_loss_in_fp32(tmp_path, rows):
    student, seen = _bert(), set()
    student.classifier.register_forward_hook(lambda module, given, result: seen.add(result.dtype))
    trainer = _trained(tmp_path, rows, model=student, bf16=True)
    assert seen == {torch.bfloat16}
    batch = DistillationCollator(0)(_Rows(rows, True).rows)
    trainer.model.train()
    assert trainer.compute_loss(trainer.model_wrapped, batch).dtype == torch.float32
    assert {value.dtype for value in trainer.model.parameters()} == {torch.float32}
    full = _trained(tmp_path, rows)
    np.testing.assert_allclose(_losses(trainer)[:3], _losses(full)[:3], rtol=0.05)


def test_frozen_embeddings_stay_as_they_are(tmp_path, rows):
    trainer = _trained(tmp_path, rows, freeze_embeddings=True)
    before, after = _bert().state_dict(), trainer.model.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if ".embeddings." in name}


def test_dropout_of_a_training_is_not_that_of_its_checkpoint(tmp_path, rows):
    trainer = _trained(tmp_path / "none", rows, model=_bert(dropout=0.4), dropout=0.0)
    np.testing.assert_allclose(_losses(trainer), _losses(_trained(tmp_path / "plain", rows)), rtol=1e-5)
    assert trainer.model.config.hidden_dropout_prob == 0.4
    assert _losses(_trained(tmp_path / "some", rows, dropout=0.4)) != pytest.approx(
        _losses(trainer), rel=1e-3
    )
    with pytest.raises(InputError, match=r"dropout is 1; accepted: a number from 0 to below 1"):
        _args(tmp_path, dropout=1)


def test_a_loss_that_is_not_a_number_is_shown(tmp_path, rows):
    rows[3]["teacher_logits"] = np.full(NUM_LABELS, np.inf, dtype=np.float32)
    trainer = _trained(tmp_path, rows, eval_strategy="epoch")
    assert np.isnan(_losses(trainer)[-1])
    assert np.isnan(_losses(trainer, "eval_loss")[-1])


@pytest.mark.parametrize("max_grad_norm", [0.0, 1e-3, 1e3])
def test_clipping_gives_the_weights_that_transformers_gives(tmp_path, rows, max_grad_norm):
    """Alpha 1, no grouping: plain fine-tuning, so transformers' own trainer must agree to the bit."""
    more = {"alpha": 1.0, "max_grad_norm": max_grad_norm, "train_sampling_strategy": "sequential"}
    ours = _trained(tmp_path, rows, with_logits=False, **more)
    plain = Trainer(
        model=_bert(),
        args=_args(tmp_path, **more),
        train_dataset=_Rows(rows, False),
        data_collator=DistillationCollator(0),
    )
    plain.train()
    torch.testing.assert_close(_weights(ours.model), _weights(plain.model), atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("forget_graphs")
def test_a_compiled_student_learns_the_same(tmp_path, rows):
    """As a search trains it; Dynamo's graphs are run uncompiled, since not every machine has a compiler."""

    def learned(path, **more):
        model = _bert()
        train_used_rows(model, np.concatenate([row["input_ids"] for row in rows]))
        first_token_in_last_layer(model)
        trainer = _trained(path, rows, model=model, save_strategy="epoch", **more)
        saved = BertForSequenceClassification.from_pretrained(path / "checkpoint-6")
        return _losses(trainer), _weights(saved)

    graphs = torch._dynamo.utils.counters["stats"]
    losses, weights = learned(tmp_path / "plain")
    assert not graphs
    compiled = learned(tmp_path / "compiled", torch_compile=True, torch_compile_backend="eager")
    assert graphs["unique_graphs"] > 0
    np.testing.assert_allclose(compiled[0], losses, rtol=1e-5)
    torch.testing.assert_close(compiled[1], weights, atol=1e-5, rtol=1e-4)


@pytest.fixture
def forget_graphs():
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


# ---- What a Trainer accepts -----------------------------------------------------------------------------


class _Recorder(TrainerCallback):
    """Count the steps, and stop after four."""

    num_steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.num_steps += 1
        control.should_training_stop = self.num_steps == 4


def test_callbacks_and_early_stopping_of_transformers(tmp_path, rows):
    recorder = _Recorder()
    trainer = DistillationTrainer(
        model=_bert(), args=_args(tmp_path), train_dataset=_Rows(rows, True), callbacks=[recorder]
    )
    trainer.train()
    assert recorder.num_steps == trainer.state.global_step == 4

    stopping = DistillationTrainer(
        model=_bert(),
        args=_args(
            tmp_path / "stopping",
            num_train_epochs=9,
            learning_rate=0.0,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
        ),
        train_dataset=_Rows(rows, True),
        eval_dataset=_Rows(rows, True),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )
    stopping.train()
    assert stopping.state.epoch == 3  # the accuracy of the first epoch never improves


def test_given_metrics_replace_accuracy(tmp_path, rows):
    def compute(evaluated):
        predicted = evaluated.predictions.argmax(axis=1)
        return {"num_zero": int((predicted == 0).sum()), "num_texts": len(evaluated.label_ids)}

    trainer = DistillationTrainer(
        model=_bert(), args=_args(tmp_path), eval_dataset=_Rows(rows, True), compute_metrics=compute
    )
    found = trainer.evaluate()
    predicted = trainer.predict(_Rows(rows, True)).predictions.argmax(axis=1)
    assert found["eval_num_zero"] == (predicted == 0).sum()
    assert found["eval_num_texts"] == NUM_ROWS
    assert "eval_accuracy" not in found


def test_a_given_optimizer_trains_the_student(tmp_path, rows):
    """Plain gradient descent, one step over all rows: the weights move by the learning rate times the gradient."""
    model, expected = _bert(), _bert()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = DistillationTrainer(
        model=model,
        args=_args(tmp_path, max_steps=1, per_device_train_batch_size=NUM_ROWS, max_grad_norm=0.0, alpha=0.3),
        train_dataset=_Rows(rows, True),
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)),
    )
    trainer.train()
    batch = DistillationCollator(0)(_Rows(rows, True).rows)
    logits = expected(batch["input_ids"], batch["attention_mask"]).logits
    loss = distillation_loss(logits, batch["teacher_logits"], batch["labels"], alpha=0.3, temperature=4)
    loss.backward()
    with torch.no_grad():
        for each in expected.parameters():
            each -= 0.5 * each.grad if each.grad is not None else 0
    torch.testing.assert_close(_weights(model), _weights(expected), rtol=1e-4, atol=1e-6)


# ---- Resume ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "at"), [("epoch", 3), ("steps", 4)])
def test_resumed_training_ends_with_the_same_bits(tmp_path, rows, teacher, strategy, at):
    """At the end of the first epoch, and in the middle of the second; with dropout and evaluation."""
    more = {"save_strategy": strategy, "save_steps": 4, "num_train_epochs": 3, "eval_strategy": "epoch"}
    whole = _trained(tmp_path / "whole", rows, model=_bert(dropout=0.2), **more)

    torch.manual_seed(123)  # the resumed process begins with another random state
    checkpoint = tmp_path / "whole" / f"checkpoint-{at}"
    resumed = DistillationTrainer(
        model=BertForSequenceClassification.from_pretrained(checkpoint),
        args=_args(tmp_path / "resumed", **more),
        train_dataset=_Rows(rows, True),
        eval_dataset=_Rows(rows, True),
    )
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == whole.state.global_step == 9
    assert torch.equal(_weights(whole.model), _weights(resumed.model))


def test_checkpoints_contain_only_the_student(tmp_path, rows, teacher):
    _trained(tmp_path, rows, with_logits=False, teacher_model=teacher, save_strategy="epoch")
    saved = BertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-6")
    assert saved.config.num_hidden_layers == 2
    size = (tmp_path / "checkpoint-6" / "model.safetensors").stat().st_size
    assert size < 4 * saved.num_parameters() + 10_000
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert {"loss", "cross_entropy", "distillation"} <= set(state["log_history"][0])


# ---- Evaluation -----------------------------------------------------------------------------------------


def _exact_cross_entropy(model, rows):
    model.eval()
    with torch.no_grad():
        each = [
            torch.nn.functional.cross_entropy(
                model(torch.tensor([row["input_ids"]])).logits, torch.tensor([row["labels"]])
            )
            for row in rows
        ]
    return float(torch.stack(each).mean())


def test_evaluation_has_the_same_names_with_and_without_teacher(tmp_path, rows, teacher):
    found = []
    for with_logits, teacher_model in ((False, _MustNotRun(_config())), (True, None), (False, None)):
        trainer = DistillationTrainer(
            model=_bert(),
            args=_args(tmp_path),
            teacher_model=teacher_model,
            eval_dataset=_Rows(rows, with_logits),
        )
        found.append(trainer.evaluate())
    names = [{name for name in metrics if "time" not in name and "second" not in name} for metrics in found]
    expected = {"epoch", "eval_loss", "eval_accuracy", "eval_in_scope_accuracy"}
    assert names[0] == names[1] == names[2] == expected
    expected = _exact_cross_entropy(_bert(), rows)
    assert [metrics["eval_loss"] for metrics in found] == [pytest.approx(expected, rel=1e-5)] * 3


def test_evaluation_with_teacher_adds_the_distillation_loss(tmp_path, rows, teacher):
    values = []
    for with_logits, teacher_model in ((False, teacher), (True, None)):
        trainer = DistillationTrainer(
            model=_bert(),
            args=_args(tmp_path, eval_with_teacher=True, temperature=3.0),
            teacher_model=teacher_model,
            eval_dataset=_Rows(rows, with_logits),
        )
        values.append(trainer.evaluate()["eval_distillation"])
    batch = DistillationCollator(0)(_Rows(rows, True).rows)
    logits = _bert()(batch["input_ids"], batch["attention_mask"]).logits
    expected = distillation_loss(logits, batch["teacher_logits"], None, alpha=0, temperature=3)
    assert values == [pytest.approx(expected.item(), rel=1e-5)] * 2


@pytest.mark.parametrize("labelled", [True, False])
def test_predictions_come_in_the_order_of_the_dataset(tmp_path, rows, labelled):
    dataset = _Rows(rows, True)
    if not labelled:
        for row in dataset.rows:
            del row["labels"]
    model = _bert()
    output = DistillationTrainer(model=model, args=_args(tmp_path)).predict(dataset)
    with torch.no_grad():
        expected = [model(torch.tensor([row["input_ids"]])).logits[0].numpy() for row in rows]
    np.testing.assert_allclose(output.predictions, expected, atol=1e-5)
    if labelled:
        assert output.label_ids.tolist() == [row["labels"] for row in rows]


# ---- Data -----------------------------------------------------------------------------------------------


def test_a_hub_dataset_with_plain_columns(tmp_path, rows):
    frame = datasets.Dataset.from_list(
        [
            {
                "text": "not a model input",
                "input_ids": row["input_ids"],
                "attention_mask": [1] * len(row["input_ids"]),
                "token_type_ids": [0] * len(row["input_ids"]),
                "label": row["labels"],
                "teacher_logits": row["teacher_logits"],
            }
            for row in rows
        ]
    )
    events = []

    class Watch(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            events.append(dict(logs or {}))

    trainer = DistillationTrainer(
        model=_bert(),
        args=_args(tmp_path, eval_strategy="epoch"),
        train_dataset=frame,
        eval_dataset=frame,
        callbacks=[Watch()],
    )
    trainer.train()
    same = _trained(tmp_path, rows)
    torch.testing.assert_close(_weights(trainer.model), _weights(same.model))
    assert any("distillation" in event for event in events)


def test_read_only_rows_are_collated():
    logits = np.arange(8, dtype=np.float32).reshape(2, 4)
    ids = [np.array([5, 6, 7], dtype=np.int32), np.array([8], dtype=np.int32)]
    for array in (logits, *ids):
        array.flags.writeable = False
    rows = [{"input_ids": ids[i], "labels": i, "teacher_logits": logits[i]} for i in range(2)]
    batch = DistillationCollator(pad_token_id=1, pad_to_multiple_of=4)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 1], [8, 1, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["labels"].tolist() == [0, 1] and batch["labels"].dtype == torch.int64
    assert batch["teacher_logits"].tolist() == logits.tolist()
    with pytest.raises(InputError, match="tokenize"):
        DistillationCollator(0)([{"text": "raw"}])


def test_groups_by_length_cover_everything_once_and_depend_on_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(3, 40, 1003)
    sampler = LengthGroupedSampler(lengths, group_size=8, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(1003)) and len(sampler) == 1003
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    groups = [lengths[first[i : i + 8]] for i in range(0, 1000, 8)]
    assert np.mean([group.max() - group.min() for group in groups]) < 4
    assert groups[0].max() == lengths.max()
    assert list(LengthGroupedSampler(lengths[:3], group_size=8, seed=1)) != []
    assert list(LengthGroupedSampler(lengths[:0], group_size=8, seed=1)) == []


def test_lengths_of_every_kind_of_dataset(rows):
    expected = [len(row["input_ids"]) for row in rows]
    plain = _Rows(rows, False)
    frame = datasets.Dataset.from_list(plain.rows)
    picked = [5, 0, 7]
    assert dataset_lengths(plain).tolist() == expected
    assert dataset_lengths(plain.rows).tolist() == expected
    assert dataset_lengths(frame).tolist() == expected
    assert dataset_lengths(frame.select(picked)).tolist() == [expected[i] for i in picked]
    assert dataset_lengths(frame.add_column("length", list(range(NUM_ROWS)))).tolist() == list(
        range(NUM_ROWS)
    )


# ---- Arguments ------------------------------------------------------------------------------------------


def test_arguments_are_parsed_from_a_command_line(tmp_path):
    parser = HfArgumentParser(DistillationTrainingArguments)
    given = [
        "--output_dir",
        str(tmp_path),
        "--alpha",
        "0.2",
        "--temperature",
        "7",
        "--hidden_layers",
        "1",
        "3",
    ]
    (args,) = parser.parse_args_into_dataclasses(given)
    assert (args.alpha, args.temperature, args.hidden_layers) == (0.2, 7, [1, 3])
    assert isinstance(args.bf16, bool)
    (args,) = parser.parse_args_into_dataclasses([*given, "--bf16", "false", "--freeze_embeddings"])
    assert args.bf16 is False and args.freeze_embeddings is True
    (args,) = parser.parse_dict({"output_dir": str(tmp_path), "bf16": True})
    assert args.bf16 is True
    assert json.loads(args.to_json_string())["temperature"] == 4.0


def test_defaults_are_fast(tmp_path):
    args = DistillationTrainingArguments(output_dir=str(tmp_path))
    assert args.optim == "adamw_torch_fused"
    assert args.train_sampling_strategy == "group_by_length"
    assert args.report_to == []
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if not torch.cuda.is_available():
        assert args.bf16 == ("avx512_bf16" in flags or "amx_bf16" in flags)
        assert args.use_cpu and not args.dataloader_pin_memory


@pytest.mark.parametrize(
    ("name", "value"), [("alpha", 1.5), ("alpha", -0.1), ("temperature", 0), ("hidden_loss_weight", -1)]
)
def test_values_out_of_range_are_refused(tmp_path, name, value):
    with pytest.raises(InputError, match=f"{name} is {value}; accepted"):
        DistillationTrainingArguments(output_dir=str(tmp_path), **{name: value})


def test_arguments_from_a_specification(tmp_path):
    config = TrainingConfig(alpha=0.2, batch_size=16, arguments={"max_grad_norm": 2.0, "learning_rate": 1e-3})
    args = arguments_from_config(
        config, str(tmp_path), temperature=9, warmup_ratio=0.25, batch_size=32, eval_strategy="epoch"
    )
    assert (args.alpha, args.temperature, args.learning_rate, args.max_grad_norm) == (0.2, 9, 1e-3, 2.0)
    assert (args.per_device_train_batch_size, args.per_device_eval_batch_size) == (32, 256)
    assert args.get_warmup_steps(100) == 25
    assert args.output_dir == str(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"temprature": 3}, "did you mean 'temperature'"),
        ({"max_length": 32}, r"training\.max_length"),
        ({"alpha": 2}, "alpha is 2; accepted"),
        ({"batch_size": 2, "per_device_train_batch_size": 3}, "given twice"),
        ({"optim": "adamm"}, "adamm"),
    ],
)
def test_faulty_arguments_are_refused(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        arguments_from_config(TrainingConfig(), str(tmp_path), **overrides)
    if "max_length" not in overrides:
        with pytest.raises(ConfigError, match=message):
            arguments_from_config(TrainingConfig(arguments=overrides), str(tmp_path))


def test_names_that_a_search_may_vary():
    names = argument_names()
    assert {
        "alpha",
        "temperature",
        "num_train_epochs",
        "learning_rate",
        "batch_size",
        "warmup_ratio",
    } <= names
    assert {"weight_decay", "hidden_loss_weight", "freeze_embeddings"} <= names
    assert not {"output_dir", "report_to", "save_strategy", "max_length", "push_to_hub"} & names


def test_token_types_of_pairs_are_trained_with(tmp_path):
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, VOCABULARY, length).astype(np.int32) for length in (6, 9, 4, 7)]
    types = [(np.arange(len(row)) >= 3).astype(np.int8) for row in rows]
    split = from_rows(rows, np.array([0, 1, 2, 3]), types)
    model = _bert(initializer_range=0.5)
    known = compute_logits(model, split, pad_token_id=0, num_threads=1)
    bare = compute_logits(model, from_rows(rows, split.labels), pad_token_id=0, num_threads=1)
    losses = []
    for logits in (known, bare):
        args = _args(tmp_path, num_train_epochs=1, learning_rate=1e-8, alpha=0.0)
        trainer = DistillationTrainer(
            model=_bert(initializer_range=0.5), args=args, train_dataset=TokenizedDataset(split, logits)
        )
        trainer.train()
        losses.append(_losses(trainer)[0])
    assert losses[0] < 1e-6 and losses[1] > 0.01
