"""The baselines of a job: which it has, what they are trained on, and what is left behind."""

import json
import tempfile
from pathlib import Path

import pytest

from distiltune.cluster.pipeline.reuse.models import ModelReuse
from distiltune.cluster.pipeline.reuse.specs import measurement_specs
from distiltune.cluster.remote.baselines import (
    baseline_content,
    baseline_specs,
    baseline_texts,
    check_baselines,
    left_out,
    with_training_texts,
)
from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.cluster.specification.relative import resolve_paths
from distiltune.cluster.store.runs import Run, Storage, now
from distiltune.errors import ConfigError, ModelError
from distiltune.export.baselines import base
from distiltune.export.baselines.fit import TEXTS_FILE
from distiltune.export.benchmark.measure_models import Measurement
from distiltune.training.data.text_data import load_data
from distiltune.training.tasks import TASKS


def job(*overrides):
    return load_config("quickstart-scratch", list(overrides))


@pytest.fixture(scope="module")
def data():
    return load_data(job().data)


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(base, "find_spec", lambda module: None)


@pytest.fixture
def all_installed(monkeypatch):
    monkeypatch.setattr(base, "find_spec", lambda module: object())


def test_a_job_has_its_baselines_in_order(all_installed) -> None:
    config = job("benchmark.baselines=[fasttext, tfidf-svm]")
    assert [(spec.name, spec.kind, spec.directory) for spec in baseline_specs(config)] == [
        ("fasttext", "baseline", ""),
        ("tfidf-svm", "baseline", ""),
    ]
    assert baseline_specs(job("benchmark.baselines=[]")) == []


def test_without_scikit_learn_the_default_is_left_out_with_a_note(nothing_installed, caplog) -> None:
    assert baseline_specs(job()) == []
    assert left_out(job()) == {"tfidf-svm": "scikit-learn is not installed; pip install scikit-learn"}
    check_baselines(job())
    assert "benchmark.baselines: tfidf-svm is left out: scikit-learn is not installed" in caplog.text


@pytest.mark.parametrize("name", ["fasttext", "model2vec"])
def test_one_that_is_named_is_refused_without_its_package(name, nothing_installed) -> None:
    with pytest.raises(ConfigError, match=rf"benchmark\.baselines: '{name}' given.*distiltune\[baselines\]"):
        check_baselines(job(f"benchmark.baselines=[{name}]", "benchmark.model2vec=some-model"))


def test_model2vec_needs_its_model(all_installed, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"'model2vec' given.*set benchmark\.model2vec"):
        check_baselines(job("benchmark.baselines=[model2vec]"))
    missing = f"benchmark.model2vec={tmp_path}/none"
    with pytest.raises(ModelError, match=r"benchmark\.model2vec: .*none"):
        check_baselines(job("benchmark.baselines=[model2vec]", missing))
    check_baselines(job(missing))  # the key of a baseline that the job does not have


def test_a_relative_model_is_beside_the_job_file(tmp_path) -> None:
    (tmp_path / "static").mkdir()
    values = {"benchmark": {"model2vec": "static"}}
    resolve_paths(values, tmp_path)
    assert values == {"benchmark": {"model2vec": str(tmp_path / "static")}}


