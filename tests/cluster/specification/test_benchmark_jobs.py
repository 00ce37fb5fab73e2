"""The jobs that the results pages name are valid."""

from pathlib import Path

import pytest
import yaml

from distiltune.cluster.specification.config import load_config

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
JOBS = [
    path for path in sorted(BENCHMARKS.rglob("*.yaml")) if "changes" not in yaml.safe_load(path.read_text())
]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_is_valid_and_seeded(path):
    assert load_config(str(path), []).seed == yaml.safe_load(path.read_text())["seed"]


def test_there_is_a_job_for_each_measured_task():
    tasks = {load_config(str(path), []).task for path in (BENCHMARKS / "tasks").glob("*.yaml")}
    assert tasks >= {
        "single_label",
        "multi_label",
        "regression",
        "token_classification",
        "question_answering",
    }
