from __future__ import annotations

import re

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from distiltune.errors import ConfigError
from distiltune.search.config import SearchConfig
from distiltune.search.space.space import (
    THRESHOLD_METRIC,
    draw,
    fixed_values,
    key_that_names,
    metrics_of,
    named_metrics,
)
from distiltune.search.space.space import searched as searched_parameters
from distiltune.search.space.students import (
    Student,
    fitting_students,
    student_name,
    student_names,
    without_misfits,
)
from distiltune.search.space.validation import check_space, space_faults
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.student.config import StudentConfig, student_config
from distiltune.training.tasks import SINGLE_LABEL


def config(space: dict | None = None, **values) -> SearchConfig:
    return SearchConfig.model_validate({"space": space or {}, **values})


def distributions_of(config):
    return {name: each.distribution() for name, each in searched_parameters(config).items()}


def test_the_default_space_is_the_recipes():
    assert distributions_of(SearchConfig()) == {
        "alpha": FloatDistribution(0.0, 1.0),
        "temperature": IntDistribution(2, 20),
        "num_train_epochs": IntDistribution(5, 10),
    }
    assert fixed_values(SearchConfig()) == {}


def test_every_kind_of_range_has_its_distribution():
    space = {
        "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-3, "log": True},
        "batch_size": {"type": "choice", "values": [32, 64]},
        "temperature": {"type": "int", "low": 4, "high": 4},
        "alpha": 0.0,
    }
    searched = distributions_of(config(space))
    assert searched["learning_rate"] == FloatDistribution(1e-4, 1e-3, log=True)
    assert searched["batch_size"] == CategoricalDistribution([32, 64])
    assert set(searched) == {"learning_rate", "batch_size", "num_train_epochs"}
    assert fixed_values(config(space)) == {"alpha": 0.0, "temperature": 4}
    check_space(config(space), TrainingConfig())


def test_false_is_a_fixed_value_too():
    assert fixed_values(config({"freeze_embeddings": False}))["freeze_embeddings"] is False


def test_all_faults_are_reported_together_with_the_nearest_name():
    wrong = config({"learning_rat": 1e-3, "temprature": 4}, metric="validation_acuracy")
    with pytest.raises(ConfigError) as caught:
        check_space(wrong, TrainingConfig())
    count, *faults = re.split(r"\(\d\) ", str(caught.value))
    assert count == "3 faults: "
    assert len(faults) == 3
    assert "search.space.learning_rat: " in faults[0]
    assert "did you mean 'learning_rate'" in faults[0]
    assert "did you mean 'temperature'" in faults[1]
    assert "search.metric" in faults[2]
    assert "did you mean 'validation_accuracy'" in faults[2]


def test_every_metric_of_the_task_can_be_optimised_or_bounded():
    for name in (*SINGLE_LABEL.metric_names, "recall.a label"):
        given = config(
            metric=f"validation_{name}", constraints=[f"validation_f1.{name} >= 0.5", "sparsity >= 0"]
        )
        assert not [each for each in space_faults(given, TrainingConfig()) if "validation_" in each]
        assert named_metrics(given, "single_label") == [name, f"f1.{name}"]
    wrong = config(metric="validation_recal.x", constraints=["validation_macro_f >= 0.5"])
    faults = space_faults(wrong, TrainingConfig())
    assert len(faults) == 2
    assert "did you mean 'validation_recall.LABEL'? accepted: " in faults[0]
    assert "; with the prefix validation_: accuracy, " in faults[0]
    assert "search.constraints.0" in faults[1] and "'validation_macro_f1'" in faults[1]


def test_an_epoch_reports_the_usual_metrics_and_those_that_are_named():
    usual = [*SINGLE_LABEL.metric_modes, *SINGLE_LABEL.epoch_metrics]
    expected = [*(f"validation_{name}" for name in (*usual, "recall.a")), "validation_loss", "sparsity"]
    assert list(metrics_of("single_label", ["macro_f1", "recall.a"])) == expected
    assert not {"validation_mcc", "validation_macro_precision"} & metrics_of("single_label").keys()


def test_accuracy_with_a_threshold_is_a_metric_of_jobs_that_have_one():
    assert THRESHOLD_METRIC not in metrics_of("single_label")
    assert metrics_of("single_label", with_threshold=True)[THRESHOLD_METRIC] == "max"
    bounded = config(metric=THRESHOLD_METRIC, constraints=[f"{THRESHOLD_METRIC} >= 0.5"])
    assert space_faults(bounded, TrainingConfig()) == []
    assert named_metrics(bounded, "single_label") == [], "it is no metric of predictions alone"
    [fault] = space_faults(config(metric=THRESHOLD_METRIC, mode="min"), TrainingConfig())
    assert "search.mode" in fault
    assert key_that_names(THRESHOLD_METRIC, bounded) == "search.metric"
    assert key_that_names("validation_loss", bounded) is None


