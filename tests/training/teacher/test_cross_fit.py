"""Cross-fitting: every training text is labelled by a teacher that was trained without it."""

import random
from dataclasses import replace

import datasets
import numpy as np
import pytest
from models import WORDS
from pydantic import ValidationError

from distiltune.cluster.remote import cross_fit as remote
from distiltune.cluster.remote.tasks import Task
from distiltune.cluster.specification.config import JobConfig
from distiltune.errors import DataError
from distiltune.storage.store import Store
from distiltune.training.data.analysis.config import DiagnosticsConfig
from distiltune.training.data.analysis.diagnostics import label_issues
from distiltune.training.data.splitting import folds
from distiltune.training.data.text_data import TextData
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.tasks import SINGLE_LABEL
from distiltune.training.teacher import cross_fit
from distiltune.training.teacher.config import TeacherConfig

LENGTH = 16
TINY = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "dropout": 0.0,
    "num_train_epochs": 24,
    "learning_rate": 3e-3,
    "batch_size": 16,
}
NAMES = [f"label_{n}" for n in range(4)]
NUM_FLIPPED = 12


def text_data(num: int = 240, flipped: int = 0) -> TextData:
    """Texts with a word of their label among others, and the labels of some of those of train replaced."""
    draw = random.Random(0)
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)}
    )

    def rows(num: int) -> tuple[list[str], list[int]]:
        labels = [n % len(NAMES) for n in range(num)]
        texts = [
            " ".join(draw.sample([WORDS[label], *draw.sample(WORDS[4:], 4), f"n{n}"], 6))
            for n, label in enumerate(labels)
        ]
        return texts, labels

    splits = {}
    for name, count in (("train", num), ("validation", 40), ("test", 40)):
        texts, labels = rows(count)
        if name == "train":
            for row in flipped_rows(num, flipped):
                labels[row] = (labels[row] + 1 + row % 3) % len(NAMES)
        splits[name] = datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)
    return TextData(datasets.DatasetDict(splits), None)


def flipped_rows(num: int, flipped: int) -> list[int]:
    return random.Random(1).sample(range(num), flipped)


def teacher(**recipe) -> TeacherConfig:
    return TeacherConfig.model_validate({"scratch": TINY | recipe, "seed": 0})


@pytest.mark.parametrize("num_folds", [2, 3, 7, 10])
@pytest.mark.parametrize(
    "counts", [{"a": 100, "b": 37, "c": 10}, {f"label {i}": 10 + i % 3 for i in range(40)}]
)
def test_folds_are_disjoint_complete_and_stratified(counts, num_folds):
    rows = [(f"{label} number {i}", label) for label, count in counts.items() for i in range(count)]
    texts, labels = zip(*rows, strict=True)
    found = folds(texts, labels, num_folds, seed=0)
    assert len(found) == num_folds
    assert sorted(row for fold in found for row in fold) == list(range(len(rows)))
    sizes = [len(fold) for fold in found]
    assert max(sizes) - min(sizes) <= 2
    for fold in found:
        assert fold == sorted(fold)
        for label, count in counts.items():
            assert abs(sum(labels[row] == label for row in fold) - count / num_folds) < 1
    other = list(range(len(rows)))
    random.Random(2).shuffle(other)
    moved = folds([texts[row] for row in other], [labels[row] for row in other], num_folds, seed=0)
    assert {frozenset(texts[row] for row in fold) for fold in found} == {
        frozenset(texts[other[row]] for row in fold) for fold in moved
    }
    assert folds(texts, labels, num_folds, seed=1) != found


def test_equal_texts_are_in_one_fold():
    texts = [f"text {n % 20}" if n % 2 else f"Text  {n % 20} " for n in range(80)]
    labels = [f"{n % 2}" for n in range(80)]
    found = folds(texts, labels, 4, seed=0)
    fold_of = {row: number for number, fold in enumerate(found) for row in fold}
    assert len(fold_of) == 80
    assert all(fold_of[row] == fold_of[row % 20] for row in range(80))


