"""The contract of every rule of early stopping, and a rule registered from outside."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.cluster.specification.printing import as_yaml
from distiltune.cluster.specification.reading import parse_yaml
from distiltune.errors import ConfigError
from distiltune.search.config import SearchConfig
from distiltune.search.schedulers.base import EARLY_STOPPING, Curve, EarlyStopping, ValuesOfOthers

RULES = list(EARLY_STOPPING)
GOOD = [[0.25, 0.9], [0.5, 0.95], [0.75, 0.97], [1.0, 0.98]]


def search(**values) -> SearchConfig:
    return SearchConfig.model_validate(values)


class Floor(EarlyStopping):
    """Stop a trial whose value is beyond a bound, regardless of the others."""

    type: Literal["floor"] = "floor"
    bound: float = Field(default=0.5, ge=0, le=1, description="Value that every epoch reaches.")

    def stops(self, curve: Curve, others: ValuesOfOthers, sign: int) -> bool:
        return sign * curve[-1][1] < sign * self.bound


def test_the_rules_in_the_order_in_which_they_are_listed():
    assert EARLY_STOPPING.names == ["none", "asha", "median"]


@pytest.mark.parametrize("rule", RULES, ids=EARLY_STOPPING.names)
def test_a_rule_is_named_alone_or_with_parameters(rule):
    name = EARLY_STOPPING.name_of(rule)
    assert search(scheduler=name).scheduler == search(scheduler={"type": name}).scheduler == rule()
    again = SearchConfig.model_validate_json(search(scheduler=name).model_dump_json())
    assert again.scheduler == rule()
    with pytest.raises(ValidationError, match="speed"):
        search(scheduler={"type": name, "speed": 3})


@pytest.mark.parametrize("rule", RULES, ids=EARLY_STOPPING.names)
def test_a_rule_is_in_the_help_and_in_the_schema(rule):
    described = SearchConfig.model_fields["scheduler"].description or ""
    assert EARLY_STOPPING.name_of(rule) in described
    schema = JobConfig.model_json_schema()["$defs"]
    assert set(schema[rule.__name__]["properties"]) == set(rule.model_fields)


@pytest.mark.parametrize("sign", [1, -1], ids=["max", "min"])
@pytest.mark.parametrize("rule", RULES, ids=EARLY_STOPPING.names)
def test_a_rule_never_stops_a_trial_that_is_alone_or_the_best(rule, sign):
    curve = [[fraction, sign * value] for fraction, value in GOOD]
    for num_epochs in range(1, 4):
        assert not rule().stops(curve[:num_epochs], lambda fraction: [], sign)
        worse = [sign * value for value in (0.1, 0.2, 0.3, 0.4, 0.5)]
        assert not rule().stops(curve[:num_epochs], lambda fraction, worse=worse: worse, sign)


@pytest.mark.parametrize("sign", [1, -1], ids=["max", "min"])
@pytest.mark.parametrize("rule", RULES, ids=EARLY_STOPPING.names)
def test_an_active_rule_stops_the_worst_of_many_and_an_inactive_one_none(rule, sign):
    curve = [[fraction, sign * 0.01] for fraction, _ in GOOD]
    better = [sign * value for value in (0.6, 0.7, 0.8, 0.85, 0.9)]
    stopped = [rule().stops(curve[:num], lambda fraction: better, sign) for num in range(1, 4)]
    assert any(stopped) == rule().is_active


def test_a_rule_that_is_added_from_outside_stops_trials():
    from distiltune.search.schedulers.tune_schedulers import scheduler_of

    with pytest.raises(ConfigError, match=r"search\.scheduler: 'floor'"):
        load_config("quickstart", ["search.scheduler=floor"])
    with EARLY_STOPPING.temporarily(Floor):
        config = load_config("quickstart", ["search.scheduler={type: floor, bound: 0.4}"]).search
        with pytest.raises(ConfigError, match=r"search\.scheduler\.bond: .*bound"):
            load_config("quickstart", ["search.scheduler={type: floor, bond: 0.4}"])
        with pytest.raises(ConfigError, match=r"search\.scheduler\.bound: .*1\.5"):
            load_config("quickstart", ["search.scheduler={type: floor, bound: 1.5}"])
        assert "Floor" in JobConfig.model_json_schema()["$defs"]
        printed = parse_yaml(as_yaml(JobConfig(search=config)))
        assert JobConfig.model_validate(printed).search.scheduler == config.scheduler
    scheduler = scheduler_of(config.scheduler, config.mode)
    controller: Any = None

    def reported(name: str, value: float) -> str:
        trial: Any = SimpleNamespace(trial_id=name, last_result=None)
        return scheduler.on_trial_result(controller, trial, {"progress": 0.5, "curve": [[0.5, value]]})

    assert (reported("low", 0.3), reported("high", 0.5)) == ("STOP", "CONTINUE")
