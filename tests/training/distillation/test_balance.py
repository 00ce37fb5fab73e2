"""Balanced training: the weighted loss against NumPy and torch, what the sampler draws, resuming, minority recall."""

import datasets
import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from distiltune.errors import ConfigError, InputError
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.sampling import (
    BalancedSampler,
    LengthGroupedSampler,
    balanced_rows,
    dataset_labels,
)
from distiltune.training.data.tokenized import JoinedDataset, LabelledSplit, TokenizedDataset, from_rows
from distiltune.training.distillation.arguments import (
    DistillationTrainingArguments,
    argument_names,
    arguments_from_config,
)
from distiltune.training.distillation.balance import class_weights
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.distillation.losses import cross_entropy
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.tasks import SINGLE_LABEL

NUM_LABELS, VOCABULARY, NUM_ROWS = 4, 40, 26
COLUMNS = ("labels", "label", "label_ids")


def bert(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=NUM_LABELS,
        pad_token_id=0,
    )
    return BertForSequenceClassification(config).eval()


def skewed(num_rows=NUM_ROWS, seed=0, shares=(0.7, 0.2, 0.1, 0.0)):
    """Texts of three of the four labels."""
    random = np.random.default_rng(seed)
    rows = [random.integers(1, VOCABULARY, random.integers(3, 12)).astype(np.int32) for _ in range(num_rows)]
    labels = random.choice(NUM_LABELS, num_rows, p=shares)
    labels[:3] = (0, 1, 2)
    return from_rows(rows, labels), random.normal(size=(num_rows, NUM_LABELS)).astype(np.float32) * 3


