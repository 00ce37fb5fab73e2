"""Unusable `benchmark.targets` are rejected before the job starts, with what is missing and where."""

import logging

import pytest

from distiltune.cluster.pipeline.checks import targets as checks
from distiltune.cluster.pipeline.checks.targets import check_targets, check_targets_on_nodes
from distiltune.cluster.specification.config import load_config
from distiltune.cluster.specification.resources import ResourcesConfig
from distiltune.errors import ConfigError
from distiltune.export.benchmark import targets

ON_GPU = [each for each in targets.names() if targets.get(each).needs_gpu]


def job(*overrides):
    return load_config("quickstart-scratch", list(overrides))


@pytest.fixture
def installed(monkeypatch):
    """Let this machine have the packages of every target, and two GPUs."""
    monkeypatch.setattr(checks, "missing_here", lambda names: {})
    monkeypatch.setattr(checks, "_num_gpus", lambda: 2)


def nodes(monkeypatch, *resources, missing=None):
    """Stand in for a cluster's nodes, and for what is missing on those that are asked."""
    probed = []
    described = [
        {"Alive": True, "NodeID": str(n), "NodeManagerHostname": f"node-{n}", "Resources": each}
        for n, each in enumerate(resources)
    ]

    def ask(nodes, names):
        probed.extend(node["NodeManagerHostname"] for node in nodes)
        return {node["NodeManagerHostname"]: missing or {} for node in nodes}

    monkeypatch.setattr("ray.nodes", lambda: described)
    monkeypatch.setattr(checks, "_ask", ask)
    return probed


@pytest.mark.parametrize("name", ON_GPU)
def test_a_target_whose_packages_are_missing_here_is_refused(name, monkeypatch):
    monkeypatch.setattr("torch.version.cuda", None)
    with pytest.raises(ConfigError) as raised:
        check_targets(job(f"benchmark.targets=[cpu, {name}]"))
    assert str(raised.value).startswith(f"benchmark.targets: {name} given, but ")
    assert "install" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_machine_without_a_gpu_is_refused(installed, monkeypatch):
    check_targets(job("benchmark.targets=[cuda]"))
    monkeypatch.setattr(checks, "_num_gpus", lambda: 0)
    check_targets(job("benchmark.targets=[cpu]"))
    with pytest.raises(ConfigError, match=r"^benchmark\.targets: cuda given, but .* no NVIDIA GPU"):
        check_targets(job("benchmark.targets=[cuda]"))


def test_what_another_machine_lacks_is_not_asked_here(monkeypatch):
    monkeypatch.setattr(checks, "_num_gpus", lambda: 0)
    check_targets(job("benchmark.targets=[cuda, torch-cuda]", "resources.address=10.0.0.1:6379"))


@pytest.mark.parametrize(
    ("name", "variants", "is_accepted"),
    [
        ("cuda", "[onnx]", True),
        ("cuda", "[onnx-int8, onnx-fused-fp16]", True),
        ("cuda", "[onnx-int8]", False),
        ("tensorrt", "[onnx-int8, onnx-fused]", False),
        ("tensorrt", "[onnx-tensorrt-int8]", True),
        ("torch-cuda", "[onnx-int8]", True),
    ],
)
def test_a_target_that_measures_no_variant_of_the_job_is_refused(name, variants, is_accepted, installed):
    config = job(f"benchmark.targets=[cpu, {name}]", f"export.variants={variants}")
    if is_accepted:
        check_targets(config)
        return
    with pytest.raises(
        ConfigError, match=rf"^benchmark\.targets: {name} given, but export\.variants .* add one"
    ):
        check_targets(config)


def test_a_mixed_installation_is_a_warning_on_the_cpu(monkeypatch, caplog):
    monkeypatch.setattr(checks, "mixed_installation", lambda: "both are installed")
    with caplog.at_level(logging.WARNING):
        check_targets(job())
    assert [record.getMessage() for record in caplog.records] == ["both are installed"]


def test_the_driver_of_this_machine_is_asked_for_its_gpus(monkeypatch):
    class Driver:
        status, count = 0, 3

        def cuInit(self, flags):
            return self.status

        def cuDeviceGetCount(self, place):
            place._obj.value = self.count
            return 0

    monkeypatch.setattr(checks.ctypes, "CDLL", lambda name: Driver())
    assert checks._num_gpus() == 3
    monkeypatch.setattr(Driver, "status", 100)  # CUDA_ERROR_NO_DEVICE
    assert checks._num_gpus() == 0

    def no_library(name):
        raise OSError(name)

    monkeypatch.setattr(checks.ctypes, "CDLL", no_library)
    assert checks._num_gpus() == 0


# --- On a cluster ------------------------------------------------------------------------------------------------

CLUSTER = ResourcesConfig(address="auto")


def test_only_nodes_with_a_gpu_are_asked(monkeypatch):
    probed = nodes(monkeypatch, {"CPU": 8}, {"CPU": 8, "GPU": 1}, {"CPU": 4, "GPU": 4})
    check_targets_on_nodes(["cpu", "cuda"], CLUSTER)
    assert probed == ["node-1", "node-2"]


@pytest.mark.parametrize(("places", "resources"), [(["cpu"], CLUSTER), (["cpu", "cuda"], ResourcesConfig())])
def test_no_node_is_asked_without_need(places, resources, monkeypatch):
    probed = nodes(monkeypatch, {"CPU": 8})
    check_targets_on_nodes(places, resources)
    assert probed == []


@pytest.mark.parametrize(
    "resources",
    [
        {"address": "auto"},
        {"address": "auto", "autoscaling": [{"cpu": 4}]},
        {"address": "auto", "autoscaling": [{"cpu": 4, "gpu": 1}], "benchmark": {"cpu": 16}},
    ],
)
def test_a_cluster_without_a_fitting_node_is_refused(resources, monkeypatch):
    nodes(monkeypatch, {"CPU": 8})
    with pytest.raises(ConfigError, match=r"^benchmark\.targets: tensorrt given, but no node of the cluster"):
        check_targets_on_nodes(["tensorrt"], ResourcesConfig.model_validate(resources))


def test_a_node_that_the_cluster_adds_is_not_asked(monkeypatch):
    probed = nodes(monkeypatch, {"CPU": 8})
    resources = ResourcesConfig.model_validate({"address": "auto", "autoscaling": [{"cpu": 4, "gpu": 1}]})
    check_targets_on_nodes(["cuda"], resources)
    assert probed == []


def test_a_node_that_lacks_a_package_is_named(monkeypatch):
    nodes(monkeypatch, {"CPU": 8, "GPU": 1}, missing={"cuda": "it is not in this ONNX Runtime"})
    with pytest.raises(
        ConfigError, match=r"^benchmark\.targets: cuda given, but on node-0 it is not in this ONNX Runtime"
    ):
        check_targets_on_nodes(["cuda"], CLUSTER)


@pytest.mark.usefixtures("ray_session")
def test_a_node_reports_the_packages_that_it_lacks():
    """Asks the real node of the tests, which has no packages for GPUs."""
    import ray

    answers = checks._ask(ray.nodes(), ["cuda"])
    [missing] = answers.values()
    assert "CUDAExecutionProvider" in missing["cuda"]
