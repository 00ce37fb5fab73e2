"""The free memory of a machine, and its GPUs as a fake driver describes them."""

from __future__ import annotations

import json

import pytest
from fake_gpus import TWO_GPUS, fake_cuda, fake_driver, needs_gpu

from distiltune.export.machine import describe_machine
from distiltune.training import machine


@pytest.fixture(autouse=True)
def cleared_cache():
    machine.gpus.cache_clear()
    yield
    machine.gpus.cache_clear()


def test_each_gpu_is_described_with_its_memory_and_versions(monkeypatch, tmp_path):
    fake_driver(monkeypatch, tmp_path, TWO_GPUS)
    assert machine.gpus() == (
        machine.Gpu("NVIDIA H200", 140.4, "570.86.15", "12.8"),
        machine.Gpu("NVIDIA L4", 0.0, "570.86.15", "12.8"),
    )
    assert str(machine.gpus()[0]) == "NVIDIA H200 (140.4 GiB), driver 570.86.15, CUDA 12.8"


def test_a_machine_record_has_its_gpus(monkeypatch, tmp_path):
    fake_driver(monkeypatch, tmp_path, TWO_GPUS)
    found = json.loads(json.dumps(describe_machine()))["gpus"]
    assert found[0] == {"name": "NVIDIA H200", "memory_gib": 140.4, "driver": "570.86.15", "cuda": "12.8"}
    assert [each["name"] for each in found] == ["NVIDIA H200", "NVIDIA L4"]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9),
        ("No devices were found", 0),
        ("", 0),
        ("<nvidia_smi_log>", 0),
        ("<nvidia_smi_log></nvidia_smi_log>", 0),
    ],
)
def test_without_a_valid_answer_of_the_driver_there_are_no_gpus(answer, status, monkeypatch, tmp_path):
    fake_driver(monkeypatch, tmp_path, answer, status)
    assert machine.gpus() == ()


def test_a_machine_without_the_command_has_no_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus() == ()


def test_the_device_of_a_process_is_described_with_its_driver(monkeypatch, tmp_path):
    assert machine.describe_device(use_gpu=False) == "CPU"
    fake_cuda(monkeypatch)
    fake_driver(monkeypatch, tmp_path, TWO_GPUS)
    monkeypatch.setattr("torch.version.cuda", "12.6")
    assert machine.describe_device(use_gpu=True) == "NVIDIA H200 (141 GiB), driver 570.86.15, CUDA 12.6"
    assert machine.num_visible_gpus() == 4


@pytest.mark.gpu
@needs_gpu
def test_the_real_driver_and_torch_agree():
    assert len(machine.gpus()) >= machine.num_visible_gpus() >= 1
    assert any(each.name in machine.describe_device(use_gpu=True) for each in machine.gpus())


def memory_files(folder, available="2048 kB", **groups):
    """Write files in which a kernel describes its memory and the limits of a container."""
    folder.mkdir()
    (folder / "meminfo").write_text(f"MemTotal:  99999 kB\nMemFree: 10 kB\nMemAvailable:  {available}\n")
    for name, content in groups.items():
        path = folder / name.replace("__", "/").replace("_of_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    return folder


V1 = "memory__memory_of_"


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({}, 2048 * 1024),
        ({"memory_of_max": "max\n", "memory_of_current": "5\n"}, 2048 * 1024),
        (
            {
                "memory_of_max": "1000\n",
                "memory_of_current": "700\n",
                "memory_of_stat": "anon 600\ninactive_file 90\n",
            },
            390,
        ),
        (
            {"memory_of_max": "9", "memory_of_current": "700", "memory_of_stat": "inactive_file 90\n"},
            0,
        ),
        (
            {
                f"{V1}limit_in_bytes": "1000",
                f"{V1}usage_in_bytes": "400",
                f"{V1}stat": "total_inactive_file 1\n",
            },
            601,
        ),
        (
            {
                f"{V1}limit_in_bytes": str(2**63),
                f"{V1}usage_in_bytes": "400",
                f"{V1}stat": "total_inactive_file 1\n",
            },
            2048 * 1024,
        ),
    ],
)
def test_free_memory_respects_the_limit_of_the_container(groups, expected, tmp_path):
    folder = memory_files(tmp_path / "files", **groups)
    assert machine.free_memory(folder, folder) == expected


def test_half_of_all_memory_is_assumed_where_none_is_reported(tmp_path):
    folder = memory_files(tmp_path / "files", available="")
    assert machine.free_memory(folder, tmp_path) == machine.free_memory(tmp_path, tmp_path) > 2**20
    assert 0 < machine.free_memory() < 2 * machine.free_memory(tmp_path, tmp_path)
