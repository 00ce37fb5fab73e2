"""Which metrics a job's data defines."""

from __future__ import annotations

from typing import Any

import datasets
import pytest

from distiltune.cluster.specification.config import JobConfig
from distiltune.cluster.specification.goal import check_goals, check_metrics, num_tested, score_of
from distiltune.errors import ConfigError
from distiltune.training.data.label_kinds import TAGS
from distiltune.training.data.label_kinds.tag_scheme import tag_names
from distiltune.training.data.text_data import TextData

NAMES = ["pay", "send", "other"]


def data(outside: str | None, *, train: list[int], validation: list[int]) -> TextData:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)}
    )
    splits = {"train": train, "validation": validation, "test": validation}
    made = {
        name: datasets.Dataset.from_dict({"text": ["a"] * len(labels), "label": labels}, features=features)
        for name, labels in splits.items()
    }
    return TextData(datasets.DatasetDict(made), outside)


def job(**values: Any) -> JobConfig:
    return JobConfig.model_validate(values)


UNTAUGHT = data("other", train=[0, 1], validation=[0, 1, 2])
TAUGHT = data("other", train=[0, 1, 2], validation=[0, 1, 2])
WITHOUT = data(None, train=[0, 1, 2], validation=[0, 1])
ONLY_OUTSIDE = data("other", train=[0, 1, 2], validation=[2, 2])
ONLY_INSIDE = data("other", train=[0, 1, 2], validation=[0, 1])
LATENCY = {"metric": "latency_ms", "mode": "min"}


@pytest.mark.parametrize(
    ("values", "texts", "message"),
    [
        ({"metric": "oos_recall"}, UNTAUGHT, "metric: 'oos_recall' given, but no training text has the label 'other'"),
        ({"metric": "recall.other"}, UNTAUGHT, "metric: 'recall.other' given, but no training text has the label"),
        ({"metric": "f1.other"}, UNTAUGHT, "metric: 'f1.other' given, but no training text has the label"),
        ({"metric": "oos_recall"}, WITHOUT, "metric: 'oos_recall' given, but the data has no out-of-scope label"),
        ({"metric": "recall.other"}, WITHOUT, "no text of the validation split has that label"),
        ({"metric": "in_scope_accuracy"}, ONLY_OUTSIDE, "no text of the validation split has that label"),
        ({"metric": "recall.sned"}, TAUGHT, "metric: 'recall.sned'"),
        (
            {"search": {"metric": "validation_oos_recall"}},
            UNTAUGHT,
            "search.metric: 'oos_recall' given, but no training text",
        ),
        (
            {"search": {"objectives": [LATENCY, {"metric": "validation_recall.other", "mode": "max"}]}},
            UNTAUGHT,
            "search.objectives: 'recall.other' given, but no training text",
        ),
        (
            {"search": {"constraints": ["validation_oos_recall >= 0.5"]}},
            UNTAUGHT,
            "search.constraints: 'oos_recall' given, but no training text",
        ),
    ],
)  # fmt: skip
def test_a_metric_that_the_data_does_not_define_is_refused_under_the_key_that_names_it(
    values, texts, message
):
    with pytest.raises(ConfigError) as refused:
        check_metrics(job(**values), texts)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


MARGIN = {"out_of_scope": {"score": "margin"}}


@pytest.mark.parametrize(
    ("section", "texts", "missing"),
    [
        ({}, WITHOUT, "the data has no out-of-scope label"),
        ({}, UNTAUGHT, "no training text has the label 'other'"),
        ({}, ONLY_INSIDE, "no text of the validation split has the label 'other'"),
        ({"max_in_scope_refused": 0.02}, ONLY_INSIDE, "no text of the validation split has the label 'other'"),
        ({}, ONLY_OUTSIDE, "every text of the validation split has the label 'other'"),
        ({"label": "none", "max_in_scope_refused": 0.02}, WITHOUT, "no training text has the label 'none'"),
    ],
)  # fmt: skip
def test_a_margin_that_the_data_cannot_have_is_refused(section, texts, missing):
    with pytest.raises(ConfigError) as refused:
        check_goals(job(export={"out_of_scope": {"score": "margin", **section}}), texts)
    assert str(refused.value).startswith(f"export.out_of_scope.score: margin given, but {missing}")
    assert "use energy" in str(refused.value) and "\n" not in str(refused.value)


def test_the_score_is_margin_where_a_model_has_the_output_and_both_kinds_of_texts_are_known():
    check_goals(job(export=MARGIN), TAUGHT)
    assert score_of(job(), TAUGHT) == score_of(job(export=MARGIN), TAUGHT) == "margin"
    assert score_of(job(), UNTAUGHT) == score_of(job(), ONLY_OUTSIDE) == "energy"
    bounded = {"max_in_scope_refused": 0.02}
    assert score_of(job(export={"out_of_scope": bounded}), ONLY_INSIDE) == "energy"
    assert score_of(job(export={"out_of_scope": {"score": "max_logit"}}), TAUGHT) == "max_logit"
    assert score_of(job(), ONLY_INSIDE) is score_of(job(), WITHOUT) is None


@pytest.mark.parametrize("name", ["oos_recall", "recall.other", "in_scope_accuracy", "macro_f1", "accuracy"])
def test_a_metric_of_a_class_that_is_taught_is_accepted(name):
    check_metrics(job(metric=name), TAUGHT)


@pytest.mark.parametrize("name", ["recall.send", "precision.pay", "in_scope_accuracy", "macro_f1"])
def test_an_untaught_out_of_scope_label_leaves_the_other_metrics(name):
    check_metrics(job(metric=name), UNTAUGHT)


def test_a_metric_of_an_entity_type_needs_texts_with_an_entity_of_it():
    entities = {"train": [[[0, 3, 0]], [[0, 3, 1]]], "validation": [[[0, 3, 0]], [], [[0, 3, 0]]]}
    names = tag_names(["city", "name"])
    made = {
        name: datasets.Dataset.from_dict(
            {"text": ["Ann flies"] * len(labels), "label": labels}, features=datasets.Features(
                {"text": datasets.Value("string"), "label": TAGS.feature(names)}
            )
        )
        for name, labels in {**entities, "test": entities["validation"]}.items()
    }  # fmt: skip
    tagged = TextData(datasets.DatasetDict(made), None, label_kind=TAGS, output_names=tuple(names))
    task = {"task": "token_classification"}
    for metric in ("f1.name", "precision.name", "recall.name"):
        with pytest.raises(
            ConfigError, match=rf"metric: '{metric}' given, but no text of the validation split"
        ):
            check_metrics(job(**task, metric=metric), tagged)
    check_metrics(job(**task, metric="recall.city"), tagged)
    check_metrics(job(**task), tagged)
    assert num_tested(job(**task, metric="recall.city"), tagged) == 2
    assert num_tested(job(**task), tagged) == 3
