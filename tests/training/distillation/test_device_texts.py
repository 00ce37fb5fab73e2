"""Training texts on the device: the batches, losses and weights of the collator; the CPU stands in for the device."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_gpus import needs_gpu
from models import tiny_classifier
from searches import TRAINING, linked, split, trial_inputs
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from distiltune.storage.store import Store
from distiltune.training.checkpoints.load import load_model
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.sampling import BalancedSampler, LengthGroupedSampler, LengthSortedSampler
from distiltune.training.data.tokenized import (
    EXAMPLES,
    IGNORED_LABEL,
    JoinedDataset,
    LabelledSplit,
    TokenizedDataset,
    selected,
)
from distiltune.training.distillation import device_texts as module
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.device_texts import DeviceTexts, device_texts
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models.attention_mask import PADDED
from distiltune.training.ragged import Ragged
from distiltune.training.tasks import TOKEN_CLASSIFICATION

CPU = torch.device("cpu")
COLLATOR = DistillationCollator(0)


def labelled(num_rows: int, seed: int, *, with_logits: bool = True, labels=None) -> LabelledSplit:
    """Texts with read-only arrays, as Ray shares them."""
    tokens = split(num_rows, seed)
    tokens = tokens if labels is None else replace(tokens, labels=labels(num_rows))
    logits = np.random.default_rng(seed).standard_normal((num_rows, 4), dtype=np.float32)
    for array in (tokens.input_ids, tokens.offsets, tokens.labels, logits):
        array.setflags(write=False)
    return LabelledSplit(tokens, logits if with_logits else None)


def paired(texts: LabelledSplit) -> LabelledSplit:
    """The same texts as pairs: the tokens after the first belong to the second text."""
    tokens = texts.tokens
    types = np.ones(len(tokens.input_ids), dtype=np.int8)
    types[tokens.offsets[:-1]] = 0
    return replace(texts, tokens=replace(tokens, token_types=types))


def worded(texts: LabelledSplit, *, with_logits: bool = True) -> LabelledSplit:
    """The same texts with a label and logits for each token; some tokens begin no word."""
    tokens, random = texts.tokens, np.random.default_rng(len(texts))
    labels = random.integers(-3, 4, len(tokens.input_ids))
    labels[labels < -1] = IGNORED_LABEL
    logits = random.standard_normal((len(labels), 4), dtype=np.float32)
    rows = Ragged(labels, tokens.offsets)
    return LabelledSplit(replace(tokens, labels=rows), rows.like(logits) if with_logits else None)


def joined(*parts: LabelledSplit) -> JoinedDataset:
    return JoinedDataset(parts or (labelled(40, 1), labelled(23, 2)))


SETS = {
    "two-splits": lambda: joined(),
    "one-split": lambda: joined(labelled(33, 3)),
    "not-joined": lambda: TokenizedDataset(split(33, 3)),
    "without-logits": lambda: joined(labelled(33, 3, with_logits=False), labelled(7, 4, with_logits=False)),
    "part-of-a-split": lambda: joined(labelled(33, 3).first(20)),
    "selected": lambda: TokenizedDataset(selected(split(33, 3), [5, 1, 30, 1])),
    "float-labels": lambda: joined(labelled(20, 5, labels=lambda n: np.linspace(-1, 1, n))),
    "several-labels": lambda: joined(labelled(20, 5, labels=lambda n: np.ones((n, 3), dtype=np.float32))),
    "missing-numbers": lambda: joined(
        labelled(20, 5, labels=lambda n: np.where(np.arange(n) % 2, np.nan, 1.5))
    ),
    "pairs": lambda: joined(paired(labelled(20, 5)), paired(labelled(9, 6)).first(4)),
    "one-text": lambda: joined(labelled(1, 6)),
    "words": lambda: joined(worded(labelled(30, 5)), worded(labelled(9, 6)).first(4)),
    "words-without-logits": lambda: joined(worded(labelled(20, 5), with_logits=False)),
    "words-selected": lambda: TokenizedDataset(selected(worded(labelled(33, 3)).tokens, [5, 1, 30, 1])),
}


@pytest.mark.parametrize("multiple", [None, 8])
@pytest.mark.parametrize("sampler", [LengthGroupedSampler, BalancedSampler, LengthSortedSampler])
@pytest.mark.parametrize("name", SETS)
def test_batches_are_those_of_the_collator(name, sampler, multiple):
    dataset, collator = SETS[name](), DistillationCollator(7, multiple)
    classes = np.arange(len(dataset)) % 3
    make = {
        LengthGroupedSampler: lambda: LengthGroupedSampler(dataset.lengths, 8, 1),
        BalancedSampler: lambda: BalancedSampler(classes, 1),
        LengthSortedSampler: lambda: LengthSortedSampler(dataset.lengths),
    }[sampler]
    texts = device_texts(dataset, collator, CPU)
    assert texts is not None and len(texts) == len(dataset)
    own, other = make(), make()
    loader = texts.loader(own, 8, drop_last=False)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        if hasattr(other, "set_epoch"):
            other.set_epoch(epoch)
        order = list(other)
        batches = list(loader)
        assert len(batches) == len(loader) == -(-len(dataset) // 8)
        for number, batch in enumerate(batches):
            rows = order[number * 8 : number * 8 + 8]
            expected = collator([dataset[row] for row in rows])
            assert batch.pop(PADDED) == bool((expected["attention_mask"] == 0).any())
            words = batch.pop(EXAMPLES, None)
            assert (words is not None) == name.startswith("words")
            if words is not None:
                assert words.equal((expected["labels"] != IGNORED_LABEL).flatten().nonzero().flatten())
            assert batch.keys() == expected.keys()
            for column, value in expected.items():
                assert batch[column].dtype == value.dtype
                torch.testing.assert_close(batch[column], value, rtol=0, atol=0, equal_nan=True)


class OtherDataset(TokenizedDataset):
    """A dataset whose rows are not those of its split."""

    def __getitem__(self, index):
        return {**super().__getitem__(index), "input_ids": np.array([1, 2])}


@pytest.mark.parametrize(
    ("dataset", "collator"),
    [
        ([{"input_ids": [1, 2], "labels": 0}], COLLATOR),
        (OtherDataset(split(9, 1)), COLLATOR),
        (joined(labelled(9, 1), labelled(9, 2, with_logits=False)), COLLATOR),
        (joined(labelled(9, 1), paired(labelled(9, 2))), COLLATOR),
        (joined(labelled(9, 1), labelled(9, 2, labels=lambda n: np.ones(n, dtype=np.float32))), COLLATOR),
        (joined(), lambda rows: COLLATOR(rows)),
        (TokenizedDataset(replace(split(3, 1), labels=np.array(["a", "b", "c"]))), COLLATOR),
        (joined(labelled(9, 1), worded(labelled(9, 2))), COLLATOR),
        (joined(worded(labelled(9, 1)), worded(labelled(9, 2), with_logits=False)), COLLATOR),
        (TokenizedDataset(replace(split(9, 1), labels=worded(labelled(8, 1)).tokens.labels)), COLLATOR),
        (TokenizedDataset(worded(labelled(9, 1)).tokens, np.ones((9, 4), np.float32)), COLLATOR),
    ],
    ids=[
        "list",
        "subclass",
        "logits-of-some",
        "pairs-of-some",
        "labels-of-two-kinds",
        "collator",
        "text-labels",
        "words-of-some",
        "words-with-logits-of-some",
        "words-of-other-texts",
        "words-with-logits-of-texts",
    ],
)
def test_what_is_not_known_is_collated_on_the_host(dataset, collator):
    assert device_texts(dataset, collator, CPU) is None


def test_a_column_that_is_added_later_is_noticed(monkeypatch):
    """A batch of the collator then has more than is gathered here."""
    dataset = joined()
    monkeypatch.setattr(
        TokenizedDataset,
        "__getitem__",
        lambda self, row: {"input_ids": self.split.row(row), "token_type_ids": 0 * self.split.row(row)},
    )
    assert device_texts(dataset, COLLATOR, CPU) is None


@pytest.mark.parametrize(("free", "is_kept"), [(4 * 10**6, True), (10_000, False)])
def test_texts_take_at_most_a_quarter_of_a_gpus_free_memory(free, is_kept, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 10**9))
    monkeypatch.setattr(
        module, "DeviceTexts", lambda *_: SimpleNamespace(agrees_with_collator=lambda _: True)
    )
    assert (device_texts(joined(), COLLATOR, torch.device("cuda")) is not None) == is_kept


# ---- Training ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["bert", "distilbert", "roberta"])
def student(request, tmp_path_factory):
    return tiny_classifier(
        tmp_path_factory.mktemp(request.param), family=request.param, num_layers=1, hidden_size=16
    )


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_classifier(tmp_path_factory.mktemp("bert"), num_layers=1, hidden_size=16)


def trainer_of(student, path, dataset=None, callbacks=(), device="cpu", **given) -> DistillationTrainer:
    args = DistillationTrainingArguments(
        output_dir=str(path),
        **{
            "bf16": False,
            "use_cpu": device == "cpu",
            "per_device_train_batch_size": 8,
            "num_train_epochs": 2,
            "learning_rate": 1e-2,
            "disable_tqdm": True,
            "save_strategy": "no",
            "report_to": "none",
            "logging_steps": 1,
            **given,
        },
    )
    torch.manual_seed(0)
    return DistillationTrainer(
        model=load_model(student),
        args=args,
        train_dataset=joined() if dataset is None else dataset,
        callbacks=list(callbacks),
    )


def tagger_of(student, path, callbacks=(), **given) -> DistillationTrainer:
    trainer = trainer_of(student, path, joined(worded(labelled(40, 1)), worded(labelled(23, 2))), **given)
    torch.manual_seed(0)
    model = load_model(
        student, task=TOKEN_CLASSIFICATION, **TOKEN_CLASSIFICATION.model_config(["a", "b", "c", "d"])
    )
    return DistillationTrainer(
        model=model,
        args=trainer.args,
        train_dataset=trainer.train_dataset,
        callbacks=list(callbacks),
        task=TOKEN_CLASSIFICATION,
    )


def losses(trainer: DistillationTrainer) -> list[dict[str, float]]:
    names = ("loss", "cross_entropy", "distillation", "grad_norm")
    return [{name: each[name] for name in names} for each in trainer.state.log_history if "grad_norm" in each]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"balance": "class_weights", "pad_to_multiple_of": 8},
        {"balance": "sampler", "train_sampling_strategy": "random"},
    ],
    ids=["plain", "accumulated", "weighted", "sampled"],
)
def test_losses_and_weights_are_the_same_bit_for_bit(student, given, tmp_path):
    """Including the random numbers of dropout, which the students have."""
    found = []
    for on_device in (False, True):
        trainer = trainer_of(student, tmp_path, data_on_device=on_device, **given)
        trainer.train()
        found.append(
            (losses(trainer), {name: value.clone() for name, value in trainer.model.named_parameters()})
        )
    assert len(found[0][0]) >= 8
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        assert torch.equal(value, found[1][1][name]), name


@pytest.mark.parametrize("given", [{}, {"gradient_accumulation_steps": 2}], ids=["plain", "accumulated"])
def test_losses_of_words_are_the_same_bit_for_bit(bert, given, tmp_path):
    found = []
    for on_device in (False, True):
        trainer = tagger_of(bert, tmp_path, data_on_device=on_device, **given)
        trainer.train()
        found.append((losses(trainer), [value.clone() for value in trainer.model.parameters()]))
    assert len(found[0][0]) >= 8 and found[0][0] == found[1][0]
    assert all(map(torch.equal, found[0][1], found[1][1]))


def test_a_training_resumed_inside_an_epoch_ends_with_the_same_weights(bert, tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 3, "data_on_device": True}
    whole = trainer_of(bert, tmp_path / "whole", **saved)
    whole.train()
    resumed = trainer_of(bert, tmp_path / "resumed", **saved)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert resumed.state.global_step == whole.state.global_step == 16
    for (name, one), (_, other) in zip(
        whole.model.named_parameters(), resumed.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name


class _Order(TrainerCallback):
    def __init__(self) -> None:
        self.loaders: list[type] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.loaders.append(type(kwargs["train_dataloader"].dataset))


@pytest.mark.parametrize(
    ("given", "is_gathered"),
    [
        ({"data_on_device": True}, True),
        ({}, False),  # the default on a CPU
        ({"data_on_device": True, "train_sampling_strategy": "random"}, False),
        ({"data_on_device": True, "train_sampling_strategy": "sequential"}, False),
    ],
)
def test_where_batches_are_gathered(given, is_gathered, bert, tmp_path):
    order = _Order()
    trainer_of(bert, tmp_path, callbacks=[order], max_steps=1, **given).train()
    assert (order.loaders == [module._EpochOrder]) == is_gathered


# ---- The host does not wait for the device ------------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Record the operations that the host would wait for on a GPU, since it needs their result or shape."""

    NAMES = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "_unique2", "masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.NAMES:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class CountedSteps(TrainerCallback):
    """Record from the end of the first step to that of the last, and so also while batches are made."""

    def __init__(self) -> None:
        self.per_step: list[list[str]] = []
        self._waits = Waits()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self._waits.__enter__()
            return
        self.per_step.append(list(self._waits.found))
        self._waits.found.clear()
        if state.global_step == state.max_steps:
            self._waits.__exit__(None, None, None)