def test_more_folds_than_a_label_has_texts_are_refused_with_the_number_accepted():
    texts = [*(f"a {n}" for n in range(20)), "rare 1", "rare 2", "RARE 2", "rare  3"]
    labels = ["often"] * 20 + ["rare"] * 4
    assert len(folds(texts, labels, 3, seed=0)) == 3
    with pytest.raises(DataError, match=r"data\.diagnostics\.cross_fit: 4 given.*'rare'.*accepted: 2 to 3"):
        folds(texts, labels, 4, seed=0)
    with pytest.raises(DataError, match=r"data\.diagnostics\.cross_fit: 2 given.*'rare'.*at least 2"):
        folds(texts[:21], labels[:21], 2, seed=0)


def test_a_label_that_only_conflicting_texts_have_is_outside_of_each_fold_or_refused():
    texts = ["one", "one", "two", "two", "three", "four", "three", "four"]
    labels = ["a", "b", "a", "c", "b", "c", "c", "b"]
    try:
        found = folds(texts, labels, 2, seed=0)
    except DataError as error:
        assert "data.diagnostics.cross_fit: 2 given" in str(error)
    else:
        assert all({labels[row] for row in range(8) if row not in fold} == {"a", "b", "c"} for fold in found)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"teacher": {"checkpoint": "x/y"}, "data": {"diagnostics": {"cross_fit": 5}}},
            r"data\.diagnostics\.cross_fit: 5 given.*teacher\.checkpoint",
        ),
        ({"data": {"diagnostics": {"cross_fit": 1}}}, "greater than or equal to 2"),
        ({"data": {"diagnostics": {"cross_fit": 11}}}, "less than or equal to 10"),
        ({"data": {"diagnostics": {"cross_fit_epochs": 2}}}, "cross_fit_epochs: 2 given without cross_fit"),
    ],
)
def test_what_cannot_be_cross_fitted_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        JobConfig.model_validate(values)


@pytest.mark.parametrize(("epochs", "given", "each"), [(24, None, 24), (5, 7, 7)])
def test_the_additional_work_counts_epochs_and_texts(epochs, given, each):
    config = DiagnosticsConfig(cross_fit=4, cross_fit_epochs=given)
    assert cross_fit.cross_fit_epochs(config, teacher(num_train_epochs=epochs)) == each
    assert cross_fit.cross_fit_work(config, teacher(num_train_epochs=epochs), 1000) == each * 3 * 1000
    assert cross_fit.cross_fit_work(DiagnosticsConfig(), teacher(), 1000) == 0
    rows = folds([f"{n}" for n in range(1000)], ["a"] * 1000, 4, seed=0)
    assert sum(1000 - len(fold) for fold in rows) == 3000


def test_a_fold_has_the_first_teacher_of_the_job_with_the_epochs_of_a_fold():
    several = TeacherConfig.model_validate({"scratch": TINY, "seed": 3, "ensemble": 2})
    found = cross_fit.fold_teacher(DiagnosticsConfig(cross_fit=2), several)
    assert found.identity() == TeacherConfig.model_validate({"scratch": TINY, "seed": 3}).identity()
    tuned = TeacherConfig.model_validate({"fine_tune": {"checkpoint": "x/y", "num_train_epochs": 4}})
    assert cross_fit.cross_fit_epochs(DiagnosticsConfig(cross_fit=2), tuned) == 2
    found = cross_fit.fold_teacher(DiagnosticsConfig(cross_fit=2, cross_fit_epochs=3), tuned)
    assert found.fine_tune is not None
    assert (found.fine_tune.checkpoint, found.fine_tune.num_train_epochs) == ("x/y", 3)


