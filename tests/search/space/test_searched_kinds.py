"""A search over kinds of students: conditions, students, sections, texts and faults."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import optuna
import pytest
from pydantic import Field

from distiltune.cluster.pipeline.forecast.request import points_of, student_size
from distiltune.cluster.specification.config import JobConfig
from distiltune.errors import ConfigError
from distiltune.search.config import SearchConfig
from distiltune.search.space.space import draw, searched
from distiltune.search.space.students import (
    Student,
    student_keys,
    student_name,
    student_names,
    student_sections,
    without_misfits,
)
from distiltune.search.space.validation import space_faults
from distiltune.search.trial.inputs import StudentTexts, TrialInputs
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.section import Width
from distiltune.training.student.config import as_kind, student_config, student_section
from distiltune.training.student.kinds.base import STUDENT_KINDS, StudentConfig
from distiltune.training.student.kinds.checkpoint import CheckpointStudent
from distiltune.training.student.kinds.layers import LayersStudent

optuna.logging.set_verbosity(optuna.logging.WARNING)


class TinyStudent(StudentConfig):
    """A student with filters, and word pieces of its own."""

    kind: Literal["tiny"] = Field(default="tiny", description="Some filters.")
    filters: Width = Field(default=8, description="tiny: filters.")
    searched_keys: ClassVar[tuple[str, ...]] = ("filters",)

    @property
    def own_tokenizer(self) -> bool:
        return True

    def with_searched(self, values, teacher_dir):
        return self.model_copy(update=dict(values))


@pytest.fixture(autouse=True)
def tiny():
    with STUDENT_KINDS.temporarily(TinyStudent):
        yield


KINDS = {
    "student.kind": {"type": "choice", "values": ["layers", "tiny"]},
    "student.num_layers": {"type": "int", "low": 1, "high": 3},
    "student.filters": {"type": "choice", "values": [4, 16]},
}


def config(space: dict[str, Any], **values: Any) -> SearchConfig:
    return SearchConfig.model_validate({"space": space, **values})


def faults_of(space: dict[str, Any], student: StudentConfig | None = None) -> list[str]:
    return space_faults(config(space), TrainingConfig(), student or student_config())


def test_the_keys_of_a_kind_apply_to_its_trials_alone():
    search = config(KINDS)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen = [draw(study.ask(), search.space) for _ in range(20)]
    assert {each["student.kind"] for each in seen} == {"layers", "tiny"}
    for each in seen:
        assert ("student.num_layers" in each) == (each["student.kind"] == "layers")
        assert ("student.filters" in each) == (each["student.kind"] == "tiny")
        assert student_name(each) in student_names(search)
    assert set(searched(search)) >= set(KINDS)
    assert faults_of(KINDS) == []


def test_a_student_is_listed_once_with_the_keys_of_its_kind():
    assert student_names(config(KINDS)) == {
        "student.kind=layers; student.num_layers=1": {"student.kind": "layers", "student.num_layers": 1},
        "student.kind=layers; student.num_layers=2": {"student.kind": "layers", "student.num_layers": 2},
        "student.kind=layers; student.num_layers=3": {"student.kind": "layers", "student.num_layers": 3},
        "student.kind=tiny; student.filters=4": {"student.kind": "tiny", "student.filters": 4},
        "student.kind=tiny; student.filters=16": {"student.kind": "tiny", "student.filters": 16},
    }
    alone = config({"student.kind": KINDS["student.kind"]})
    assert list(student_names(alone)) == ["student.kind=layers", "student.kind=tiny"]


def test_the_implied_conditions_survive_printing_and_follow_the_kinds():
    search = config(KINDS)
    assert search.space["student.filters"].when == {"student.kind": ["tiny"]}
    assert SearchConfig.model_validate(search.model_dump(mode="json")) == search
    assert SearchConfig.model_validate_json(search.model_dump_json()) == search
    one = config({**KINDS, "student.filters": 16})
    assert one.space["student.filters"].when == {"student.kind": ["tiny"]}
    names = student_names(one)
    assert names["student.kind=tiny; student.filters=16"] == {"student.kind": "tiny", "student.filters": 16}
    without = {name: each for name, each in KINDS.items() if name != "student.kind"}
    assert not any(each.when for each in config(without).space.values())


def test_a_key_may_be_searched_for_some_of_the_kinds_that_have_it():
    kinds = {"student.kind": {"type": "choice", "values": ["layers", "checkpoint", "tiny"]}}
    heads = {"type": "choice", "values": [1, 2]}
    section = student_config(checkpoint="some/encoder")
    both = {**kinds, "student.num_attention_heads": heads}
    assert config(both).space["student.num_attention_heads"].when == {
        "student.kind": ["layers", "checkpoint"]
    }
    only = {**kinds, "student.num_attention_heads": {**heads, "when": {"student.kind": "layers"}}}
    assert config(only).space["student.num_attention_heads"].when == {"student.kind": ["layers"]}
    assert faults_of(both, section) == faults_of(only, section) == []
    assert [len(student_names(config(each))) for each in (both, only)] == [5, 4]
    # Fewer kinds than when the specification was written.
    held = config(both).model_dump(mode="json")["space"]
    held["student.kind"]["values"] = ["layers", "tiny"]
    assert config(held).space["student.num_attention_heads"].when == {"student.kind": ["layers"]}
    assert faults_of(held, section) == []
    [fault] = faults_of({**kinds, "student.filters": {**heads, "when": {"student.kind": "layers"}}}, section)
    assert fault.startswith("search.space.student.filters: takes no `when`")


def test_another_argument_may_depend_on_the_kind():
    rate = {"type": "float", "low": 1e-3, "high": 1e-2, "when": {"student.kind": "tiny"}}
    search = config({**KINDS, "learning_rate": rate})
    assert faults_of({**KINDS, "learning_rate": rate}) == []
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for each in [draw(study.ask(), search.space) for _ in range(10)]:
        assert ("learning_rate" in each) == (each["student.kind"] == "tiny")


@pytest.mark.parametrize(
    ("space", "parts"),
    [
        (
            {"student.kind": {"type": "choice", "values": ["layers", "cnn"]}},
            ["search.space.student.kind: 'cnn'", "accepted: layers, checkpoint"],
        ),
        ({"student.kind": {"type": "choice", "values": [3]}}, ["search.space.student.kind: 3", "layers"]),
        (
            {"student.kind": {"type": "int", "low": 1, "high": 2}},
            ["search.space.student.kind: 1", "search.space.student.kind: 2"],
        ),
        (
            {"student.kind": {"type": "choice", "values": ["layers", "checkpoint"]}},
            ["search.space.student.kind: 'checkpoint'", "student.checkpoint", "describe a student"],
        ),
        (
            {"student.kind": "tiny", "student.num_layers": 2},
            [
                "search.space.student.num_layers",
                "kind tiny",
                "student.filters",
                "leave it out",
                "kind layers",
            ],
        ),
        (
            {"student.filters": 4},
            ["search.space.student.filters", "kind layers", "student.num_layers", "kind tiny"],
        ),
        (
            {
                **KINDS,
                "student.filters": {"type": "choice", "values": [4, 8], "when": {"student.num_layers": 1}},
            },
            ["search.space.student.filters: takes no `when`"],
        ),
        (
            {**KINDS, "student.kind": {**KINDS["student.kind"], "when": {"temperature": 2}}},
            ["search.space.student.kind: takes no `when`"],
        ),
        (
            {**KINDS, "student.num_layers": {"type": "int", "low": 1, "high": 999}},
            ["make 1,001 students", "at most 1000"],
        ),
        ({**KINDS, "student.layers": {"type": "choice", "values": [[0], [1]]}}, ["are both given"]),
    ],
)
def test_students_that_cannot_be_made_are_refused(space, parts):
    message = "\n".join(faults_of(space))
    for part in parts:
        assert part in message


def test_a_section_of_another_kind_keeps_the_keys_that_it_has():
    own = student_config(layers=[0, 2], width={"intermediate_size": 16}, seed=5)
    assert as_kind(own, "layers") is own
    assert as_kind(own, "tiny") == TinyStudent(seed=5)
    other = as_kind(
        student_config(checkpoint="some/encoder", width={"intermediate_size": 16}, seed=6), "layers"
    )
    assert other == LayersStudent.model_validate({"width": {"intermediate_size": 16}, "seed": 6})
    pooled = as_kind(student_config(kind="convolution", pooling="max", hidden_size=32), "static")
    assert (pooled.pooling, pooled.hidden_size) == ("max_mean", 32)  # static students have no pooling "max"
    with pytest.raises(ConfigError, match=r"student\.kind: 'cnn'.*accepted: layers, checkpoint"):
        as_kind(own, "cnn")
    with pytest.raises(ConfigError, match=r"'checkpoint' needs student\.checkpoint"):
        as_kind(own, "checkpoint")


def test_a_trial_has_the_section_of_its_student(tmp_path):
    def section(**arguments: Any) -> StudentConfig:
        named = {f"student.{name}": value for name, value in arguments.items()}
        return student_section(student_config(seed=3), student_keys({**named, "alpha": 0.5}), tmp_path)

    assert section(kind="tiny", filters=16) == TinyStudent(filters=16, seed=3)
    assert section(kind="layers", layers=[0, 1]) == LayersStudent(layers=[0, 1], seed=3)
    assert section() == student_config(seed=3)


def test_the_checks_see_each_kind_with_the_values_of_its_own_keys():
    found = student_sections(student_config(checkpoint="some/encoder"), config(KINDS).space)
    assert found == [
        (as_kind(student_config(checkpoint="some/encoder"), "layers"), {"num_layers": [1, 3]}),
        (TinyStudent(), {"filters": [4, 16]}),
    ]
    [(only, values)] = student_sections(student_config(checkpoint="some/encoder"), config({}).space)
    assert (type(only), values) == (CheckpointStudent, {})


def measured(**latencies: float) -> dict[str, Student]:
    names = {
        "one": "student.kind=layers; student.num_layers=1",
        "two": "student.kind=layers; student.num_layers=2",
        "three": "student.kind=layers; student.num_layers=3",
        "small": "student.kind=tiny; student.filters=4",
        "large": "student.kind=tiny; student.filters=16",
    }
    return {names[name]: Student(name, {"latency_ms": latency}) for name, latency in latencies.items()}


def test_a_kind_whose_students_all_miss_a_bound_is_not_tried():
    students = measured(one=0.4, two=0.6, three=0.8, small=0.05, large=0.1)
    points = [{"student.kind": "layers"}, {"student.kind": "tiny", "student.filters": 4}, {"alpha": 0.5}]
    kept = without_misfits(config(KINDS, constraints=["latency_ms <= 0.2"], points=points), students)
    assert kept.space["student.kind"].end_values() == ["tiny"]
    assert "student.num_layers" not in kept.space
    assert kept.points == points[1:]
    assert list(student_names(kept)) == [
        "student.kind=tiny; student.filters=4",
        "student.kind=tiny; student.filters=16",
    ]
    some = without_misfits(config(KINDS, constraints=["latency_ms <= 0.5"], points=points), students)
    assert some.space["student.kind"].end_values() == ["layers", "tiny"]
    assert some.space["student.num_layers"].end_values() == [1]
    assert some.space["student.num_layers"].when == {"student.kind": ["layers"]}
    assert some.points == points
    with pytest.raises(ConfigError, match=r"search\.constraints: no student satisfies latency_ms <= 0\.01"):
        without_misfits(config(KINDS, constraints=["latency_ms <= 0.01"]), students)


def test_a_trial_reads_the_texts_in_the_word_pieces_of_its_kind():
    teachers, own = ({"train": f"{name} train", "validation": f"{name} validation"} for name in "ab")
    splits: Any = {"train": own["train"], "validation": SimpleNamespace(tokens=own["validation"])}
    students = {name: Student(name) for name in student_names(config(KINDS))}
    inputs: Any = TrialInputs(
        students,
        {"train": teachers["train"]},  # pyright: ignore
        teachers["validation"],  # pyright: ignore
        None,
        ["a"],
        respelled={"tiny": StudentTexts.of(splits)},
    )
    tiny = {"student.kind": "tiny", "student.filters": 4}
    layers = {"student.kind": "layers", "student.num_layers": 2}
    assert (inputs.of(tiny).train, inputs.of(tiny).validation) == ({"train": "b train"}, "b validation")
    for arguments in (layers, {}, {"alpha": 0.5}):
        found = inputs.of(arguments)
        assert (found.train, found.validation) == ({"train": "a train"}, "a validation")
    assert inputs.of(tiny).student_of(tiny).key == "student.kind=tiny; student.filters=4"


def test_a_forecast_measures_the_ends_of_each_kind():
    space = config(KINDS).space
    points = points_of(space)
    named = [student_name(each.arguments) for each in points]
    assert set(named) >= {
        "student.kind=layers; student.num_layers=1",
        "student.kind=layers; student.num_layers=3",
        "student.kind=tiny; student.filters=4",
        "student.kind=tiny; student.filters=16",
    }
    sizes = {name: point.size for name, point in zip(named, points, strict=True)}
    assert max(sizes, key=lambda name: sizes[name]) == "student.kind=layers; student.num_layers=3"
    tiny = [size for name, size in sizes.items() if "tiny" in name]
    assert len(set(tiny)) == 2 and max(tiny) < sizes["student.kind=layers; student.num_layers=1"]
    assert all(student_size(each.arguments, space) == each.size for each in points)


def test_a_job_names_a_kind_in_its_space():
    job = JobConfig.model_validate({"search": {"space": KINDS}})
    assert job.search.space["student.filters"].when == {"student.kind": ["tiny"]}
    assert job.student == LayersStudent(seed=job.seed)
