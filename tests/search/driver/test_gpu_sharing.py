"""Measurements on the cluster's GPUs before a search's trials share them; their results are simulated."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from distiltune.errors import RunFailedError
from distiltune.search.config import SearchConfig
from distiltune.search.driver import gpu_sharing
from distiltune.search.driver.experiment import SearchSetup, reuses_processes
from distiltune.search.driver.gpu_sharing import heaviest_trials, packing_key, share_gpus
from distiltune.search.trial.packing import CONTEXT_BYTES, GpuMemory, Packing
from distiltune.storage.store import Store
from distiltune.training.distillation.config import TrainingConfig

GIB = 2**30
NODE = {"CPU": 16.0, "GPU": 1.0, "accelerator_type:H200": 1.0}
SMALL = GpuMemory(GIB, 141 * GIB, 141 * GIB, GIB)


class Cluster:
    """Simulates Ray: answers probes, counts requests, and runs nothing."""

    def __init__(self, monkeypatch, memories, rates=(), nodes=(NODE,)) -> None:
        import ray

        self.probes: list[str] = []
        self.types: list[str] = []
        self.fractions: list[float] = []
        self.shares: list[float] = []
        self.timed: list[Any] = []
        self.met: list[int] = []
        self._memories, self._rates = iter(memories), iter(rates)
        self._rate = 0.0
        monkeypatch.setattr(gpu_sharing, "live_nodes", lambda: list(nodes))
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "NodeID": "ab" * 28, "Resources": NODE}])
        monkeypatch.setattr(ray, "put", lambda value: value)
        monkeypatch.setattr(ray, "get", lambda sent: [each() for each in sent])
        monkeypatch.setattr(ray, "remote", self._remote)

    def _remote(self, **options):
        def of(function):
            def with_options(**given):
                return SimpleNamespace(
                    remote=lambda *arguments: self._send(function, {**options, **given}, arguments),
                    options=with_options,
                )

            return with_options()

        return of

    def _send(self, function, options, given):
        if function is gpu_sharing.Meeting:
            self.met.append(given[0])
            return SimpleNamespace()
        self.probes.append(function.__name__)
        assert options["max_retries"] == 0
        if function.__name__ == "measure_memory":
            assert options["num_gpus"] == 1
            self.types.append(options["accelerator_type"])
            return lambda: next(self._memories)
        self.timed.append(given[0])
        self.fractions.append(options["num_gpus"])
        self.shares.append(given[2].gpu_share)
        num = round(1 / options["num_gpus"])
        if len([each for each in self.fractions if each == options["num_gpus"]]) == 1:
            self._rate = next(self._rates)
        rate = self._rate / num
        return lambda: [0.0, *(number / rate for number in range(1, 1 + int(10 * rate)))]


@pytest.fixture
def settings(tmp_path) -> Any:
    from distiltune.search.trial.inputs import TrialSettings

    store = Store(str(tmp_path))
    return TrialSettings(TrainingConfig(), "m", "max", store, "a/search", "t", "l", 1, use_gpu=True)


def share(settings, requested: Any = "auto", points=({},), **options) -> Packing:
    inputs: Any = "inputs"
    return share_gpus(requested, points, inputs, settings, 1, 64, **options)


def test_memory_and_cpus_decide_and_the_result_is_recorded(monkeypatch, settings):
    cluster = Cluster(monkeypatch, [SMALL])
    found = share(settings)
    assert found.gpus == 0.125 and found.memory_share == pytest.approx(0.92 / 8 - CONTEXT_BYTES / (141 * GIB))
    record = settings.store.read_json(packing_key("a/search"))
    assert (record["gpus"], record["by_cpus"], record["types"]) == (0.125, 16, ["accelerator_type:H200"])
    assert record["memory"] == [{"peak": GIB, "free": 141 * GIB, "total": 141 * GIB, "estimated": GIB}]
    assert cluster.probes == ["measure_memory"]


def test_a_resumed_search_measures_nothing_again_on_the_same_gpus(monkeypatch, settings):
    Cluster(monkeypatch, [SMALL])
    first = share(settings)
    again = Cluster(monkeypatch, [])
    assert share(settings) == first and not again.probes
    other = Cluster(monkeypatch, [SMALL], nodes=[{"CPU": 4.0, "GPU": 2.0, "accelerator_type:L4": 1.0}])
    assert share(settings).gpus == 0.5 and other.probes
    fraction = Cluster(monkeypatch, [SMALL])
    assert share(settings, 0.25).gpus == 0.25 and fraction.probes


def test_every_student_is_probed(monkeypatch, settings):
    large = GpuMemory(60 * GIB, 141 * GIB, 141 * GIB, GIB)
    cluster = Cluster(monkeypatch, [SMALL, large])
    assert share(settings, points=[{"student.num_layers": 1}, {"student.num_layers": 6}]).gpus == 0.5
    assert cluster.probes == ["measure_memory"] * 2


def test_every_type_of_gpu_is_probed_and_the_smallest_decides(monkeypatch, settings):
    nodes = [NODE, {"CPU": 16.0, "GPU": 1.0, "accelerator_type:L4": 1.0}, NODE]
    small = GpuMemory(GIB, 4 * GIB, 24 * GIB, GIB)  # used by others as well
    cluster = Cluster(monkeypatch, [SMALL, SMALL, small, small], [100.0, 200.0, 300.0], nodes)
    found = share(settings, points=[{"student.num_layers": 1}, {"student.num_layers": 6}])
    assert found.gpus == pytest.approx(1 / 3, abs=1e-4)
    assert found.memory_share == pytest.approx((0.92 * 4 / 3 - CONTEXT_BYTES / GIB) / 24)
    assert cluster.types == ["H200", "H200", "L4", "L4"]


def test_the_largest_trial_of_several_types_is_the_one_whose_throughput_is_measured(monkeypatch, settings):
    nodes = [NODE, {"CPU": 16.0, "GPU": 1.0, "accelerator_type:L4": 1.0}]
    large = GpuMemory(2 * GIB, 24 * GIB, 24 * GIB, GIB)
    cluster = Cluster(monkeypatch, [SMALL, SMALL, large, SMALL], [100.0, 100.0], nodes)
    share(settings, points=[{"student.num_layers": 6}, {"student.num_layers": 1}], measure_throughput=True)
    assert {tuple(point.items()) for point in cluster.timed} == {(("student.num_layers", 6),)}


@pytest.mark.parametrize(
    ("rates", "num", "fractions"),
    [
        ([100.0, 190.0, 350.0, 600.0, 620.0], 8, [1.0, 0.5, 0.25, 0.125, 0.0625]),
        ([100.0, 105.0], 1, [1.0, 0.5]),
    ],
)
def test_throughput_is_measured_by_doubling_where_the_job_asks_for_it(
    rates, num, fractions, monkeypatch, settings
):
    cluster = Cluster(monkeypatch, [SMALL], rates)
    found = share(settings, measure_throughput=True)
    assert found.gpus == 1 / num
    assert list(dict.fromkeys(cluster.fractions)) == fractions
    assert cluster.met == [round(1 / each) for each in fractions], "all of a measurement begin together"
    for fraction, own in zip(cluster.fractions, cluster.shares, strict=True):
        assert own == pytest.approx(0.92 * fraction - CONTEXT_BYTES / (141 * GIB))
    assert len(settings.store.read_json(packing_key("a/search"))["rates"]) == len(rates)


@pytest.mark.parametrize(("requested", "gpus"), [("auto", 1.0), (0.25, 0.25)])
def test_without_a_gpu_yet_nothing_is_measured(requested, gpus, monkeypatch, settings, caplog):
    cluster = Cluster(monkeypatch, [], nodes=[{"CPU": 4.0}])
    assert share(settings, requested) == Packing(gpus)
    assert "no GPU yet" in caplog.text and not cluster.probes


@pytest.mark.parametrize(
    ("is_killed", "reason"), [(False, "the checkpoint is gone$"), (True, "The worker died unexpectedly")]
)
def test_a_failed_probe_has_its_reason(is_killed, reason, monkeypatch, settings):
    import ray
    from ray.exceptions import RayTaskError, WorkerCrashedError

    cause = ValueError("the checkpoint is gone\nand more")
    error = WorkerCrashedError() if is_killed else RayTaskError("measure_memory", "traceback", cause)
    Cluster(monkeypatch, [SMALL])

    def fail(sent):
        raise error

    monkeypatch.setattr(ray, "get", fail)
    with pytest.raises(RunFailedError, match=rf"cannot be measured: {reason}"):
        share(settings)


def test_trials_that_are_timed_together_wait_for_the_last_one():
    async def arrived(num_here: int) -> int:
        meeting = gpu_sharing.Meeting(3)
        waiting = [asyncio.create_task(meeting.arrive()) for _ in range(num_here)]
        done, late = await asyncio.wait(waiting, timeout=0.05)
        for each in late:
            each.cancel()
        return len(done)

    assert [asyncio.run(arrived(number)) for number in (1, 2, 3)] == [0, 0, 3]


HIDDEN = "hidden_loss_weight"
COSINE = "training.losses.cosine.weight"


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({}, {}),
        ({HIDDEN: 0.0}, {HIDDEN: 0.0}),
        ({HIDDEN: 0.5}, {HIDDEN: 0.5}),
        ({HIDDEN: {"type": "float", "low": 0.0, "high": 1.0}}, {HIDDEN: 1.0}),
        ({HIDDEN: {"type": "choice", "values": [2.0, 0.0]}}, {HIDDEN: 2.0}),
        # If it does not apply, a trial has the value of the section `training`.
        ({"alpha": 0.5, HIDDEN: {"type": "choice", "values": [0.0], "when": {"alpha": 0.5}}}, {"alpha": 0.5}),
        ({COSINE: {"type": "float", "low": 0.0, "high": 3.0}}, {COSINE: 3.0}),
    ],
)
def test_a_probe_runs_the_teacher_where_a_trial_may(space, expected):
    [found] = heaviest_trials(SearchConfig.model_validate({"space": space}), TrainingConfig(batch_size=32))
    assert found == {"per_device_train_batch_size": 32, **expected}


@pytest.mark.parametrize(
    ("space", "training", "size"),
    [
        ({}, {"batch_size": 32}, 32),
        ({"batch_size": {"type": "choice", "values": [256, 16]}}, {"batch_size": 32}, 256),
        ({"per_device_train_batch_size": 128}, {}, 128),
        ({}, {"arguments": {"per_device_train_batch_size": 96}}, 96),
    ],
)
def test_a_probe_has_the_largest_batch_under_one_name(space, training, size):
    [found] = heaviest_trials(SearchConfig.model_validate({"space": space}), TrainingConfig(**training))
    assert found["per_device_train_batch_size"] == size and "batch_size" not in found


def test_there_is_a_probe_for_each_student():
    layers = {"student.num_layers": {"type": "int", "low": 1, "high": 3}}
    found = heaviest_trials(SearchConfig.model_validate({"space": layers}), TrainingConfig())
    assert [each["student.num_layers"] for each in found] == [1, 2, 3]


@pytest.mark.parametrize(
    ("space", "given", "num_processes", "reuses"),
    [
        ({}, {}, 1, True),
        ({}, {}, 2, False),
        ({}, {"compile_step": True}, 1, False),
        ({}, {"compile_step": False}, 1, True),
        ({"compile_step": True}, {}, 1, False),
        ({"compile_step": {"type": "choice", "values": [False, True]}}, {}, 1, False),
        ({"compile_step": False}, {}, 1, True),
    ],
)
def test_a_trial_that_may_be_compiled_has_a_process_of_its_own(space, given, num_processes, reuses, settings):
    training = TrainingConfig(arguments=given)
    setup = SearchSetup(
        SearchConfig.model_validate({"space": {"learning_rate": 1e-3, **space}}),
        replace(settings, training=training, num_processes=num_processes),
        1,
        1,
    )
    assert reuses_processes(setup) == reuses