def as_on_a_gpu(trainer: DistillationTrainer, monkeypatch) -> None:
    """Clip gradients as on a GPU; on a CPU the host tests their norm, which costs nothing there."""
    from transformers import Trainer

    monkeypatch.setattr(trainer, "_clip_grad_norm", lambda model: Trainer._clip_grad_norm(trainer, model))


@pytest.mark.parametrize(
    "given",
    [{}, {"gradient_accumulation_steps": 2}, {"balance": "class_weights"}, {"label_smoothing_factor": 0.1}],
    ids=["plain", "accumulated", "weighted", "smoothed"],
)
def test_no_step_waits_for_the_device(student, given, tmp_path, monkeypatch):
    counted = CountedSteps()
    settings = {"data_on_device": True, "logging_steps": 100, "num_train_epochs": 1, **given}
    trainer = trainer_of(student, tmp_path, callbacks=[counted], **settings)
    as_on_a_gpu(trainer, monkeypatch)
    trainer.train()
    assert len(counted.per_step) >= 3
    assert counted.per_step == [[]] * len(counted.per_step)


@pytest.mark.parametrize(("on_device", "waits"), [(True, False), (False, True)])
def test_no_step_of_words_waits_for_the_device(on_device, waits, student, tmp_path, monkeypatch):
    """If batches are collated on the host, finding their words waits for the device."""
    counted = CountedSteps()
    given = {"data_on_device": on_device, "logging_steps": 100, "num_train_epochs": 1}
    trainer = tagger_of(student, tmp_path, [counted], **given)
    as_on_a_gpu(trainer, monkeypatch)
    trainer.train()
    assert len(counted.per_step) >= 3
    assert [bool(each) for each in counted.per_step] == [waits] * len(counted.per_step)


