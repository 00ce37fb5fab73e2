import optuna
import pytest
from optuna.trial import TrialState

from distiltune.errors import ConfigError
from distiltune.search.config import Constraint, Objective, SearchConfig
from distiltune.search.parameters import Choice, Fixed, FloatRange, IntRange, NotAcceptedError
from distiltune.search.study.warm_start import check_fits, known_trials
from distiltune.search.trial_record import TrialRecord

SPACE = {
    "alpha": FloatRange(low=0.0, high=1.0),
    "temperature": IntRange(low=2, high=20),
    "student.layers": Choice(values=[[0, 5], [0, 2, 5]]),
}
METRICS = ["validation_accuracy"]
FIXED = {"num_train_epochs": 3}
ARGUMENTS = {"alpha": 0.25, "temperature": 4, "student.layers": [0, 5], "num_train_epochs": 3}


def record(number=0, state="finished", arguments=ARGUMENTS, metrics=None, **changes):
    return TrialRecord(
        trial_id=f"{number:08x}",
        number=number,
        parameters={**arguments, **changes},
        state=state,
        metrics={"validation_accuracy": 0.9, "validation_loss": 0.3, "epoch": 3}
        if metrics is None
        else metrics,
    )


def without(name):
    return {key: value for key, value in ARGUMENTS.items() if key != name}


def refusal(records, space=SPACE, metric_names=METRICS, **given):
    with pytest.raises(ConfigError) as error:
        check_fits(records, space, metric_names, "former", **given)
    return str(error.value)


def known(records, space=SPACE, objectives=(), constraints=()):
    """The trials that a search over this space learns from."""
    fixed = {name: Fixed(value=value) for name, value in FIXED.items()}
    config = SearchConfig(
        space={**fixed, **space}, objectives=list(objectives), constraints=list(constraints)
    )
    return known_trials(records, config)


def test_finished_trials_join_a_study():
    records = [
        record(0),
        record(1, "failed", metrics={}),
        record(2, alpha=1, temperature=20.0, **{"student.layers": [0, 2, 5]}),
        record(3, "pruned"),
    ]
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.add_trials(known(records, objectives=[Objective(metric="validation_loss", mode="min")]))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    assert [trial.values for trial in study.trials] == [[0.9, 0.3]] * 2
    assert [trial.params for trial in study.trials] == [
        {"alpha": 0.25, "temperature": 4, "student.layers": "[0, 5]"},
        {"alpha": 1.0, "temperature": 20, "student.layers": "[0, 2, 5]"},
    ]
    assert [type(value) for value in study.trials[1].params.values()] == [float, int, str]
    assert study.trials[0].distributions == {name: each.distribution() for name, each in SPACE.items()}
    assert study.trials[1].user_attrs == {"num_train_epochs": 3, "trial_id": "00000002", "number": 2}


def test_the_sampler_learns_from_them():
    """With former trials whose good ones lie at one end, TPE's first suggestions lie there too."""
    records = [
        record(number, alpha=number / 30, metrics={"validation_accuracy": number / 30})
        for number in range(30)
    ]
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=10)
    )
    study.add_trials(known(records))
    distributions = {name: each.distribution() for name, each in SPACE.items()}
    drawn = [study.ask(distributions).params["alpha"] for _ in range(5)]
    assert min(drawn) > 0.5


def test_a_conditional_argument_may_be_missing():
    space = {**SPACE, "momentum": FloatRange(low=0.0, high=1.0)}
    records = [record(0, momentum=0.5), record(1)]
    check_fits(records, space, METRICS, "former", fixed=FIXED)
    first, second = known(records, space)
    assert "momentum" in first.params
    assert "momentum" not in second.params
    assert "momentum" in refusal([record(1)], space)
    check_fits([record(1)], space, METRICS, "former", conditional=["momentum"])
    (only,) = known([record(1)], space)
    assert set(only.params) == set(SPACE)


@pytest.mark.parametrize(
    "name, value, accepted",
    [
        ("alpha", 1.5, "accepted: numbers from 0.0 to 1.0"),
        ("alpha", "high", "accepted: numbers from 0.0 to 1.0"),
        ("alpha", True, "accepted: numbers from 0.0 to 1.0"),
        ("temperature", 1, "accepted: whole numbers from 2 to 20"),
        ("temperature", 4.5, "accepted: whole numbers from 2 to 20"),
        ("student.layers", [0, 3], "accepted: [0, 5], [0, 2, 5]"),
    ],
)
def test_a_value_outside_of_its_range(name, value, accepted):
    message = refusal([record(0), record(1, **{name: value})])
    assert message == (
        f"search.warm_start: run 'former': {name} was {value!r}, outside of the current space; {accepted}; "
        f"widen search.space.{name}, or choose another run"
    )


