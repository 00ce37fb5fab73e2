"""Trials of several kinds of students: the values that they train with, and the teacher's states that they share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models import tiny_classifier, tiny_data

from distiltune.cluster.specification.config import JobConfig
from distiltune.search.driver.gpu_sharing import largest_batch
from distiltune.search.space.batches import check_batches
from distiltune.search.space.students import Student, student_keys, student_name
from distiltune.search.trial.inputs import TrialInputs, TrialSettings
from distiltune.storage.store import Store
from distiltune.training.checkpoints.load import load_tokenizer
from distiltune.training.data.tokenized import LabelledSplit, tokenize_split
from distiltune.training.student import piece_states
from distiltune.training.student.build import build_student
from distiltune.training.student.config import student_section

TEXTS = [text for text, _ in tiny_data()]
SPACE = {
    "student.kind": {"type": "choice", "values": ["layers", "convolution", "static"]},
    "student.num_layers": {"type": "int", "low": 1, "high": 2},
    "student.num_filters": {"type": "choice", "values": [4, 8]},
    "student.hidden_size": {"type": "choice", "values": [8]},
}
TRIALS = [
    {"student.kind": "layers", "student.num_layers": 1},
    {"student.kind": "convolution", "student.num_filters": 4, "student.hidden_size": 8},
    {"student.kind": "convolution", "student.num_filters": 8, "student.hidden_size": 8},
    {"student.kind": "static", "student.hidden_size": 8},
]


def job(**training: object) -> JobConfig:
    return JobConfig.model_validate({"search": {"space": SPACE}, "training": training})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory):
    """The store and the inputs of trials of each kind, and how often the teacher has read its word pieces."""
    folder = tmp_path_factory.mktemp("kinds")
    teacher = tiny_classifier(folder / "teacher", num_layers=2, label_names=["a", "b"])
    store, calls, students = Store(str(folder / "store")), [], {}
    compute = piece_states.compute_states

    def counted(*given, **named):
        calls.append(len(given[2]))
        return compute(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(piece_states, "compute_states", counted)
        for number, arguments in enumerate(TRIALS):
            key = f"students/{number}"
            section = student_section(job().student, student_keys(arguments), teacher)
            build_student(
                section,
                teacher,
                ["a", "b"],
                store.local(key),
                max_length=16,
                texts=(TEXTS, []),
                labels=[0] * len(TEXTS),
                validation_texts=TEXTS[:2],
                states=piece_states.StatesCache(store, "pieces"),
            )
            store.publish(key)
            students[student_name(arguments)] = Student(key)
    split = tokenize_split(TEXTS, np.zeros(len(TEXTS), dtype=np.int64), load_tokenizer(teacher), 16)
    logits = np.zeros((len(TEXTS), 2), dtype=np.float32)
    inputs = TrialInputs(students, {"train": LabelledSplit(split, logits)}, split, None, ["a", "b"])
    return store, inputs, calls


def trainer_of(built, config: JobConfig, arguments: dict[str, object], work: Path):
    from distiltune.search.trial.run import make_trainer  # loads Ray

    store, inputs, _ = built
    settings = TrialSettings(
        config.training, "validation_accuracy", "max", store, "s", "t", "l", num_threads=1, use_gpu=False
    )
    return make_trainer(arguments, inputs.of(arguments), settings, work)


def test_the_teacher_reads_its_word_pieces_once_for_all_kinds(built):
    _, _, calls = built
    assert len(calls) == 1 and calls[0] > 10


@pytest.mark.parametrize("arguments", TRIALS, ids=student_name)
def test_a_trial_trains_with_the_values_that_suit_its_kind(arguments, built, tmp_path):
    kind = arguments["student.kind"]
    rate, size = (6e-4, 64) if kind == "layers" else (3e-3, 128)
    args = trainer_of(built, job(), arguments, tmp_path).args
    assert (args.learning_rate, args.per_device_train_batch_size) == (rate, size)


@pytest.mark.parametrize("arguments", TRIALS[::3], ids=student_name)
def test_what_the_job_gives_and_what_is_searched_counts(arguments, built, tmp_path):
    given = trainer_of(built, job(learning_rate=1e-3), arguments, tmp_path).args
    assert given.learning_rate == 1e-3
    size = 64 if arguments["student.kind"] == "layers" else 128
    assert given.per_device_train_batch_size == size
    searched = trainer_of(built, job(), {**arguments, "learning_rate": 2e-3, "batch_size": 32}, tmp_path).args
    assert (searched.learning_rate, searched.per_device_train_batch_size) == (2e-3, 32)
    own = job(by_kind={"static": {"num_train_epochs": 3, "learning_rate": 0.01}})
    epochs = trainer_of(built, own, arguments, tmp_path).args.num_train_epochs
    assert epochs == (3 if arguments["student.kind"] == "static" else own.training.num_train_epochs)


def test_the_largest_batch_of_all_kinds_is_measured_and_split():
    config = job(batch_size=30, by_kind={"convolution": {"batch_size": 90}, "static": {"batch_size": 45}})
    assert largest_batch(config.search, config.training) == 90
    with pytest.raises(Exception, match=r"training\.by_kind\.static\.batch_size: 45") as error:
        check_batches(config.search, config.training, 2)
    assert "training.batch_size" not in str(error.value) and "convolution" not in str(error.value)