def test_the_key_of_a_fold_changes_with_all_that_its_logits_depend_on():
    data, training = text_data(), TrainingConfig(max_length=LENGTH)
    keys = [
        cross_fit.fold_key(teacher(), data, training, [1, 2]),
        cross_fit.fold_key(teacher(), data, training, [1, 3]),
        cross_fit.fold_key(teacher(num_train_epochs=3), data, training, [1, 2]),
        cross_fit.fold_key(teacher(), text_data(flipped=1), training, [1, 2]),
        cross_fit.fold_key(teacher(), data, TrainingConfig(max_length=24), [1, 2]),
        cross_fit.fold_key(teacher(), data, TrainingConfig(max_length=LENGTH, balance="sampler"), [1, 2]),
        cross_fit.fold_key(teacher(), data, training, [1, 2], metric="macro_f1"),
    ]
    assert len(set(keys)) == len(keys)
    assert cross_fit.fold_key(teacher(), text_data(), training, [1, 2]) == keys[0]


@pytest.mark.slow
def test_flipped_labels_are_found_better_than_by_a_teacher_that_learned_them(tmp_path):
    from distiltune.training.checkpoints.load import load_classifier
    from distiltune.training.models.inference import compute_logits
    from distiltune.training.teacher.prepare import prepare_teacher

    data, flipped = text_data(flipped=NUM_FLIPPED), set(flipped_rows(240, NUM_FLIPPED))
    labels = np.array(data.splits["train"]["label"][:])
    options = {"max_length": LENGTH, "num_threads": 1, "use_gpu": False}
    whole = replace(data, splits=datasets.DatasetDict({**data.splits, "validation": data.splits["train"]}))
    prepare_teacher(teacher(), whole, tmp_path / "t", **options)  # the epoch that agrees most with the labels
    model, tokenizer = load_classifier(tmp_path / "t")
    tokens = SINGLE_LABEL.tokenize(data.splits["train"], tokenizer, LENGTH)
    in_sample = compute_logits(model, tokens, pad_token_id=tokenizer.pad_token_id, num_threads=1)

    config = DiagnosticsConfig(cross_fit=3)
    out_of_sample = np.full_like(in_sample, np.nan)
    for rows in cross_fit.folds_of(config, data, seed=0):
        fold = cross_fit.fold_teacher(config, teacher())
        out_of_sample[rows] = cross_fit.fold_logits(fold, data, rows, **options)

    def found(logits):
        issues = label_issues(SINGLE_LABEL.class_probabilities(logits), labels)
        return sum(issue.row in flipped for issue in issues[:NUM_FLIPPED])

    assert found(out_of_sample) > found(in_sample) + 2


def test_a_finished_fold_is_not_trained_again_and_a_damaged_one_is(tmp_path, monkeypatch):
    trained = []

    def train(config, data, rows, *, balance, metric, **_):
        assert (balance, metric) == ("class_weights", "macro_f1")
        trained.append(rows)
        return np.arange(2 * len(rows), dtype=np.float32).reshape(-1, 2)

    monkeypatch.setattr(remote, "fold_logits", train)
    config = JobConfig.model_validate(
        {
            "teacher": {"scratch": TINY},
            "training": {"max_length": LENGTH, "balance": "class_weights"},
            "metric": "macro_f1",
            "data": {"diagnostics": {"cross_fit": 2}},
        }
    )
    task = Task(Store(str(tmp_path)), config, "log", "progress", 1, use_gpu=False, unfinished="unfinished")
    data = text_data()
    first, computed = remote.label_fold(task, data, [1, 5], "cache/logits/a")
    assert computed
    again, computed = remote.label_fold(task, data, [1, 5], "cache/logits/a")
    assert not computed
    np.testing.assert_array_equal(again, first)
    remote.label_fold(task, data, [2, 3], "cache/logits/b")
    assert trained == [[1, 5], [2, 3]]
    (tmp_path / "cache/logits/a/logits.npy").write_bytes(b"damaged")
    again, computed = remote.label_fold(task, data, [1, 5], "cache/logits/a")
    assert computed
    np.testing.assert_array_equal(again, first)
    assert trained[2:] == [[1, 5]]