def test_only_some_of_many_values_are_shown():
    message = refusal([record(number, alpha=2.0 + number) for number in range(9)])
    assert "alpha was 2.0, 3.0, 4.0 and 6 more, outside" in message


def test_what_only_this_search_searches():
    message = refusal([record(0, arguments=without("temperature"))])
    assert "temperature is searched now" in message
    assert "remove search.space.temperature" in message


def test_what_only_the_former_run_searched():
    records = [record(0, label_smoothing_factor=0.1), record(1, label_smoothing_factor=0.2)]
    message = refusal(records)
    assert "label_smoothing_factor was searched there, with 0.1, 0.2, " in message
    assert "add search.space.label_smoothing_factor" in message


def test_what_is_fixed_has_to_be_the_same():
    check_fits([record(0)], SPACE, METRICS, "former", fixed=FIXED)
    message = refusal([record(0), record(1, num_train_epochs=5)], fixed=FIXED)
    assert "num_train_epochs was 5, but is 3 in every trial now; accepted: 3" in message
    message = refusal([record(0)], fixed={})
    assert "num_train_epochs was set there, with 3, " in message
    message = refusal([record(0)], fixed={**FIXED, "warmup_ratio": 0.1})
    assert "warmup_ratio is 0.1 in every trial now" in message
    # Not compared if nothing is known about it.
    check_fits([record(0)], SPACE, METRICS, "former")
    # A formerly fixed value within the current range is one more point of it.
    check_fits([record(0)], {"num_train_epochs": IntRange(low=1, high=5), **SPACE}, METRICS, "former")


def test_a_value_that_was_fixed_under_a_condition_follows_from_the_condition():
    records = [record(0, momentum=0.9), record(1)]
    check_fits(records, SPACE, METRICS, "former", fixed=FIXED)
    assert len(known(records)) == 2


@pytest.mark.parametrize(
    "metrics", [{}, {"validation_accuracy": None}, {"validation_loss": 0.1, "note": "x"}]
)
def test_another_metric(metrics):
    message = refusal([record(0), record(1, metrics=metrics)])
    assert "validation_accuracy is required now, but 1 of its 2 finished trials" in message
    assert ("has validation_loss)" in message) == ("validation_loss" in metrics)


@pytest.mark.parametrize(
    "records", [[], [record(0, "failed"), record(1, "pruned")]], ids=["none", "unfinished"]
)
def test_no_finished_trial(records):
    assert f"run 'former' has no finished trial among its {len(records)}" in refusal(records)


def test_former_trials_keep_or_miss_the_bounds_of_now():
    bound = Constraint(metric="validation_loss", sense="<=", bound=0.35)
    records = [record(0), record(1, metrics={"validation_accuracy": 0.9, "validation_loss": 0.5})]
    found = known(records, constraints=[bound])
    assert [each.constraints for each in found] == [
        {"validation_loss <= 0.35": pytest.approx(-0.05)},
        {"validation_loss <= 0.35": pytest.approx(0.15)},
    ]


def test_former_trials_of_a_student_that_is_left_out_are_left_out_too():
    records = [record(0), record(1, **{"student.layers": [0, 2, 5]})]
    narrower = {**SPACE, "student.layers": Choice(values=[[0, 5]])}
    found = known(records, narrower)
    assert [each.user_attrs["trial_id"] for each in found] == ["00000000"]
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(n_startup_trials=1))
    study.add_trials(found)
    trial = study.ask(
        {name: each.distribution() for name, each in narrower.items()}
    )  # Optuna refuses choices that changed
    assert trial.params["student.layers"] == "[0, 5]"


def test_all_faults_come_together():
    records = [record(0, arguments=without("temperature"), alpha=3.0, seed=1), record(1, alpha=0.5, seed=2)]
    message = refusal(records, {**SPACE, "momentum": FloatRange(low=0, high=1)}, ["latency_ms"], fixed=FIXED)
    faults = message.splitlines()
    assert len(faults) == 4
    assert all(fault.startswith("search.warm_start: run 'former': ") for fault in faults)
    named = [fault.removeprefix("search.warm_start: run 'former': ").split()[0] for fault in faults]
    assert named == ["alpha", "momentum", "seed", "latency_ms"]


def test_a_choice_of_true_does_not_include_one():
    switch = Choice(values=[True, False])
    assert switch.fit(True) is True
    with pytest.raises(NotAcceptedError, match="accepted: True, False"):
        switch.fit(1)
    number = Choice(values=[1, 2.5, "x"])
    assert number.fit(1.0) == 1
    with pytest.raises(NotAcceptedError):
        number.fit(True)
