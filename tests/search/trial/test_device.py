"""The device of a worker: the answers of Ray and torch are simulated; tests marked gpu use a real one."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from fake_gpus import fake_cuda, needs_gpu

from distiltune.search.trial import device
from distiltune.search.trial.device import DeviceError, own_device, visible_devices, why_unavailable

VISIBLE = "CUDA_VISIBLE_DEVICES"


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch):
    monkeypatch.delenv(VISIBLE, raising=False)


def assign(monkeypatch, *ids: str) -> None:
    monkeypatch.setattr(device, "assigned_gpus", lambda: list(ids))


def test_a_process_without_a_gpu_sees_none_and_all_is_restored(monkeypatch):
    fake_cuda(monkeypatch, 4)
    assign(monkeypatch, "3")  # not asked
    assert torch.cuda.device_count() == 4
    with own_device(use_gpu=False):
        assert os.environ[VISIBLE] == ""
        assert not torch.cuda.is_available()
    assert VISIBLE not in os.environ


@pytest.mark.parametrize("given", [None, "0,1,2,3", "3"])
@pytest.mark.parametrize("own", ["3", "GPU-8f3a", "MIG-6b2d"])
def test_a_process_sees_its_own_gpu_alone_also_where_ray_shows_it_all(given, own, monkeypatch):
    fake_cuda(monkeypatch, 4)
    assign(monkeypatch, own)
    if given is not None:
        monkeypatch.setenv(VISIBLE, given)
    with own_device(use_gpu=True):
        assert os.environ[VISIBLE] == own
        assert torch.cuda.device_count() == 1
    assert os.environ.get(VISIBLE) == given


def test_two_processes_of_one_node_get_their_own(monkeypatch):
    fake_cuda(monkeypatch, 4)
    seen = []
    for own in ("0", "3"):
        assign(monkeypatch, own)
        with own_device(use_gpu=True):
            seen.append(os.environ[VISIBLE])
    assert seen == ["0", "3"]


def test_outside_of_ray_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv(VISIBLE, "1,2")
    assert visible_devices([], use_gpu=True) == "1,2"
    assert visible_devices([], use_gpu=False) == ""
    monkeypatch.delenv(VISIBLE)
    assert visible_devices([], use_gpu=True) is None


def test_several_gpus_for_one_process_are_refused():
    with pytest.raises(DeviceError, match=r"2 GPUs to one process"):
        visible_devices(["0", "1"], use_gpu=True)


def test_an_assigned_gpu_that_torch_cannot_use_is_an_error_and_not_the_cpu(monkeypatch):
    fake_cuda(monkeypatch, 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assign(monkeypatch, "3")
    with pytest.raises(DeviceError, match=r"GPU 3 was assigned.*PyTorch"), own_device(use_gpu=True):
        pytest.fail("the block must not run")
    assert VISIBLE not in os.environ


def test_a_process_that_has_opened_another_gpu_is_refused(monkeypatch):
    fake_cuda(monkeypatch, 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)  # counted once, when CUDA was initialised
    assign(monkeypatch, "3")
    with pytest.raises(DeviceError, match=r"already opened 4 GPUs"), own_device(use_gpu=True):
        pytest.fail("the block must not run")


@pytest.mark.parametrize(
    ("cuda", "named"), [(None, ["2.13.0+cpu", "CPUs alone"]), ("13.0", ["driver", "CUDA 13.0", "nvidia-smi"])]
)
def test_the_reason_names_version_and_remedy(cuda, named):
    text = why_unavailable("2.13.0+cpu", cuda)
    assert all(each in text for each in named)


def test_what_a_trial_left_is_freed_after_it_however_it_ends(monkeypatch):
    fake_cuda(monkeypatch, 1, initialised=True)
    calls = []
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: calls.append(name))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", calls.append)
    assign(monkeypatch, "0")
    with pytest.raises(KeyError), own_device(use_gpu=True):
        assert calls == []
        raise KeyError
    assert calls == ["empty_cache", 1.0, "reset_peak_memory_stats"]


@pytest.mark.parametrize("was_compiled", [True, False])
def test_graphs_of_a_compiled_trial_are_freed_before_the_cache_is_emptied(was_compiled, monkeypatch):
    fake_cuda(monkeypatch, 1, initialised=True)
    calls = []
    monkeypatch.delitem(sys.modules, device._GRAPHS, raising=False)
    if was_compiled:
        monkeypatch.setitem(sys.modules, device._GRAPHS, ModuleType("graphs"))
    monkeypatch.setattr(torch._dynamo, "reset", lambda: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty_cache"))
    for name in ("reset_peak_memory_stats", "set_per_process_memory_fraction"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    assign(monkeypatch, "0")
    with own_device(use_gpu=True):
        pass
    assert calls == ["reset"] * was_compiled + ["empty_cache"]


def test_ids_come_from_ray_and_there_are_none_outside_of_it(monkeypatch):
    class Context:
        def get_accelerator_ids(self):
            return {"GPU": ["3"], "TPU": []}

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    assert device.assigned_gpus() == []
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.get_runtime_context", Context)
    assert device.assigned_gpus() == ["3"]


@pytest.mark.gpu
@needs_gpu
def test_a_process_without_a_gpu_opens_no_context():
    code = (
        "import torch\n"
        "from distiltune.search.trial.device import own_device\n"
        "from distiltune.training.distillation.arguments import DistillationTrainingArguments\n"
        "with own_device(use_gpu=False):\n"
        "    DistillationTrainingArguments(output_dir='unused', use_cpu=True)\n"
        "    torch.manual_seed(0)\n"
        "    print(torch.cuda.is_initialized(), torch.cuda.device_count())\n"
    )
    environment = {**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "0"]


@pytest.mark.gpu
@needs_gpu
def test_a_trial_leaves_no_memory_on_its_gpu():
    with own_device(use_gpu=True):
        block = torch.zeros(64 * 2**20, dtype=torch.uint8, device="cuda")
        assert torch.cuda.memory_reserved() >= block.numel()
        del block
    assert torch.cuda.memory_reserved() == 0
