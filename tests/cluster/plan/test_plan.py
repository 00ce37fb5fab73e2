"""A plan tries changes greedily, keeps those that gain enough and pass the gate, and can be resumed."""

import json
import re

import numpy as np
import pytest
import yaml
from commands import distiltune, one_line
from runfiles import times

from distiltune.cluster.plan.plan import Outcome, changed, check_plan, tries
from distiltune.cluster.plan.run_plan import run_plan
from distiltune.cluster.specification.config import JobConfig, PlanConfig, load_config
from distiltune.cluster.specification.resources import StorageConfig
from distiltune.errors import ConfigError, InputError, RunFailedError
from distiltune.export.benchmark.accuracy.predictions import pack_answers
from distiltune.export.benchmark.measure_models import Measurement

NUM_TEXTS = 2000
STEPS = [
    {"key": "student.layers", "values": [[0, 1], [0]]},
    {"key": "training.max_length", "values": [16, 8]},
    {"key": "student.vocabulary.size", "values": [900]},
]


def outcome(number, latency, size, num_wrong):
    """A run whose variant gets the first ``num_wrong`` validation texts wrong."""
    labels = np.zeros(NUM_TEXTS, dtype=int)
    predictions = (np.arange(NUM_TEXTS) < num_wrong).astype(int)
    row = Measurement(
        name="onnx-int8", kind="onnx", size_mb=size, latency_ms=times(latency), sample_latency_ms=times(latency),
        throughput={}, peak_memory_mb=1.0, num_threads=1, query="a text",
        validation_accuracy=1 - num_wrong / NUM_TEXTS,
        answers={"validation": {"without_threshold": pack_answers(predictions, predictions == labels)}},
    )  # fmt: skip
    return Outcome(f"run-{number}", row)


def test_changes_are_kept_while_they_gain_enough_and_pass():
    config = JobConfig.model_validate({"training": {"max_length": 64}, "plan": {"steps": STEPS}})
    jobs = []

    def do(job, number):
        jobs.append(job)
        layers, length = job.student.layers, job.training.max_length
        vocabulary = job.student.vocabulary
        latency = {2: 4.0, 1: 2.0}[len(layers)] if layers != [0, 3] else 8.0
        # One layer loses 60 of 2,000 texts, more than 0.01; a shorter text costs nothing and gains nothing.
        wrong = 100 + (60 if layers == [0] else 0) + (5 if vocabulary else 0)
        size = 10.0 if vocabulary is None else 6.0
        return outcome(number, latency if length == 64 else latency * 0.99, size, wrong)

    found = list(tries(config, check_plan(config), do))
    summary = [(tried.key, tried.value, tried.kept) for tried, _ in found]
    assert summary == [
        (None, None, True),
        ("student.layers", [0, 1], True),
        ("student.layers", [0], False),
        ("training.max_length", 16, False),
        ("student.vocabulary.size", 900, True),
    ]
    assert [tried.cost for tried, _ in found] == pytest.approx([1, 0.5, 0.25, 0.495, 0.3])
    assert "below -0.01" in found[2][0].reason
    assert re.search("1.0 %.*min_gain 0.03", found[3][0].reason)
    assert found[4][0].against_base["only_second"] == 5
    kept = found[-1][1]
    assert kept.student.layers == [0, 1]
    assert kept.training.max_length == 64
    assert kept.student.vocabulary.size == 900
    assert kept.plan is None
    assert all(job.plan is None for job in jobs)


def test_a_run_without_a_variant_is_refused_and_the_first_must_have_one():
    config = JobConfig.model_validate({"plan": {"steps": STEPS[:1]}})
    found = list(
        tries(
            config,
            check_plan(config),
            lambda _, number: (
                outcome(0, 4.0, 9.0, 100) if number == 0 else Outcome("run-1", None, "too slow")
            ),
        )
    )
    assert [(tried.kept, tried.reason) for tried, _ in found[1:]] == [(False, "too slow")]
    assert found[-1][1].student == config.student
    with pytest.raises(RunFailedError, match=r"run-0, .*: too slow"):
        next(tries(config, check_plan(config), lambda *_: Outcome("run-0", None, "too slow")))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("student.layer", [0], "student.layer: unknown key"),
        ("pupil.layers", [0], "pupil is not a section"),
        ("training.max_length", 1, r"training\.max_length: accepted: auto, .*4 .*given 1\b"),
        ("student.layers.0", 1, "student.layers is not a section"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(key, value, message):
    with pytest.raises(ConfigError, match=message):
        changed(JobConfig(), key, value)


def test_a_plan_without_steps_is_refused_in_one_line(tmp_path):
    one_line(distiltune(tmp_path / "state", "plan", "quickstart"), "plan.steps: none given", "key:")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            {"steps": [{"key": "student.layers", "values": [[0], [0, 9]]}]},
            r"plan\.steps: student\.layers \[0, 9\]: .*9",
        ),
        (
            {"steps": [{"key": "student.width", "values": [{"num_attention_heads": 64}]}]},
            "student.width.num_attention_heads: 64 given",
        ),
        (
            {"max_accuracy_drop": 1e-4, "steps": [{"key": "export.variants", "values": [["onnx-int8"]]}]},
            r"^plan\.max_accuracy_drop: 0\.0001 given, but the [\d,]+ validation texts",
        ),
    ],
)
def test_what_a_later_run_would_refuse_is_refused_before_the_first(plan, message, tmp_path):
    config = load_config("quickstart", ["export.choose.strict=true"]).model_copy(
        update={
            "plan": PlanConfig.model_validate(plan),
            "storage": StorageConfig(path=str(tmp_path / "runs")),
        }
    )
    with pytest.raises(InputError, match=message):
        run_plan(config, "job")
    assert not list((tmp_path / "runs").glob("runs/*"))


@pytest.mark.slow
def test_a_plan_from_the_command_line_is_resumed_where_it_was(tmp_path):
    job = {
        "data": {"max_train_examples": 300},
        "teacher": {
            "scratch": {"vocab_size": 600, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                        "intermediate_size": 64, "num_train_epochs": 2},
        },
        "student": {"layers": [0, 1]},
        "training": {"max_length": 24, "num_train_epochs": 1},
        "search": {"num_trials": 1, "space": {"num_train_epochs": {"type": "fixed", "value": 1}}},
        "export": {"variants": ["onnx"], "choose": {"max_drop_from_student": 1.0}},
        "benchmark": {
            "effort": "quick", "num_warmups": 1, "num_runs": 5, "num_sample_texts": 10, "batch_sizes": [1],
            "lengths": [], "interleaved": False, "baselines": [],
        },
        "plan": {
            "minimise": "size_mb",
            "max_accuracy_drop": 1.0,
            "steps": [
                {"key": "student.layers", "values": [[1]]},
                {"key": "student.seed", "values": [5]},
            ],
        },
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    ask = ("plan", tmp_path / "job.yaml", "--storage", tmp_path / "runs", "--run-id", "small")
    done = distiltune(tmp_path / "state", *ask, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "student.seed" in done.stdout
    assert "pull small-1 --to DIR" in done.stdout
    again = distiltune(tmp_path / "state", *ask, "--json", timeout=280)
    assert again.returncode == 0, again.stderr
    assert "started" not in again.stderr
    record = json.loads(again.stdout)
    assert [(tried["key"], tried["kept"]) for tried in record["tried"]] == [
        (None, True), ("student.layers", True), ("student.seed", False),
    ]  # fmt: skip
    assert record["run_id"] == "small-1"
    assert record == json.loads((tmp_path / "runs" / "plans" / "small.json").read_text())
