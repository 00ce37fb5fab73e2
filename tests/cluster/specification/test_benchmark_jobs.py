"""The jobs of ``benchmarks/compression`` stay jobs that this version takes."""

import importlib.util
from pathlib import Path

import pytest

from distiltune.cluster.plan.plan import changed
from distiltune.cluster.specification.config import load_config

JOBS = Path(__file__).parents[3] / "benchmarks" / "compression"
CHANGES = ("frontier.yaml", "techniques.yaml")  # a job and changes of it, see benchmarks/techniques.py


@pytest.mark.parametrize(
    "name", sorted(path.name for path in JOBS.glob("*.yaml") if path.name not in CHANGES)
)
def test_each_is_a_job(name):
    assert load_config(str(JOBS / name), []).export.out_of_scope is not None


@pytest.mark.parametrize("name", CHANGES)
def test_each_technique_is_a_change_of_its_job(name):
    spec = importlib.util.spec_from_file_location("techniques", JOBS.parent / "techniques.py")
    assert spec is not None and spec.loader is not None
    techniques = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(techniques)
    given = techniques.load_yaml(JOBS / name)
    for title, changes in given["changes"].items():
        job = given["job"]
        for key, value in changes.items():
            job = changed(job, key, value)
        assert job != given["job"], title
