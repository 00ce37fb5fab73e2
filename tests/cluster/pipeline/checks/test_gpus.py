"""GPUs that Ray counts and torch cannot use are rejected before a job costs time; nodes and answers are simulated."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest
from fake_gpus import fake_command, needs_gpu

from distiltune.cluster.pipeline.checks import gpus
from distiltune.cluster.pipeline.checks.gpus import NO_RESPONSE, ask_torch, check_gpus, fault_of
from distiltune.cluster.specification.resources import ResourcesConfig
from distiltune.errors import ConfigError

WORKS = json.dumps(["2.13.0", "13.0", 8])
REMOTE = SimpleNamespace(remote=lambda: "sent")
NO_GPUS = {"trial": {"gpu": 0}, "teacher": {"gpu": 0}}


def cluster_of(monkeypatch, answers: dict[str, tuple[float, str]]) -> list[str]:
    """Stand in for nodes with GPUs by Ray's count and their answers; return the nodes that are asked."""
    probed: list[str] = []

    def answer(counts):
        probed.extend(counts)
        return {node: answers[node][1] for node in counts}

    nodes = [
        {"Alive": True, "NodeID": name, "NodeManagerHostname": name, "Resources": {"CPU": 8, "GPU": count}}
        for name, (count, _) in answers.items()
    ]
    monkeypatch.setattr(
        "ray.nodes", lambda: [*nodes, {"Alive": False, "NodeID": "gone", "Resources": {"GPU": 1}}]
    )
    monkeypatch.setattr(gpus, "_answers", answer)
    return probed


def test_nodes_whose_gpus_torch_sees_are_accepted(monkeypatch):
    probed = cluster_of(monkeypatch, {"a": (8, WORKS), "b": (4, WORKS), "c": (0, "not asked")})
    check_gpus(ResourcesConfig())
    assert probed == ["a", "b"]


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (json.dumps(["2.13.0+cpu", None, 0]), ["2.13.0+cpu", "CPUs alone", "install its build for CUDA"]),
        (json.dumps(["2.13.0", "13.0", 0]), ["driver", "does not answer", "CUDA 13.0", "nvidia-smi"]),
        (json.dumps(["2.13.0", "13.0", 1]), ["sees 1", "--gpus 1"]),
        (f"a warning of some library\n{json.dumps(['2.13.0+cpu', None, 0])}\n", ["CPUs alone"]),
        ("ModuleNotFoundError: No module named 'torch'", ["does not start", "No module named 'torch'"]),
        ("", ["does not start (it printed nothing)", "reinstall"]),
        (NO_RESPONSE, ["driver", "does not answer", "nvidia-smi"]),
        ("1\n2", ["does not start (2)"]),
    ],
)
def test_a_fault_names_parameter_node_count_and_remedy(answer, named, monkeypatch):
    cluster_of(monkeypatch, {"a": (8, WORKS), "node-b": (2, answer)})
    with pytest.raises(ConfigError) as raised:
        check_gpus(ResourcesConfig())
    message = str(raised.value)
    for each in ("resources.trial.gpu", "node-b", "2 GPUs", *named, "CUDA_VISIBLE_DEVICES"):
        assert each in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("resources", "parameter"),
    [
        (NO_GPUS, None),
        ({"trial": {"gpu": 0}}, "resources.teacher.gpu"),  # by default a teacher gets one
        ({**NO_GPUS, "export": {"gpu": 1}}, "resources.export.gpu"),
        ({**NO_GPUS, "benchmark": {"gpu": 0.5}}, "resources.benchmark.gpu"),
        ({**NO_GPUS, "benchmark": {"cpu": 4}}, None),
        ({**NO_GPUS, "benchmark": {"gpu": None}}, None),
    ],
)
def test_only_a_job_that_may_use_a_gpu_is_checked(resources, parameter, monkeypatch):
    probed = cluster_of(monkeypatch, {"a": (1, json.dumps(["2.13.0+cpu", None, 0]))})
    if parameter is None:
        check_gpus(ResourcesConfig.model_validate(resources))
        assert not probed
    else:
        with pytest.raises(ConfigError, match=parameter):
            check_gpus(ResourcesConfig.model_validate(resources))


def test_a_node_that_is_late_has_no_response(monkeypatch):
    monkeypatch.setattr("ray.remote", lambda _: SimpleNamespace(options=lambda **_: REMOTE))
    monkeypatch.setattr("ray.wait", lambda sent, **_: ([], sent))
    assert gpus._answers({"ab" * 28: ("host", 1)}) == {"ab" * 28: NO_RESPONSE}


def test_a_job_with_a_gpu_target_is_checked(monkeypatch):
    cluster_of(monkeypatch, {"a": (1, json.dumps(["2.13.0+cpu", None, 0]))})
    resources = ResourcesConfig.model_validate(NO_GPUS)
    check_gpus(resources, ["cpu"])
    with pytest.raises(ConfigError, match=r"resources\.benchmark\.gpu"):
        check_gpus(resources, ["cpu", "torch-cuda"])


def test_a_process_of_its_own_asks_the_driver_and_not_its_library(monkeypatch, tmp_path):
    script = f"echo \"$PYTORCH_NVML_BASED_CUDA_CHECK\"; echo '{WORKS}'"
    monkeypatch.setattr(
        gpus.sys, "executable", str(fake_command(monkeypatch, tmp_path, "python-of-node", script))
    )
    answer = ask_torch()
    assert answer.splitlines()[0] == "0"
    assert fault_of(answer, 8) is None


def test_a_process_that_fails_answers_with_its_last_line(monkeypatch, tmp_path):
    script = "echo Traceback >&2; echo 'ImportError: libcudart.so' >&2; exit 1"
    monkeypatch.setattr(
        gpus.sys, "executable", str(fake_command(monkeypatch, tmp_path, "python-of-node", script))
    )
    assert fault_of(ask_torch(), 1) == (
        "PyTorch there does not start (ImportError: libcudart.so); reinstall it"
    )


def test_a_driver_that_hangs_is_at_fault_and_not_torch(monkeypatch, tmp_path):
    monkeypatch.setattr(gpus, "_ANSWER_WITHIN_S", 0.2)
    monkeypatch.setattr(
        gpus.sys, "executable", str(fake_command(monkeypatch, tmp_path, "python-of-node", "exec sleep 30"))
    )
    fault = fault_of(ask_torch(), 1)
    assert fault is not None and "nvidia-smi" in fault and "reinstall" not in fault


@pytest.mark.gpu
@needs_gpu
def test_the_real_torch_answers_for_the_real_gpus():
    import torch

    assert "CUDA_VISIBLE_DEVICES" not in os.environ or os.environ["CUDA_VISIBLE_DEVICES"]
    assert fault_of(ask_torch(), torch.cuda.device_count()) is None
