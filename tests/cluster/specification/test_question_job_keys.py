"""Keys of a job of questions: what is recognised, which columns are read, and which keys are rejected by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from askers import questions, write_squad

from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.cluster.specification.new_job import new_job
from distiltune.errors import ConfigError

TASK = "question_answering"
FILES = {"source": "files", "train": "a.jsonl"}


def written(folder: Path, **more: Any) -> str:
    path = folder / "job.json"
    path.write_text(json.dumps({"task": TASK, "data": FILES, **more}))
    return str(path)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"student": {"kind": "convolution"}}, ("student.kind", "'convolution'", "layers, checkpoint")),
        ({"student": {"kind": "static"}}, ("student.kind", "'static'")),
        ({"training": {"balance": "sampler"}}, ("training.balance", "'sampler'", "single_label")),
        (
            {"training": {"arguments": {"label_smoothing_factor": 0.1}}},
            ("training.arguments.label_smoothing_factor", "0.1", "single_label"),
        ),
        ({"teacher": {"logits": "teacher.parquet"}}, ("teacher.logits", "each token")),
        ({"metric": "accuracy"}, ("metric", "'accuracy'", "f1, exact_match")),
        ({"export": {"out_of_scope": {}}}, ("export.out_of_scope",)),
        ({"export": {"label_thresholds": {}}}, ("export.label_thresholds",)),
        *(
            ({"data": {**FILES, "augmentation": {name: {"count": 5}}}}, (f"data.augmentation.{name}", "context"))
            for name in ("masked", "spliced", "dropped")
        ),
        ({"data": {**FILES, "diagnostics": {"cross_fit": 3}}}, ("data.diagnostics.cross_fit",)),
        ({"data": {**FILES, "unlabelled": {"path": "more.txt"}}}, ("unlabelled.text_pair_column",)),
        ({"benchmark": {"query": "who was it?"}}, ("benchmark.query",)),
    ],
)  # fmt: skip
def test_keys_about_whole_texts_are_refused_by_name(tmp_path, given, names):
    with pytest.raises(ConfigError) as error:
        load_config(written(tmp_path, **given), [])
    assert all(name in str(error.value) for name in names)


def test_the_rest_of_a_job_has_the_defaults_of_the_task(tmp_path):
    config = load_config(written(tmp_path), [])
    assert (config.metric, config.search.metric, config.search.mode) == ("f1", "validation_f1", "max")
    data: Any = config.data
    assert (data.text_column, data.text_pair_column, data.label_column) == ("question", "context", "answers")
    assert data.takes_pairs and config.export.out_of_scope is None
    assert JobConfig.model_validate_json(config.model_dump_json()) == config


def test_other_columns_are_those_that_are_given(tmp_path):
    given = {**FILES, "text_column": "asked", "label_columns": ["answer", "start"]}
    data: Any = load_config(written(tmp_path, data=given), []).data
    assert (data.text_column, data.text_pair_column) == ("asked", "context")
    assert data.label_format.columns == ("answer", "start")
    hub: Any = JobConfig.model_validate({"task": TASK, "data": {"dataset": "a/squad"}}).data
    assert (hub.source, hub.text_pair_column, hub.label_column) == ("hub", "context", "answers")
    assert JobConfig.model_validate({"task": TASK}).data.source == "embedded", (
        "no source is chosen by columns"
    )


def test_a_file_of_squad_and_a_checkpoint_are_recognised(tmp_path):
    path = write_squad(tmp_path / "train.json", questions(8))
    assert JobConfig.model_validate({"data": {"source": "files", "train": str(path)}}).task == TASK
    (tmp_path / "job.yaml").write_text("data: {train: train.json}\n")
    assert load_config(str(tmp_path / "job.yaml"), []).task == TASK
    for content in ("[]", '{"data": 1}', '{"text": "a", "label": "b"}', ""):
        path.write_text(content)
        assert (
            JobConfig.model_validate({"data": {"source": "files", "train": str(path)}}).task == "single_label"
        )
    for name in ("missing.json", "~nobody/x.json", "train.csv"):
        assert JobConfig.model_validate({"data": {"source": "files", "train": name}}).task == "single_label"
    config = {"model_type": "bert", "architectures": ["BertForQuestionAnswering"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    job = {"data": FILES, "teacher": {"checkpoint": str(tmp_path)}}
    assert JobConfig.model_validate(job).task == TASK


def test_a_new_job_is_written_for_a_file_of_squad(tmp_path):
    path = write_squad(tmp_path / "train.json", questions(60, unanswerable=True))
    made = new_job(str(path), tmp_path / "job.yaml")
    assert any("'question'" in line and "'context'" in line for line in made.summary)
    assert any("60 questions, 20 of them without an answer" in line for line in made.summary)
    (tmp_path / "job.yaml").write_text(made.content)
    config = load_config(str(tmp_path / "job.yaml"), [])
    assert config.task == TASK and config.data.takes_pairs
