"""Faults in a search that concern its students: values that a kind rejects, and losses that it does not support."""

from __future__ import annotations

from typing import Any

import pytest

from distiltune.search.config import SearchConfig
from distiltune.search.space.students import student_keys, student_names
from distiltune.search.space.validation import space_faults
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.student.config import student_config


def faults_of(space: dict[str, Any], kind: str = "convolution", **training: Any) -> list[str]:
    search = SearchConfig.model_validate({"space": space})
    return space_faults(
        search, TrainingConfig.model_validate(training), student_config(kind=kind, **_needed(kind))
    )


def _needed(kind: str) -> dict[str, Any]:
    return {"checkpoint": "x"} if kind == "checkpoint" else {}


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("hidden_size", 0, "greater than or equal to 1"),
        ("hidden_size", 64.0, "valid integer"),
        ("hidden_size", "wide", "valid integer"),
        ("num_filters", True, "valid integer"),
        ("num_filters", 2**21, "less than or equal to 1048576"),
        ("num_blocks", -1, "greater than or equal to 0"),
        ("block_size", 0, "greater than or equal to 1"),
        ("block_window_size", 0, "greater than or equal to 1"),
        ("pooling", "median", "'max_mean' or 'max'"),
        ("window_sizes", 3, "valid list"),
        ("window_sizes", [0], "greater than or equal to 1"),
        ("window_sizes", [3, 1], "ascending"),
        ("window_sizes", [3, 3], "each size once"),
        ("window_sizes", [65], "less than or equal to 64"),
        ("classifier_size", 0, "greater than or equal to 1"),
    ],
)
def test_a_value_that_the_kind_does_not_accept_is_one_fault(key, value, reason):
    [fault] = faults_of({f"student.{key}": {"type": "choice", "values": [value]}})
    assert fault.startswith(f"search.space.student.{key}: ")
    assert reason in fault


@pytest.mark.parametrize("kind", ["convolution", "static"])
def test_activations_of_layers_are_not_computed_again_without_layers(kind):
    [fault] = faults_of({}, kind, arguments={"activation_checkpointing": True})
    assert fault.startswith("training.arguments.activation_checkpointing: True given, but a student of kind ")
    assert faults_of({}, kind, arguments={"activation_checkpointing": False}) == []
    assert faults_of({}, "layers", arguments={"activation_checkpointing": True}) == []


def test_ranges_and_lists_of_a_kind_make_its_students():
    space = {
        "student.num_blocks": {"type": "int", "low": 0, "high": 2},
        "student.window_sizes": {"type": "choice", "values": [[3], [1, 2, 3]]},
    }
    assert faults_of(space) == []
    names = student_names(SearchConfig.model_validate({"space": space}))
    assert next(iter(names)) == "student.window_sizes=[3]; student.num_blocks=0"
    assert len(names) == 6
    config = student_config(kind="convolution").with_searched(student_keys(list(names.values())[-1]), None)
    assert (config.window_sizes, config.num_blocks) == ([1, 2, 3], 2)


def test_the_ends_of_a_range_are_checked():
    [fault] = faults_of({"student.num_blocks": {"type": "int", "low": -2, "high": 2}})
    assert "-2" in fault
    [fault] = faults_of({"student.hidden_size": {"type": "float", "low": 8, "high": 9}})[:1]
    assert "student.hidden_size: 8.0" in fault


@pytest.mark.parametrize(
    ("kind", "key", "accepted"),
    [
        ("convolution", "num_layers", "layers"),
        ("static", "num_filters", "convolution"),
        ("static", "window_sizes", "convolution"),
        ("layers", "hidden_size", "convolution or static"),
        ("checkpoint", "pooling", "convolution or static"),
    ],
)
def test_a_key_of_another_kind_names_the_kinds_that_have_it(kind, key, accepted):
    [fault] = faults_of({f"student.{key}": {"type": "choice", "values": [1]}}, kind)
    assert fault.startswith(f"search.space.student.{key}: ")
    assert fault.endswith(f"of kind {accepted}")


