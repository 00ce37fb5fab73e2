"""The tasks that stages send: their resources, and what a search gets."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from distiltune.cluster.pipeline import stages
from distiltune.cluster.session import ray_session
from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.cluster.specification.goal import accuracy_with_threshold
from distiltune.cluster.store.runs import Storage, now
from distiltune.training.data.text_data import load_data

ON_DEMAND = "resources.autoscaling=[{cpu: 8, gpu: 1}]"


class SearchBegunError(Exception):
    """Raised in place of a search."""


@pytest.fixture(scope="module")
def data():
    return load_data(JobConfig().data)


@pytest.fixture
def run(tmp_path):
    return Storage(str(tmp_path), retry_s=0).create("a")


def cluster_of(monkeypatch, *nodes):
    """Stand in for a cluster of nodes with these CPUs and GPUs."""
    monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": sum(gpus for _, gpus in nodes)})
    described = [
        {"Alive": True, "NodeID": str(number), "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}
        for number, (cpus, gpus) in enumerate(nodes)
    ]
    monkeypatch.setattr("ray.nodes", lambda: described)


@pytest.mark.parametrize(
    ("num_teachers", "nodes", "expected"),
    [
        (1, [(16, 0)], (16, 0)),
        (4, [(1, 0)], (1, 0)),
        (4, [(2, 0)], (1, 0)),
        (4, [(16, 0)], (4, 0)),
        (2, [(4, 0), (16, 0)], (8, 0)),
        (4, [(16, 1)], (16, 1)),
        (4, [(32, 0), (16, 2)], (8, 1)),
    ],
)
def test_teachers_of_an_ensemble_divide_a_node(num_teachers, nodes, expected, data, run, monkeypatch):
    cluster_of(monkeypatch, *nodes)
    overrides = [f"teacher.ensemble={num_teachers}", "resources.teacher=null"]
    config = load_config("quickstart-scratch", overrides)
    found = stages.Stages(config, config, run, data, None)._teacher_resources(print)
    assert (found.cpu, found.gpu) == expected


def test_requested_resources_of_a_teacher_are_taken_as_they_are(data, run, monkeypatch):
    cluster_of(monkeypatch, (16, 0))
    config = load_config("quickstart-scratch", ["teacher.ensemble=4", "resources.teacher={cpu: 3, gpu: 0}"])
    found = stages.Stages(config, config, run, data, None)._teacher_resources(print)
    assert found == config.resources.teacher


def test_a_teacher_waits_for_the_gpu_that_a_cluster_adds(data, run, monkeypatch):
    cluster_of(monkeypatch, (16, 0))
    requested = []

    def added(needs):
        requested.append(needs)
        cluster_of(monkeypatch, (16, 0), (8, 1))

    monkeypatch.setattr(ray_session, "_wait_for_node", added)
    config = load_config("quickstart-scratch", [ON_DEMAND, "resources.teacher=null"])
    reports = []
    own = stages.Stages(config, config, run, data, None)
    for found in (
        own._teacher_resources(reports.append),
        own._or_whole_node(None, reports.append),
    ):
        assert (found.cpu, found.gpu) == (8, 1)
    assert requested == [{"CPU": 1, "GPU": 1}]
    assert [each.message for each in reports] == ["waiting for a node of its own"]


@pytest.mark.parametrize(
    ("overrides", "gpus", "expected"),
    [
        ([], 0, 0),
        ([], 8, "auto"),
        (["resources.trial.gpu=0.25"], 8, 0.25),
        (["resources.trial.gpu=0"], 8, 0),
        (["resources.mps=true"], 8, "auto"),
        (["resources.mps=true"], 0, 0),
        (["resources.mps=true", "resources.trial.gpu=0"], 8, 0),
        (["resources.mps=true", "resources.trial.processes=2"], 8, "auto"),
        ([ON_DEMAND], 0, "auto"),  # scaled to zero
        ([ON_DEMAND, "resources.trial.gpu=0.25"], 0, 0.25),
        ([ON_DEMAND, "resources.trial.gpu=0"], 0, 0),
        (["resources.autoscaling=[{cpu: 8}]"], 0, 0),
    ],
)
def test_a_search_shares_the_gpus_of_the_cluster(overrides, gpus, expected, data, run, monkeypatch):
    given, services = {}, []

    def search(*_, **options):
        given.update(options)
        raise SearchBegunError

    @contextmanager
    def daemons(*, wanted: bool):
        services.append(wanted)
        yield {"node": "/run/mps"} if wanted else {}

    cluster_of(monkeypatch, (16, gpus))
    monkeypatch.setattr("distiltune.search.driver.run_search.run_search", search)
    monkeypatch.setattr(stages, "mps_daemons", daemons)
    config = load_config("quickstart-scratch", overrides)
    record = {
        "stage": "teacher",
        "state": "finished",
        "started": now(),
        "result": {"key": "cache/teachers/a"},
    }
    run.write("stages/teacher.json", record)
    made = stages.Stages(config, config, run, data, None)
    made._splits = {"validation": SimpleNamespace(tokens=None)}
    with pytest.raises(SearchBegunError):
        made.search(lambda _: None)
    assert given["gpus_per_trial"] == expected
    is_shared = expected != 0 and config.resources.trial.processes == 1
    assert services == [is_shared and config.resources.mps]
    assert given["mps"] == ({"node": "/run/mps"} if services[0] else {})


def test_the_record_of_a_search_has_its_precision_and_packing(data, run):
    own = stages.Stages(JobConfig(), JobConfig(), run, data, None)
    assert own._search_records() == {}
    run.store.write_json(f"{run.search}-precision.json", {"bf16": True, "device": "NVIDIA H200"})
    assert own._search_records() == {"precision": {"bf16": True, "device": "NVIDIA H200"}}
    run.store.write_json(f"{run.search}-packing.json", {"gpus": 0.125})
    assert own._search_records()["packing"] == {"gpus": 0.125}


@pytest.mark.parametrize("section", ["{in_scope_weight: 0.5}", "null"])
def test_every_epoch_of_a_search_is_measured_with_the_threshold_of_the_export(
    section, data, run, monkeypatch
):
    given = []

    def search(config, training, inputs, **_):
        given.append(inputs)
        raise SearchBegunError

    cluster_of(monkeypatch, (2, 0))
    monkeypatch.setattr("distiltune.search.driver.run_search.run_search", search)
    config = load_config("quickstart-scratch", [f"export.out_of_scope={section}"])
    teacher = {"key": "cache/teachers/a"}
    record = {"stage": "teacher", "state": "finished", "started": now(), "result": teacher}
    run.write("stages/teacher.json", record)
    made = stages.Stages(config, config, run, data, None)
    made._splits = {"validation": SimpleNamespace(tokens=None)}
    with pytest.raises(SearchBegunError):
        made.search(lambda _: None)
    [inputs] = given
    assert inputs.accuracy_with_threshold == accuracy_with_threshold(config, data)
    assert inputs.has_threshold == (section != "null")
