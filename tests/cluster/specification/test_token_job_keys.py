"""Keys of a job of entities: what is recognised, and keys about whole texts, which are rejected by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.errors import ConfigError

TASK = "token_classification"


def written(folder: Path, **more: Any) -> str:
    path = folder / "job.json"
    path.write_text(json.dumps({"task": TASK, "data": {"source": "files", "train": "train.conll"}, **more}))
    return str(path)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"student": {"kind": "convolution"}}, ("student.kind", "'convolution'", "layers, checkpoint")),
        ({"student": {"kind": "static"}}, ("student.kind", "'static'")),
        ({"training": {"balance": "sampler"}}, ("training.balance", "'sampler'", "single_label")),
        ({"teacher": {"logits": "teacher.parquet"}}, ("teacher.logits", "each token")),
        ({"metric": "accuracy"}, ("metric", "'accuracy'", "entity_f1", "token_accuracy")),
        ({"export": {"out_of_scope": {}}}, ("export.out_of_scope",)),
        ({"export": {"label_thresholds": {}}}, ("export.label_thresholds",)),
        (
            {"data": {"source": "files", "train": "a.jsonl", "text_pair_column": "b"}},
            ("data.text_pair_column",),
        ),
        (
            {"data": {"source": "files", "train": "a.jsonl", "augmentation": {"masked": {"count": 5}}}},
            ("data.augmentation.masked", "words"),
        ),
        (
            {"data": {"source": "files", "train": "a.jsonl", "diagnostics": {"cross_fit": 3}}},
            ("data.diagnostics.cross_fit",),
        ),
    ],
)
def test_keys_about_whole_texts_are_refused_by_name(tmp_path, given, names):
    with pytest.raises(ConfigError) as error:
        load_config(written(tmp_path, **given), [])
    assert all(name in str(error.value) for name in (*names, TASK)) or names[0] == "metric"
    assert all(name in str(error.value) for name in names)


def test_the_rest_of_a_job_has_the_defaults_of_the_task(tmp_path):
    config = load_config(written(tmp_path), [])
    assert config.metric == "entity_f1"
    assert (config.search.metric, config.search.mode) == ("validation_entity_f1", "max")
    assert config.export.out_of_scope is None and config.export.label_thresholds is None
    assert JobConfig.model_validate_json(config.model_dump_json()) == config
    typed = load_config(written(tmp_path, metric="recall.PER"), [])
    assert typed.search.metric == "validation_recall.PER"


@pytest.mark.parametrize("name", ["train.conll", "a/TRAIN.CONLL", "x.iob2", "x.bio"])
def test_a_conll_file_is_recognised(name):
    assert JobConfig.model_validate({"data": {"source": "files", "train": name}}).task == TASK


def test_a_checkpoint_is_recognised_by_its_head(tmp_path):
    for head, expected in (
        ("BertForTokenClassification", TASK),
        ("BertForSequenceClassification", "single_label"),
        ("BertModel", "single_label"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": [head]}))
        job = {"data": {"source": "files", "train": "a.jsonl"}, "teacher": {"checkpoint": str(tmp_path)}}
        assert JobConfig.model_validate(job).task == expected
    job["task"] = "single_label"
    assert JobConfig.model_validate(job).task == "single_label"