def with_transfer_set(num_rows=NUM_ROWS):
    """Labelled texts, and half as many that only a teacher labels."""
    (own, logits), (more, others) = skewed(num_rows), skewed(num_rows // 2, seed=1)
    unlabelled = from_rows([more.row(i) for i in range(len(more))])
    return JoinedDataset([LabelledSplit(own, logits), LabelledSplit(unlabelled, others)])


def trained(path, dataset, model=None, *, resume=None, **more):
    given = {
        "bf16": False,
        "use_cpu": True,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "adam_epsilon": 1e-4,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        **more,
    }
    args = DistillationTrainingArguments(output_dir=str(path), **given)
    trainer = DistillationTrainer(
        model=bert() if model is None else model,
        args=args,
        train_dataset=dataset,
        data_collator=DistillationCollator(0),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def losses(trainer, name="loss"):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def weights_of(model):
    return torch.cat([value.detach().flatten() for value in model.state_dict().values()])


# ---- Class weights --------------------------------------------------------------------------------------


def test_class_weights_are_those_of_scikit_learn():
    """n_samples / (n_classes * np.bincount(y)), over the classes that occur."""
    classes = np.repeat([0, 1, 3], [70, 25, 5])
    found = class_weights(np.concatenate([classes, [-100] * 40]), 4)
    np.testing.assert_allclose(found[[0, 1, 3]], 100 / (3 * np.array([70, 25, 5])), rtol=1e-6)
    assert found[2] == 1
    assert found[classes].mean() == pytest.approx(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_weighted_loss_is_that_of_numpy_and_of_torch(smoothing):
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(30, NUM_LABELS)) * 3, random.choice(NUM_LABELS, 30)
    labels[[4, 9]] = -100
    weights = class_weights(labels, NUM_LABELS).astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    known = np.flatnonzero(labels != -100)
    each = -(1 - smoothing) * weights[labels[known]] * logs[known, labels[known]]
    each -= smoothing / NUM_LABELS * (logs[known] * weights).sum(axis=1)
    given = torch.from_numpy(logits), torch.from_numpy(labels)
    by_class = torch.from_numpy(weights.astype(np.float32))
    found = SINGLE_LABEL.hard_loss(*given, label_smoothing=smoothing, class_weights=by_class)
    assert found.item() == pytest.approx(each.sum() / weights[labels[known]].sum(), rel=1e-5)
    own = torch.nn.CrossEntropyLoss(by_class, label_smoothing=smoothing)(given[0].float(), given[1])
    assert found.item() == pytest.approx(own.item(), rel=1e-6)
    whole = SINGLE_LABEL.hard_loss(*given, label_smoothing=smoothing, class_weights=by_class, num_items=50)
    assert whole.item() == pytest.approx(each.sum() / 50, rel=1e-5)


def test_a_batch_without_labels_has_no_weighted_loss():
    labels = torch.full((3,), -100)
    found = cross_entropy(torch.randn(3, NUM_LABELS), labels, class_weights=torch.ones(NUM_LABELS))
    assert found.item() == 0


def test_the_first_step_has_the_loss_of_the_formula(tmp_path):
    """One step over all texts: the hard loss is weighted, the soft loss is not, and unlabelled texts count 1."""
    dataset = with_transfer_set()
    common = {"per_device_train_batch_size": 64, "num_train_epochs": 1, "temperature": 2.0, "alpha": 0.3}
    plain = trained(tmp_path, dataset, **common)
    trainer = trained(tmp_path, dataset, balance="class_weights", **common)
    batch = DistillationCollator(0)([dataset[i] for i in range(len(dataset))])
    with torch.no_grad():
        logs = bert()(batch["input_ids"], batch["attention_mask"]).logits.double().log_softmax(-1).numpy()
    labels = batch["labels"].numpy()
    known = np.flatnonzero(labels != -100)
    weights = class_weights(labels, NUM_LABELS)[labels[known]]
    hard = -(weights * logs[known, labels[known]]).sum() / (weights.sum() + len(labels) - len(known))
    assert losses(trainer, "cross_entropy") == [pytest.approx(hard, rel=1e-5)]
    assert losses(trainer, "distillation") == pytest.approx(losses(plain, "distillation"), rel=1e-6)
    assert losses(trainer, "cross_entropy")[0] != pytest.approx(losses(plain, "cross_entropy")[0], rel=1e-3)
    assert losses(trainer) == [pytest.approx(0.3 * hard + 0.7 * losses(plain, "distillation")[0], rel=1e-5)]


@pytest.mark.parametrize("balance", ["class_weights", "sampler"])
def test_accumulation_changes_neither_loss_nor_weights(tmp_path, balance):
    """27 texts in steps of 8 as micro-batches of 2: the last step of an epoch and its last batch are ragged."""
    dataset = with_transfer_set(18)
    whole = trained(tmp_path, dataset, balance=balance)
    parts = trained(
        tmp_path,
        dataset,
        balance=balance,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
    )
    for name in ("loss", "cross_entropy", "distillation"):
        np.testing.assert_allclose(losses(parts, name), losses(whole, name), rtol=1e-4)
    torch.testing.assert_close(weights_of(parts.model), weights_of(whole.model), atol=2e-4, rtol=1e-3)


def test_equal_frequencies_leave_the_training_as_it_is(tmp_path):
    rows = [np.array([1, 5 + i, 2], dtype=np.int32) for i in range(16)]
    dataset = TokenizedDataset(from_rows(rows, [i % NUM_LABELS for i in range(16)]))
    plain, weighted = (
        trained(tmp_path, dataset, alpha=1.0, balance=balance) for balance in ("none", "class_weights")
    )
    torch.testing.assert_close(weights_of(weighted.model), weights_of(plain.model), atol=1e-6, rtol=1e-6)


def test_compute_loss_without_a_step_divides_by_the_weights_of_its_batch(tmp_path):
    split, _ = skewed()
    trainer = trained(tmp_path, TokenizedDataset(split), alpha=1.0, balance="class_weights", max_steps=1)
    batch = DistillationCollator(0)([TokenizedDataset(split)[i] for i in range(NUM_ROWS)])
    trainer.model.train()
    found = trainer.compute_loss(trainer.model, dict(batch))
    logits = trainer.model(batch["input_ids"], batch["attention_mask"]).logits
    by_class = torch.from_numpy(class_weights(split.labels, NUM_LABELS))
    assert found.item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, batch["labels"], by_class).item(), rel=1e-5
    )
    trainer.model.eval()  # evaluation is not weighted
    own = trainer.compute_loss(trainer.model, dict(batch)).item()
    logits = trainer.model(batch["input_ids"], batch["attention_mask"]).logits
    assert own == pytest.approx(torch.nn.functional.cross_entropy(logits, batch["labels"]).item(), rel=1e-5)


