"""The values of each kind of searched argument."""

import optuna
import pytest
from pydantic import TypeAdapter

from distiltune.search.parameters import NotAcceptedError, Parameter

PARAMETER = TypeAdapter(Parameter)
FLOATS = {"type": "float", "low": 0.1, "high": 2.0, "log": True}
INTS = {"type": "int", "low": 2, "high": 5}
LAYERS = {"type": "choice", "values": [[0, 5], [0, 2, 5]]}
MIXED = {"type": "choice", "values": [1, 2.5, "x", False]}


def make(given):
    return PARAMETER.validate_python(given)


@pytest.mark.parametrize(
    ("given", "ends", "every", "count", "single"),
    [
        (FLOATS, [0.1, 2.0], [0.1, 2.0], 1, None),
        (INTS, [2, 5], [2, 3, 4, 5], 4, None),
        (LAYERS, [[0, 5], [0, 2, 5]], [[0, 5], [0, 2, 5]], 2, None),
        ({"type": "int", "low": 3, "high": 3}, [3, 3], [3], 1, 3),
        ({"type": "choice", "values": ["a", "a"]}, ["a", "a"], ["a", "a"], 2, "a"),
        (0.5, [0.5], [0.5], 1, 0.5),
    ],
)
def test_its_values(given, ends, every, count, single):
    parameter = make(given)
    assert parameter.end_values() == ends
    assert list(parameter.all_values()) == every
    assert parameter.num_values() == count
    assert parameter.single_value() == single


@pytest.mark.parametrize(
    ("given", "value", "held"),
    [
        (FLOATS, 1, 1.0),
        (INTS, 5.0, 5),
        (LAYERS, [0, 2, 5], "[0, 2, 5]"),
        (LAYERS, "[0, 5]", "[0, 5]"),
        (MIXED, 1.0, 1),
        (MIXED, False, False),
        (7, 7, 7),
    ],
)
def test_a_value_is_converted_to_the_form_that_optuna_stores(given, value, held):
    parameter = make(given)
    found = parameter.fit(value)
    assert (found, type(found)) == (held, type(held))
    if parameter.single_value() is None:
        distribution = parameter.distribution()
        assert distribution.to_external_repr(distribution.to_internal_repr(found)) == found


@pytest.mark.parametrize(
    ("given", "value", "accepted"),
    [
        (FLOATS, 2.1, r"numbers from 0\.1 to 2\.0"),
        (FLOATS, True, "numbers from"),
        (FLOATS, float("nan"), "numbers from"),
        (INTS, 2.5, "whole numbers from 2 to 5"),
        (INTS, "3", "whole numbers"),
        (LAYERS, [1, 2], r"\[0, 5\], \[0, 2, 5\]"),
        (MIXED, True, "1, 2.5"),
        (MIXED, 0, "1, 2.5"),
        (7, 8, "7"),
    ],
)
def test_a_value_that_is_not_accepted_is_refused_with_those_that_are(given, value, accepted):
    with pytest.raises(NotAcceptedError, match=f"^accepted: .*{accepted}"):
        make(given).fit(value)


@pytest.mark.parametrize("given", [FLOATS, INTS, LAYERS, MIXED])
def test_a_suggestion_is_one_of_its_values(given):
    parameter = make(given)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(10)]
    found = [parameter.suggest(trial, "name") for trial in trials]
    assert all(parameter.contains(value) for value in found)
    assert [trial.params["name"] for trial in trials] == [parameter.fit(value) for value in found]
    assert trials[0].distributions["name"] == parameter.distribution()


def test_a_fixed_value_has_no_distribution():
    with pytest.raises(TypeError, match="one value"):
        make(7).distribution()


def test_a_condition_holds_where_the_others_have_its_values():
    parameter = make({**FLOATS, "when": {"optim": ["sgd", "adafactor"], "alpha": 0.0}})
    assert parameter.applies({"optim": "sgd", "alpha": 0.0})
    assert not parameter.applies({"optim": "adamw", "alpha": 0.0})
    assert not parameter.applies({"optim": "sgd"})
