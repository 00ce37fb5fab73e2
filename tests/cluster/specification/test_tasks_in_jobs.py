"""The task of a job: how it is recognised, and keys that do not apply to it, which are rejected."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distiltune.cluster.specification.config import JobConfig
from distiltune.search.space.space import fixed_values
from distiltune.training.tasks.config import task_of_checkpoint

FILES = {"source": "files", "train": "data.csv"}


def job(**values: Any) -> JobConfig:
    return JobConfig.model_validate(values)


def checkpoint(folder, problem_type: str | None) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "problem_type": problem_type}))
    return str(folder)


@pytest.mark.parametrize(
    ("data", "problem_type", "task"),
    [
        ({}, None, "single_label"),
        ({"label_separator": ";"}, None, "multi_label"),
        ({"label_columns": ["a", "b"]}, None, "multi_label"),
        ({"label_columns": ["a", "b"]}, "regression", "regression"),
        ({}, "regression", "regression"),
        ({}, "multi_label_classification", "multi_label"),
        ({}, "single_label_classification", "single_label"),
        ({}, "nothing_known", "single_label"),
    ],
)
def test_a_task_is_recognised_from_the_data_and_the_teacher(data, problem_type, task, tmp_path) -> None:
    teacher = {} if problem_type is None else {"checkpoint": checkpoint(tmp_path / "teacher", problem_type)}
    config = job(data={**FILES, **data}, **({"teacher": teacher} if teacher else {}))
    assert config.task == task
    assert JobConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("is_downloaded", [True, False])
@pytest.mark.parametrize(
    ("values", "task"),
    [
        ({"problem_type": "regression"}, "regression"),
        ({"architectures": ["BertForTokenClassification"]}, "token_classification"),
        ({"architectures": ["BertForSequenceClassification"]}, "single_label"),
    ],
)
def test_the_task_of_a_hub_id_is_recognised_from_what_has_been_downloaded(
    values, task, is_downloaded, tmp_path, monkeypatch
) -> None:
    commit = "0" * 40
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--someone--teacher"
    for file, content in {
        cached / "refs/main": commit,
        cached / "blobs/abc": json.dumps({"model_type": "bert", **values}),
    }.items():
        file.parent.mkdir(parents=True)
        file.write_text(content)
    if is_downloaded:
        link = cached / "snapshots" / commit / "config.json"
        link.parent.mkdir(parents=True)
        link.symlink_to("../../blobs/abc")
    found = job(teacher={"checkpoint": "someone/teacher"}).task
    assert found == (task if is_downloaded else "single_label")


@pytest.mark.parametrize(
    "name", ["offline:all-MiniLM-L6-v2", "not a name", "a/b/c", "/nowhere", "~nobody/x", "x\0y"]
)
def test_a_checkpoint_that_is_nowhere_implies_no_task(name) -> None:
    assert task_of_checkpoint(name) is None


def test_a_task_that_is_given_is_not_recognised(tmp_path) -> None:
    teacher = {"checkpoint": checkpoint(tmp_path / "teacher", "regression")}
    assert (
        job(task="multi_label", data={**FILES, "label_columns": ["a"]}, teacher=teacher).task == "multi_label"
    )
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/config.json").write_text("{")
    assert job(teacher={"checkpoint": str(tmp_path / "damaged")}).task == "single_label"


def test_defaults_follow_the_task() -> None:
    several, numbers, one = (job(task=name) for name in ("multi_label", "regression", "single_label"))
    assert (several.metric, numbers.metric, one.metric) == ("macro_f1", "pearson", "accuracy")
    assert several.export.label_thresholds is not None and several.export.label_thresholds.goal == "f1"
    assert numbers.export.label_thresholds is one.export.label_thresholds is None
    assert fixed_values(numbers.search)["temperature"] == 1, "its losses have none to search"
    assert "temperature" not in fixed_values(several.search)
    assert job(task="multi_label", export={"label_thresholds": None}).export.label_thresholds is None
    assert job(task="regression", metric="rmse").search.mode == "min"


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (
            {"task": "single_label", "export": {"label_thresholds": {}}},
            ["export.label_thresholds", "multi_label"],
        ),
        (
            {"task": "regression", "export": {"label_thresholds": {}}},
            ["export.label_thresholds", "multi_label"],
        ),
        (
            {"task": "multi_label", "training": {"balance": "sampler"}},
            ["training.balance: 'sampler'", "single_label"],
        ),
        (
            {"task": "regression", "training": {"balance": "class_weights"}},
            ["training.balance", "single_label"],
        ),
        ({"task": "multi_label", "export": {"out_of_scope": {}}}, ["export.out_of_scope", "single_label"]),
        ({"task": "regression", "data": {"out_of_scope_label": "oos"}}, ["data.out_of_scope_label"]),
        (
            {"task": "multi_label", "data": {"diagnostics": {"cross_fit": 3}}},
            ["data.diagnostics.cross_fit: 3"],
        ),
        ({"task": "multi_label", "metric": "accuracy"}, ["'accuracy' is not a metric", "subset_accuracy"]),
        ({"task": "regression", "metric": "macro_f1"}, ["'macro_f1' is not a metric", "pearson"]),
        (
            {
                "task": "regression",
                "metric": "rmse",
                "export": {"choose": {"min_validation_metric": 0.5}},
            },
            ["export.choose.min_validation_metric", "lower is better in rmse"],
        ),
        (
            {"task": "regression", "training": {"arguments": {"label_smoothing_factor": 0.1}}},
            ["training.arguments.label_smoothing_factor: 0.1", "multi_label"],
        ),
        *(
            (
                {"task": task, "teacher": {"fine_tune": {"checkpoint": "x", "contrastive": {}}}},
                ["teacher.fine_tune.contrastive", task, "single_label, multi_label"],
            )
            for task in ("regression", "token_classification", "question_answering")
        ),
        (
            {
                "task": "regression",
                "teacher": {
                    "ensemble": [{"scratch": {}}, {"fine_tune": {"checkpoint": "x", "contrastive": {}}}]
                },
            },
            ["teacher.ensemble.1.fine_tune.contrastive", "single_label, multi_label"],
        ),
        (
            {"task": "multi_label", "export": {"label_thresholds": {"goal": "f1", "at_least": 0.5}}},
            ["at_least: 0.5"],
        ),
    ],
)
def test_keys_of_another_task_are_refused(values, parts) -> None:
    with pytest.raises(ValueError, match=r"(?s).*") as raised:
        job(**values)
    assert all(part in str(raised.value) for part in parts), str(raised.value)


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_texts_that_may_share_labels_are_fine_tuned_on_pairs(task) -> None:
    tuned = job(task=task, teacher={"fine_tune": {"checkpoint": "x", "contrastive": {}}}).teacher.fine_tune
    assert tuned is not None and tuned.contrastive is not None