def test_the_count_includes_the_check_for_padding(bert, tmp_path, monkeypatch):
    """transformers makes that check if the batch is collated on the host."""
    counted = CountedSteps()
    trainer = trainer_of(bert, tmp_path, callbacks=[counted], logging_steps=100, num_train_epochs=1)
    as_on_a_gpu(trainer, monkeypatch)
    trainer.train()
    assert all(counted.per_step)


def trial_trainer(work, arguments, *, use_gpu):
    """The trainer of a trial, which trains the used rows of its embedding table, and in the last layer one token."""
    from distiltune.search.trial.inputs import TrialSettings
    from distiltune.search.trial.run import make_trainer  # loads Ray

    inputs, store = linked(trial_inputs(work / "student"), work / "store"), Store(str(work / "store"))
    settings = TrialSettings(TRAINING, "validation_accuracy", "max", store, "s", "t", "l", 1, use_gpu=use_gpu)
    trainer = make_trainer({"num_train_epochs": 1, **arguments}, inputs, settings, work / "trial")
    trainer.args.save_strategy, trainer.args.logging_steps = SaveStrategy.NO, 100
    return trainer


def test_no_step_of_a_trial_waits_for_the_device(tmp_path, monkeypatch):
    counted = CountedSteps()
    trainer = trial_trainer(tmp_path, {"data_on_device": True}, use_gpu=False)
    trainer.add_callback(counted)
    as_on_a_gpu(trainer, monkeypatch)
    trainer.train()
    assert len(counted.per_step) >= 3
    assert counted.per_step == [[]] * len(counted.per_step)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("is_trial", [False, True], ids=["trainer", "trial"])
def test_no_step_synchronizes_on_a_gpu(student, bf16, is_trial, tmp_path):
    class Strict(TrainerCallback):
        steps = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.steps += 1
            is_last = state.global_step == state.max_steps
            torch.cuda.set_sync_debug_mode("default" if is_last else "error")

    strict = Strict()
    given = {"bf16": bf16, "logging_steps": 100, "num_train_epochs": 1}
    if is_trial:
        trainer = trial_trainer(tmp_path, given, use_gpu=True)
    else:
        trainer = trainer_of(student, tmp_path, device="cuda", **given)
    trainer.add_callback(strict)
    try:
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert strict.steps > 4


@pytest.mark.gpu
@needs_gpu
def test_batches_are_the_same_on_a_gpu():
    dataset = joined()
    texts = DeviceTexts(dataset.datasets, torch.device("cuda"), COLLATOR)
    assert texts.agrees_with_collator(dataset)