# ---- The sampler ----------------------------------------------------------------------------------------


def test_the_sampler_draws_every_class_equally_often_and_unlabelled_texts_once():
    classes = np.repeat([0, 1, 2, -100], [9000, 900, 100, 500])
    np.random.default_rng(0).shuffle(classes)
    drawn = balanced_rows(classes, np.random.default_rng(1))
    assert len(drawn) == len(classes)
    counts = {each: (classes[drawn] == each).sum() for each in (0, 1, 2)}
    # Each count is binomial: 10,000 draws with probability 1/3, a standard deviation of 47.
    assert all(abs(count - 10_000 / 3) < 5 * 47 for count in counts.values())
    unlabelled = drawn[classes[drawn] == -100]
    assert sorted(unlabelled) == np.flatnonzero(classes == -100).tolist()
    of_rarest = np.bincount(drawn, minlength=len(classes))[classes == 2]
    assert of_rarest.min() > 10, "every text of a class has the same chance"


@pytest.mark.parametrize("grouped", [True, False])
def test_the_draw_depends_on_seed_and_epoch_alone(grouped):
    classes, lengths = np.repeat([0, 1], [180, 20]), np.random.default_rng(0).integers(3, 40, 200)

    def sampler(seed=3):
        return LengthGroupedSampler(lengths, 8, seed, classes) if grouped else BalancedSampler(classes, seed)

    first = list(sampler())
    assert (len(first), len(sampler())) == (200, 200)
    torch.manual_seed(9)
    np.random.default_rng(9)
    assert list(sampler()) == first
    later = sampler()
    later.set_epoch(1)
    assert sorted(later) != sorted(first)
    assert sorted(sampler(4)) != sorted(first)
    assert 60 < (classes[first] == 1).sum() < 140
    if grouped:
        groups = [lengths[first[i : i + 8]] for i in range(0, 200, 8)]
        assert np.mean([np.ptp(group) for group in groups]) < 12


def test_samplers_of_few_or_unlabelled_texts():
    random = np.random.default_rng(0)
    assert balanced_rows(np.array([0]), random).tolist() == [0]
    assert balanced_rows(np.zeros(0, dtype=np.int64), random).tolist() == []
    assert sorted(balanced_rows(np.full(5, -100), random)) == list(range(5))
    assert set(balanced_rows(np.zeros(50, dtype=np.int64), random)) < set(range(50))