def test_a_value_that_an_argument_rejects_is_reported_before_any_trial():
    wrong = config(
        {"alpha": {"type": "float", "low": 0.5, "high": 2.0}, "temperature": 0, "learning_rate": "high"}
    )
    faults = space_faults(wrong, TrainingConfig())
    assert len(faults) == 3
    assert "search.space.alpha: 2.0" in faults[0]
    assert "search.space.temperature: 0" in faults[1]
    assert faults[2].startswith("search.space.learning_rate: 'high' is rejected: ")


def test_an_argument_named_twice_is_reported():
    with pytest.raises(ConfigError, match="per_device_train_batch_size"):
        check_space(config({"batch_size": 8, "per_device_train_batch_size": 16}), TrainingConfig())


def test_a_mode_against_the_metric_is_reported():
    with pytest.raises(ConfigError, match=r"set search\.mode to 'min'"):
        check_space(config(metric="validation_loss"), TrainingConfig())
    check_space(config(metric="validation_loss", mode="min"), TrainingConfig())


def faults_of(space: dict | None = None, student: StudentConfig | None = None, **values) -> list[str]:
    return space_faults(config(space, **values), TrainingConfig(), student)


CONDITIONAL = {
    "optim": {"type": "choice", "values": ["adamw_torch_fused", "sgd", "adafactor"]},
    "adam_beta2": {"type": "float", "low": 0.9, "high": 0.999, "when": {"optim": "adamw_torch_fused"}},
    "momentum_like": None,
}


def conditional_space() -> dict:
    return {
        "learning_rate": {"type": "float", "low": 0.1, "high": 1.0, "when": {"optim": ["sgd"]}},
        "weight_decay": {"type": "fixed", "value": 0.0, "when": {"optim": ["sgd", "adafactor"]}},
        "optim": CONDITIONAL["optim"],
        "adam_beta2": CONDITIONAL["adam_beta2"],
    }


def test_a_conditional_argument_is_drawn_only_where_its_condition_holds():
    space = config(conditional_space()).space
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(40):
        trial = study.ask()
        values = draw(trial, space)
        seen.add(values["optim"])
        assert ("adam_beta2" in values) == (values["optim"] == "adamw_torch_fused")
        assert ("learning_rate" in values) == (values["optim"] == "sgd")
        assert values.get("weight_decay") == (None if values["optim"] == "adamw_torch_fused" else 0.0)
        assert set(trial.params) == set(values) - {"weight_decay"}
    assert seen == {"adamw_torch_fused", "sgd", "adafactor"}
    assert "weight_decay" not in fixed_values(config(conditional_space()))
    check_space(config(conditional_space()), TrainingConfig())


def test_conditions_that_cannot_hold_are_reported():
    space = {
        "alpha": {"type": "float", "low": 0.0, "high": 1.0},
        "temperature": {"type": "int", "low": 2, "high": 9, "when": {"alpha": 0.5}},
        "num_train_epochs": {"type": "int", "low": 2, "high": 4, "when": {"optim": "sgd"}},
        "weight_decay": {"type": "float", "low": 0, "high": 1, "when": {"warmup_ratio": 0.1}},
        "warmup_ratio": {"type": "choice", "values": [0.0, 0.1], "when": {"weight_decay": 0.0}},
    }
    faults = faults_of(space)
    assert "search.space.temperature.when.alpha: " in faults[0]
    assert "make alpha a choice" in faults[0]
    assert "search.space.num_train_epochs.when.optim: 'optim' is not a argument of the space" in faults[
        1
    ] or ("'optim'" in faults[1])
    assert "remove one `when`" in faults[-1]
    assert "weight_decay" in faults[-1]
    assert "warmup_ratio" in faults[-1]


def test_every_kind_of_fault_is_reported_in_one_error():
    faults = faults_of(
        {"learning_rat": 1e-3, "alpha": {"type": "float", "low": 0, "high": 2}},
        metric="validation_los",
        objectives=[{"metric": "latency_ms", "mode": "max"}],
        constraints=["latency <= 1.0", "num_parameters <= 1e6"],
        scheduler="asha",
        points=[{"temperature": 40}, {"alhpa": 0.5}],
    )
    message = "\n".join(faults)
    for part in (
        "search.space.learning_rat: ",
        "search.space.alpha: 2.0 is rejected",
        "search.metric: 'validation_los' is not a metric; did you mean 'validation_loss'?",
        "set search.objectives.0.mode to 'min'",
        "search.constraints.0: 'latency' is not a metric; did you mean 'latency_ms'?",
        "search.objectives.0.metric: latency_ms depends only on the student, and all trials have the same one; search "
        "student.num_layers or student.layers, or leave it out",
        "search.constraints.1: num_parameters depends only on the student",
        "search.scheduler: 'asha' compares trials by one metric",
        "search.points.0.temperature: 40 is outside of the space; accepted: whole numbers from 2 to 20",
        "search.points.1.alhpa: 'alhpa' is not a argument of the space; did you mean 'alpha'?",
    ):
        assert part.replace("a argument", "an argument") in message
    assert len(faults) == 10


