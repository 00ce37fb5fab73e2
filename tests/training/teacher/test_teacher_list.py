"""A list of different teachers in the section ``teacher``: what it accepts, what it refuses, and each one's key."""

import pytest
from different_teachers import file_of_logits, text_data
from models import tiny_classifier
from pydantic import ValidationError

from distiltune.errors import DataError, InputError, ModelError
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.teacher.config import TeacherConfig, naming_teacher
from distiltune.training.teacher.prepare import teacher_key

A, B = {"checkpoint": "hub/a"}, {"checkpoint": "hub/b"}


def teacher(*members, **keys):
    return TeacherConfig.model_validate({"ensemble": list(members), **keys})


def test_each_member_is_a_teacher_of_its_own():
    found = teacher(
        {**A, "weight": 2, "labels": {"A": "a"}, "drop_labels": True},
        {"fine_tune": {"checkpoint": "hub/b"}, "seed": 9},
        {"logits": "llm.csv"},
        {},
        seed=4,
    )
    assert [each.seed for each in found.members] == [4, 9, 4, 4]
    assert found.members[3].scratch is not None, "as of a section teacher without keys"
    assert found.members[2].logits is not None and found.members[2].logits.path == "llm.csv"
    assert found.given_weights == [2, 1, 1, 1]
    assert found.first.labels == {"A": "a"} and found.first.drop_labels
    assert (found.num_members, found.are_different, found.is_trained) == (4, True, False)
    assert found.checkpoint is None and found.scratch is None, "the outer section has no teacher"
    assert [".".join(path) for path, _ in found.sections()] == [f"teacher.ensemble.{n}" for n in range(4)]
    assert [each.in_words() for each in found.members] == [
        "hub/a", "hub/b, fine-tuned, seed 9", "logits of llm.csv", "a small BERT, trained from scratch, seed 4",
    ]  # fmt: skip


def test_what_is_written_to_a_run_reads_back_the_same():
    for found in (
        teacher({**A, "weight": 2}, {**B, "licence": "mit"}, seed=3),
        teacher({"scratch": {}}, {"logits": {"path": "a.csv", "max_missing": 0.5}}, weights="fit"),
        TeacherConfig.model_validate({"scratch": {}, "ensemble": 3, "weights": "fit"}),
    ):
        assert TeacherConfig.model_validate(found.model_dump(mode="json")) == found


def test_a_number_is_short_for_that_many_seeds():
    found = TeacherConfig.model_validate({"scratch": {}, "seed": 7, "ensemble": 3})
    spelled = teacher(*({"scratch": {}, "seed": seed} for seed in (7, 8, 9)))
    assert [each.identity() for each in found.members] == [each.identity() for each in spelled.members]
    assert not found.are_different and found.given_weights == [1, 1, 1]
    assert [path for path, _ in found.sections()] == [("teacher",)]


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"ensemble": [A]}, ["a list of 1 given", "2 to 100"]),
        ({"ensemble": []}, ["a list of 0 given"]),
        ({"ensemble": [A, B], "checkpoint": "x"}, ["checkpoint given beside a list"]),
        ({"ensemble": [A, B], "scratch": {}}, ["scratch given beside a list"]),
        (
            {"ensemble": [A, B], "labels": {"a": "b"}, "drop_labels": True, "licence": "mit"},
            ["labels, drop_labels, licence given beside"],
        ),
        ({"ensemble": [{"logits": "a.csv"}, A]}, ["ensemble.0.logits", "put a checkpoint"]),
        ({"ensemble": [A, B, A]}, ["ensemble.0 and ensemble.2 are the same teacher"]),
        ({"ensemble": [A, {**A, "seed": 4}]}, ["ensemble.0 and ensemble.1 are the same teacher"]),
        ({"ensemble": [{"scratch": {}}, {"scratch": {}}]}, ["are the same teacher", "another seed"]),
        ({"ensemble": [{**A, "weight": 1}, B], "weights": "fit"}, ["ensemble.0.weight given, but weights is 'fit'"]),
        ({"checkpoint": "x", "weights": "fit"}, ["weights is 'fit', but there is one teacher"]),
    ],
)  # fmt: skip
def test_teachers_that_make_no_mixture_are_refused(values, parts):
    with pytest.raises(ValidationError) as raised:
        TeacherConfig.model_validate(values)
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("member", "place"),
    [
        ({**A, "weight": -1}, ("ensemble", 1, "weight")),
        ({**A, "weight": 0}, ("ensemble", 1, "weight")),
        ({**A, "weight": float("nan")}, ("ensemble", 1, "weight")),
        ({**A, "weight": "2"}, ("ensemble", 1, "weight")),
        ({"chekpoint": "x"}, ("ensemble", 1, "chekpoint")),
        ({**A, "ensemble": 2}, ("ensemble", 1, "ensemble")),
        ({"scratch": {"hidden_size": 0}}, ("ensemble", 1, "scratch", "hidden_size")),
        ("./a", ("ensemble",)),
        ({**A, "logits": "x"}, ("ensemble", 1)),
        ({"scratch": {}, "labels": {"a": "b"}}, ("ensemble", 1)),
    ],
)
def test_a_fault_of_a_member_has_its_place(member, place):
    with pytest.raises(ValidationError) as raised:
        teacher(B, member)
    assert [each["loc"] for each in raised.value.errors()] == [place]


@pytest.mark.parametrize("value", ["2", 1.5, True, {"0": A}, -1, 1001])
def test_what_is_neither_a_number_nor_a_list_is_refused(value):
    with pytest.raises(ValidationError) as raised:
        TeacherConfig.model_validate({"scratch": {}, "ensemble": value})
    assert [each["loc"] for each in raised.value.errors()] == [("ensemble",)]


def test_a_member_has_the_key_of_the_teacher_alone_whatever_its_weight(tmp_path):
    data, training = text_data(), TrainingConfig(max_length=16)
    checkpoint = str(tiny_classifier(tmp_path / "a", label_names=data.label_names))
    file_of_logits(tmp_path / "b.csv", data.splits["train"]["text"][:])
    sections = [{"checkpoint": checkpoint}, {"logits": str(tmp_path / "b.csv")}, {"scratch": {}}]
    alone = [teacher_key(TeacherConfig.model_validate(each).first, data, training) for each in sections]
    for weights in ([1, 1, 1], [3, 1, 0.5]):
        members = [{**each, "weight": weight} for each, weight in zip(sections, weights, strict=True)]
        assert [teacher_key(each, data, training) for each in teacher(*members).members] == alone
    assert len(set(alone)) == 3


def test_an_error_names_the_member_and_nothing_else():
    cases = [
        (ModelError("teacher.checkpoint: its labels differ; rename them by teacher.labels: {A: a}"),
         "teacher.ensemble.1.checkpoint: its labels differ; rename them by teacher.ensemble.1.labels: {A: a}"),
        (DataError("my/teacher.csv: row 3: teacher.logits.path is wrong"),
         "my/teacher.csv: row 3: teacher.ensemble.1.logits.path is wrong"),
        (ModelError("teacher: 9 tokens are too many"), "teacher.ensemble.1: 9 tokens are too many"),
    ]  # fmt: skip
    for error, expected in cases:
        with pytest.raises(InputError) as raised, naming_teacher("teacher.ensemble.1"):
            raise error
        assert (str(raised.value), type(raised.value)) == (expected, type(error))
    with pytest.raises(ModelError, match=r"^teacher\.checkpoint: x$"), naming_teacher("teacher"):
        raise ModelError("teacher.checkpoint: x")