def test_labels_of_every_kind_of_dataset():
    split, _ = skewed()
    expected, rows = split.labels.tolist(), [TokenizedDataset(split)[i] for i in range(NUM_ROWS)]
    frame = datasets.Dataset.from_list([{**row, "label": row["labels"]} for row in rows])
    for dataset in (
        TokenizedDataset(split),
        rows,
        frame.remove_columns("label"),
        frame.remove_columns("labels"),
    ):
        assert np.asarray(dataset_labels(dataset, COLUMNS)).tolist() == expected
    joined = with_transfer_set()
    assert np.asarray(dataset_labels(joined, COLUMNS)).tolist() == expected + [-100] * (NUM_ROWS // 2)
    assert dataset_labels(frame.remove_columns(["label", "labels"]), COLUMNS) is None


# ---- Training -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"balance": "sampler"},
        pytest.param({"balance": "sampler", "train_sampling_strategy": "random"}, marks=pytest.mark.slow),
        {"balance": "class_weights", "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    ],
)
def test_a_resumed_training_ends_with_the_same_bits(tmp_path, more):
    """Resumed in the middle of the second of two epochs of five steps, with dropout."""
    common = {"save_strategy": "steps", "save_steps": 7, **more}
    whole = trained(tmp_path / "whole", with_transfer_set(), bert(dropout=0.2), **common)
    torch.manual_seed(123)
    checkpoint = tmp_path / "whole" / "checkpoint-7"
    model = BertForSequenceClassification.from_pretrained(checkpoint)
    resumed = trained(tmp_path / "resumed", with_transfer_set(), model, resume=str(checkpoint), **common)
    assert torch.equal(weights_of(resumed.model), weights_of(whole.model))
    assert losses(resumed)[-3:] == losses(whole)[-3:]


@pytest.fixture(scope="module")
def minority_recall(tmp_path_factory):
    """Recall of a label of 4 % of the texts, by balance; one token marks it in four of its five texts."""
    random = np.random.default_rng(5)

    def made(num_rows, share):
        labels = (random.random(num_rows) < share).astype(np.int64)
        rows = []
        for label in labels:
            ids = random.integers(8, VOCABULARY, 5)
            # Token 3 marks the rare label in 80 % of its texts, and is in 8 % of the others.
            ids[0] = 3 if random.random() < (0.8 if label else 0.08) else 4
            rows.append(ids.astype(np.int32))
        return from_rows(rows, labels)

    train, test = made(300, 0.04), made(200, 0.5)
    batch = DistillationCollator(0)([TokenizedDataset(test)[i] for i in range(len(test))])
    rare = test.labels == 1
    found = {}
    for balance in ("none", "class_weights", "sampler"):
        trainer = trained(
            tmp_path_factory.mktemp(balance),
            TokenizedDataset(train),
            alpha=1.0,
            balance=balance,
            num_train_epochs=2,
            learning_rate=2e-2,
            per_device_train_batch_size=25,
            logging_steps=100,
        )
        trainer.model.eval()
        with torch.no_grad():
            predicted = trainer.model(batch["input_ids"], batch["attention_mask"]).logits.argmax(-1).numpy()
        found[balance] = (predicted[rare] == 1).mean()
    return found


@pytest.mark.parametrize("balance", ["class_weights", "sampler"])
def test_the_recall_of_a_rare_label_rises(minority_recall, balance):
    assert minority_recall["none"] < 0.4
    assert minority_recall[balance] > minority_recall["none"] + 0.3


# ---- What is refused ------------------------------------------------------------------------------------


def test_an_unknown_balance_is_refused(tmp_path):
    message = "balance is 'weights'; accepted: none, class_weights, sampler"
    with pytest.raises(InputError, match=message):
        DistillationTrainingArguments(output_dir=str(tmp_path), balance="weights")
    with pytest.raises(ConfigError, match=message):
        arguments_from_config(TrainingConfig(), str(tmp_path), balance="weights")
    with pytest.raises(ConfigError, match="accepted: none, class_weights, sampler"):
        arguments_from_config(TrainingConfig(), str(tmp_path), balance=3)


def test_balance_is_a_training_key_and_may_be_searched(tmp_path):
    assert TrainingConfig().balance == "none"
    config = TrainingConfig(balance="sampler")
    assert arguments_from_config(config, str(tmp_path)).balance == "sampler"
    assert arguments_from_config(config, str(tmp_path), balance="class_weights").balance == "class_weights"
    assert "balance" in argument_names()


def test_what_cannot_be_balanced_is_refused(tmp_path):
    split, logits = skewed()
    unlabelled = TokenizedDataset(from_rows([split.row(i) for i in range(NUM_ROWS)]), logits)
    stream = datasets.Dataset.from_list([TokenizedDataset(split)[i] for i in range(3)]).to_iterable_dataset()
    no_labels = datasets.Dataset.from_list([{"input_ids": [1, 2], "teacher_logits": [0.0] * NUM_LABELS}])
    for dataset, more, message in (
        (unlabelled, {}, "balance is 'sampler', but no training text has a label"),
        (no_labels, {}, "balance is 'sampler', but no training text has a label"),
        (stream, {"max_steps": 1, "alpha": 1.0}, "balance is 'sampler', but a stream"),
        (
            TokenizedDataset(split, logits),
            {"train_sampling_strategy": "sequential"},
            "train_sampling_strategy.*'sequential'.*group_by_length, random",
        ),
    ):
        with pytest.raises(InputError, match=message):
            trained(tmp_path, dataset, balance="sampler", **more)


def test_a_task_without_classes_is_refused(tmp_path):
    class Several(type(SINGLE_LABEL)):
        name = "several"

        def text_classes(self, labels):
            return None

    split, _ = skewed()
    args = DistillationTrainingArguments(output_dir=str(tmp_path), balance="class_weights", alpha=1.0)
    with pytest.raises(InputError, match="no single class in the task several; accepted: 'none'"):
        DistillationTrainer(model=bert(), args=args, train_dataset=TokenizedDataset(split), task=Several())