def test_students_may_be_searched_by_their_layers():
    searched = config({"student.layers": {"type": "choice", "values": [[0, 5], [0, 2, 5]]}})
    check_space(searched, TrainingConfig(), student_config())
    assert distributions_of(searched)["student.layers"] == CategoricalDistribution(["[0, 5]", "[0, 2, 5]"])
    assert student_names(searched) == {
        "student.layers=[0, 5]": {"student.layers": [0, 5]},
        "student.layers=[0, 2, 5]": {"student.layers": [0, 2, 5]},
    }
    values = draw(optuna.trial.FixedTrial({**FIRST, "student.layers": "[0, 2, 5]"}), searched.space)
    assert values["student.layers"] == [0, 2, 5]
    assert student_name(values) == "student.layers=[0, 2, 5]"
    counted = config({"student.num_layers": {"type": "int", "low": 1, "high": 3}})
    assert [each["student.num_layers"] for each in student_names(counted).values()] == [1, 2, 3]
    assert student_names(config({})) == {student_name({"alpha": 0.5}): {}}


FIRST = {"alpha": 0.5, "temperature": 4, "num_train_epochs": 5}


def test_students_that_cannot_be_made_are_reported():
    both = {"student.layers": [0, 5], "student.num_layers": 0}
    faults = faults_of(both, student_config(checkpoint="distilbert"))
    assert len(faults) == 4
    assert "are both given" in faults[0]
    for name, fault in zip(both, faults[1:], strict=False):
        assert fault.startswith(f"search.space.{name}: ")
        assert "student.num_attention_heads, student.intermediate_size; " in fault
        assert fault.endswith("of kind layers")
    assert "search.space.student.num_layers: 0 is rejected" in faults[3]
    [fault] = faults_of({"student.layers": {"type": "choice", "values": [[0, 5], [5, 0], "0,5"]}})[:-1] or [
        ""
    ]
    assert "[5, 0] is rejected" in fault


def test_students_that_miss_a_bound_are_not_trained():
    space = {"student.num_layers": {"type": "int", "low": 1, "high": 3}}
    students = {
        f"student.num_layers={n}": Student(f"s{n}", {"latency_ms": 0.4 * n, "num_parameters": 10.0 * n})
        for n in (1, 2, 3)
    }
    points = [{"student.num_layers": 3}, {"alpha": 0.5}, {"student.num_layers": 2}]
    kept = without_misfits(config(space, constraints=["latency_ms <= 1.0"], points=points), students)
    assert kept.space["student.num_layers"].values == [1, 2]
    assert kept.points == points[1:], "a point with a student that is left out is left out"
    with pytest.raises(ConfigError, match=r"search\.constraints: .*latency_ms <= 0\.1: .*=1 has 0\.4"):
        without_misfits(config(space, constraints=["latency_ms <= 0.1"]), students)
    assert without_misfits(config(space), students) == config(space)


def test_values_that_fit_only_in_some_combinations_stay_and_their_points_do_not():
    space = {
        "student.num_layers": {"type": "int", "low": 1, "high": 2},
        "student.num_attention_heads": {"type": "choice", "values": [4, 8]},
    }
    points = [
        {"student.num_layers": 2, "student.num_attention_heads": 8},
        {"student.num_attention_heads": 8},
    ]
    searched = config(space, constraints=["latency_ms <= 1.0", "validation_loss <= 2"], points=points)
    students = {
        name: Student(
            name, {"latency_ms": each["student.num_layers"] * each["student.num_attention_heads"] / 10}
        )
        for name, each in student_names(searched).items()
    }
    kept = without_misfits(searched, students)
    assert kept.space["student.num_layers"].values == [1, 2]
    assert kept.space["student.num_attention_heads"].values == [4, 8]
    assert kept.points == points[1:]
    fitting = [tuple(each.values()) for each in fitting_students(kept, students).values()]
    assert sorted(fitting) == [(1, 4), (1, 8), (2, 4)]
    assert fitting_students(config(space), students) == student_names(config(space))