def test_it_is_trained_on_the_labelled_training_texts_alone(data, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config = job("training.balance=sampler", "training.seed=7", "data.augmentation={spliced: {count: 40}}")
    specs, store = baseline_specs(config), Storage(config.storage.path).store
    with with_training_texts(specs, config, store, data) as prepared:
        [spec] = prepared
        file = Path(spec.directory) / TEXTS_FILE
        given = json.loads(file.read_text())
        assert file.parent.stat().st_mode & 0o077 == 0
    assert given["train_texts"] == data.splits["train"]["text"][:]
    assert given["train_labels"] == data.splits["train"]["label"][:]
    assert given["validation_texts"] == data.splits["validation"]["text"][:]
    assert (given["is_balanced"], given["seed"], given["out_of_scope_label"]) == (
        True,
        7,
        data.out_of_scope_label,
    )
    assert not list(tmp_path.iterdir())
    assert not baseline_texts(job(), data).is_balanced
    with with_training_texts([], config, store, data) as prepared:
        assert prepared == [] and not list(tmp_path.iterdir())


def test_what_changes_a_baseline_changes_its_key(monkeypatch) -> None:
    usual = baseline_content(job(), "tfidf-svm")
    assert usual == baseline_content(job("search.num_trials=3", "training.max_length=16"), "tfidf-svm")
    for change in ("training.balance=class_weights", "training.seed=3"):
        assert baseline_content(job(change), "tfidf-svm") != usual
    assert baseline_content(job("training.balance=sampler"), "tfidf-svm") == baseline_content(
        job("training.balance=class_weights"), "tfidf-svm"
    )
    monkeypatch.setattr(base.metadata, "version", lambda package: "9.9")
    assert baseline_content(job(), "tfidf-svm") != usual


def test_the_model_of_model2vec_is_part_of_its_key(tmp_path) -> None:
    config = job("benchmark.baselines=[model2vec]", f"benchmark.model2vec={tmp_path}")
    keys = []
    for weights in ("one", "two"):
        (tmp_path / "model.safetensors").write_text(weights)
        (tmp_path / "config.json").write_text("{}")
        keys.append(baseline_content(config, "model2vec"))
    assert keys[0] != keys[1]


@pytest.fixture
def run(tmp_path) -> Run:
    """A run with a teacher, and no variant."""
    run = Run(Storage(str(tmp_path / "runs")).store, "one")
    for stage, result in {"teacher": {"key": "t"}, "export": {"variants": []}}.items():
        record = {"stage": stage, "state": "finished", "started": now(), "result": result}
        run.store.write_json(run.key(f"stages/{stage}.json"), record)
    return run


def test_a_run_measures_them_after_its_models(run) -> None:
    names = [spec.name for spec in measurement_specs(job(), run)]
    assert names == ["teacher-pytorch", "student-pytorch", "tfidf-svm"]


def measurement(name: str) -> Measurement:
    return Measurement(name, "baseline", 1.0, {"p50": 1.0}, {}, {}, 3.0, 1, "q")


def test_the_record_of_the_benchmark_says_what_was_left_out(run, data, all_installed, monkeypatch) -> None:
    config = job("benchmark.baselines=[tfidf-svm, fasttext, model2vec]")
    models = ModelReuse(config, run, data)
    specs = baseline_specs(config)
    record, text = models.measured(
        specs, {"tfidf-svm": measurement("tfidf-svm")}, {}, {"fasttext": "no memory"}
    )
    assert [row["name"] for row in record["measurements"]] == ["tfidf-svm"]
    assert list(record["left_out"]) == ["model2vec", "fasttext"]
    assert record["left_out"]["fasttext"] == "no memory"
    assert text == "1 models measured"


@pytest.mark.parametrize("task", [each.name for each in TASKS if each.name != "single_label"])
def test_a_job_of_another_task_has_none_by_default_and_refuses_named_ones(
    task, all_installed, caplog
) -> None:
    def of_task(**benchmark):
        return JobConfig.model_validate({"task": task, "benchmark": benchmark})

    config = of_task(effort="quick")
    assert config.benchmark.baselines == [] and baseline_specs(config) == []
    check_baselines(config)
    check_baselines(JobConfig())
    assert not caplog.text
    with pytest.raises(
        ConfigError, match=rf"benchmark\.baselines: 'fasttext' given.*single_label.*{task}; remove it"
    ):
        check_baselines(of_task(baselines=["fasttext"]))
    check_baselines(of_task(baselines=["tfidf-svm"]))  # such as in the specification of an earlier run
    assert "benchmark.baselines: tfidf-svm is left out: it supports the task single_label" in caplog.text