HIDDEN = {
    "argument": (
        {},
        {"arguments": {"hidden_loss_weight": 0.5}},
        "training.arguments.hidden_loss_weight: 0.5",
    ),
    "range": (
        {"hidden_loss_weight": {"type": "float", "low": 0, "high": 1}},
        {},
        "search.space.hidden_loss_weight: 1.0",
    ),
    "section": ({}, {"losses": {"cosine": {"weight": 2.0}}}, "training.losses.cosine.weight: 2.0"),
    "searched section": (
        {"training.losses.cosine.weight": {"type": "float", "low": 0, "high": 3}},
        {},
        "search.space.training.losses.cosine.weight: 3.0",
    ),
}


@pytest.mark.parametrize("kind", ["convolution", "static"])
@pytest.mark.parametrize(("space", "training", "where"), HIDDEN.values(), ids=list(HIDDEN))
def test_a_loss_of_hidden_states_is_refused_by_name(kind, space, training, where):
    [fault] = faults_of(space, kind, **training)
    assert fault.startswith(where)
    assert "layers or checkpoint" in fault
    assert faults_of(space, "layers", **training) == []


def test_a_weight_of_zero_is_no_loss():
    assert faults_of({"hidden_loss_weight": 0.0}, arguments={"hidden_loss_weight": 0.0}) == []


BOTH = {"student.kind": {"type": "choice", "values": ["layers", "static"]}}


def test_a_loss_of_hidden_states_is_searched_in_trials_with_layers_alone():
    weight = {"type": "float", "low": 0, "high": 1}
    [fault] = faults_of({**BOTH, "hidden_loss_weight": weight}, "layers")
    assert fault.startswith("search.space.hidden_loss_weight: 1.0") and "kind static" in fault
    assert "when: {student.kind: [layers, checkpoint]}" in fault
    narrowed = {**weight, "when": {"student.kind": "layers"}}
    assert faults_of({**BOTH, "hidden_loss_weight": narrowed}, "layers") == []
    [fault] = faults_of(BOTH, "layers", arguments={"hidden_loss_weight": 0.5})
    assert fault.startswith("training.arguments.hidden_loss_weight: 0.5")


def test_a_value_is_checked_for_each_searched_kind_that_has_the_key():
    kinds = {"student.kind": {"type": "choice", "values": ["convolution", "static"]}}
    pooling = {"type": "choice", "values": ["max", "max_mean"]}
    [fault] = faults_of({**kinds, "student.pooling": pooling})
    assert fault.startswith("search.space.student.pooling: 'max' ") and "'mean'" in fault
    narrowed = {**pooling, "when": {"student.kind": "convolution"}}
    assert faults_of({**kinds, "student.pooling": narrowed}) == []


def test_epochs_of_a_kind_are_too_few_for_quantization_or_have_no_effect():
    kinds = {"type": "choice", "values": ["layers", "static"]}

    def faults(when: dict[str, Any]) -> list[str]:
        epochs = {"type": "int", "low": 3, "high": 6, "when": when}
        halves = {"type": "choice", "values": [0.5, 1.0]}
        space = {"student.kind": kinds, "alpha": halves, "num_train_epochs": epochs}
        return faults_of(
            space, "layers", by_kind={"static": {"num_train_epochs": 1}}, quantization_aware={"num_epochs": 2}
        )

    [few] = faults({"student.kind": "layers"})
    assert few.startswith("training.quantization_aware.num_epochs: 2 given, but ")
    assert "training.by_kind.static.num_train_epochs may be 1" in few
    [idle] = faults({})
    assert idle.startswith(
        "training.by_kind.static.num_train_epochs: 1 given, but search.space.num_train_epochs"
    )
    assert faults({"student.kind": ["layers", "static"]}) == [idle]
    assert faults({"alpha": 0.5}) == [few]
