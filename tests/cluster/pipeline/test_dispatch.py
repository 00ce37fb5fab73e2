"""The progress of a stage's task: what it does once it is placed, and what it waits for before that."""

import time

import pytest
from fake_gpus import needs_gpu

from distiltune.cluster.pipeline import dispatch as dispatching
from distiltune.cluster.pipeline.dispatch import Dispatcher, together
from distiltune.cluster.remote import begin as beginning
from distiltune.cluster.remote.begin import begin
from distiltune.cluster.remote.tasks import Task
from distiltune.cluster.remote.teacher_labels import _report_labelling
from distiltune.cluster.specification.config import JobConfig
from distiltune.cluster.specification.resources import ResourcesConfig, TaskResources
from distiltune.cluster.store.runs import Run, Storage
from distiltune.errors import ModelError, RunFailedError
from distiltune.progress import Progress
from distiltune.search.trial.device import DeviceError

TWO_CPUS = TaskResources(cpu=2, gpu=0)


@pytest.fixture
def run(tmp_path):
    return Run(Storage(str(tmp_path / "store"), retry_s=0).store, "a")


@pytest.fixture
def dispatcher(run):
    return Dispatcher(JobConfig(), run)


def task_of(run, stage, part=""):
    name = "-".join(filter(None, [stage, part]))
    progress = run.key(f"stages/{name}.task-progress.json")
    return Task(run.store, JobConfig(), "log", progress, 1, use_gpu=False, unfinished="unfinished")


def test_a_task_without_a_place_waits_for_its_resources(dispatcher):
    assert dispatcher.state("teacher", TWO_CPUS, 1.0) is None, "its worker may be starting"
    found = dispatcher.state("teacher", TWO_CPUS, 60.0)
    assert found.message == "waiting for 2 CPUs on one node"
    assert found.values == {"waiting_for": "2 CPUs on one node"}


@pytest.mark.parametrize(
    ("stage", "part", "message"),
    [
        ("teacher", "", "preparing the teacher"),
        ("teacher", "2", "preparing the teacher"),
        ("logits", "", "labelling the texts with the teacher"),
        ("student", "", "making the student"),
        ("export", "onnx-int8", "exporting onnx-int8"),
        ("benchmark", "", "measuring the models"),
    ],
)
def test_a_working_task_is_never_reported_as_waiting(stage, part, message, dispatcher, run):
    task = task_of(run, stage, part)
    run.store.write_json(task.progress, {"text": ""})
    found = dispatcher.state(stage, TWO_CPUS, 3600.0, part=part)
    assert (found.message, found.values) == (message, {"waiting_for": None})


def test_what_a_task_reports_comes_with_its_counts(dispatcher, run):
    task = task_of(run, "teacher")
    values = {"done": 1, "total": 5, "validation_accuracy": 0.5}
    task.report(Progress("epoch 2 of 5, fine-tuning the teacher", values))
    found = dispatcher.state("teacher", TWO_CPUS, 3600.0)
    assert found.message == "epoch 2 of 5, fine-tuning the teacher"
    assert found.values == {"waiting_for": None, "done": 1, "total": 5}


def test_placement_is_recorded_before_libraries_are_loaded(dispatcher, run, monkeypatch):
    """The work is a reference, which is resolved only after the placement was recorded."""
    task, seen = task_of(run, "teacher"), []

    def get(reference):
        assert reference == "reference"
        seen.append(dispatcher.state("teacher", TWO_CPUS, 3600.0).message)
        return (lambda task, value: value + 1), task, (41,)

    monkeypatch.setattr("ray.get", get)
    assert begin(run.store, task.progress, ["reference"]) == 42
    assert seen == [f"loading libraries on {beginning.socket.gethostname()}"]
    assert dispatcher.state("teacher", TWO_CPUS, 3600.0).message == "preparing the teacher"


def test_texts_are_counted_over_all_teachers(dispatcher, run):
    task = task_of(run, "logits")
    report = _report_labelling(task, "labelling the texts of train with teacher 2 of 3", 1, 3)
    report(Progress("50 of 100 texts", {"done": 50, "total": 100}))
    found = dispatcher.state("logits", TWO_CPUS, 0.0)
    assert found.message == "labelling the texts of train with teacher 2 of 3; 50 of 100 texts"
    assert (found.values["done"], found.values["total"]) == (150, 300)


class Cluster:
    """Simulates Ray: a task is represented by its part, and each poll runs the next step of a script."""

    def __init__(self, dispatcher, run, monkeypatch, script):
        self._run, self._script, self.sent = run, iter(script), []
        monkeypatch.setattr(dispatcher, "send", self.send)
        monkeypatch.setattr("ray.wait", self.wait)
        monkeypatch.setattr("ray.get", self.get)

    def send(self, stage, function, wanted, *arguments, part):
        self.sent.append((part, arguments))
        return part

    def wait(self, tasks, timeout):
        records, ended = next(self._script)
        for part, record in records.items():
            self._run.store.write_json(self._run.key(f"stages/teacher-{part}.task-progress.json"), record)
        return [part for part in tasks if part in ended], [part for part in tasks if part not in ended]

    def get(self, part):
        from ray.exceptions import RayTaskError

        if part == "fails":
            raise RayTaskError("make", "", ModelError("no such checkpoint"))
        return f"teacher {part}"


def epoch(number):
    return {"text": f"epoch {number} of 4", "done": number - 1, "total": 4}


def do_parts(dispatcher, names, reports):
    parts = {name: (name,) for name in names}
    return dispatcher.do_parts("teacher", None, TWO_CPUS, parts, name="teacher", report=reports.append)


def test_parallel_parts_are_reported_together(dispatcher, run, monkeypatch):
    script = [
        ({"1": epoch(2)}, []),
        ({"1": epoch(3), "2": epoch(1)}, []),
        ({"2": epoch(4)}, ["1"]),
        ({"3": epoch(2)}, ["2"]),
        ({}, ["3"]),
    ]
    cluster, reports = Cluster(dispatcher, run, monkeypatch, script), []
    assert do_parts(dispatcher, ["1", "2", "3"], reports) == ["teacher 1", "teacher 2", "teacher 3"]
    assert cluster.sent == [("1", ("1",)), ("2", ("2",)), ("3", ("3",))], "all at once"
    assert [progress.values["parts"] for progress in reports] == [
        ["teacher 1 of 3: epoch 2 of 4"],
        ["teacher 1 of 3: epoch 3 of 4", "teacher 2 of 3: epoch 1 of 4"],
        ["teacher 2 of 3: epoch 4 of 4"],
        ["teacher 3 of 3: epoch 2 of 4"],
    ]
    assert reports[1].message == "teacher 1 of 3: epoch 3 of 4; teacher 2 of 3: epoch 1 of 4"
    assert [progress.values["done"] for progress in reports] == [1, 2, 4 + 3, 8 + 1]
    assert {progress.values["total"] for progress in reports} == {12}


def test_a_later_part_may_end_first(dispatcher, run, monkeypatch):
    Cluster(dispatcher, run, monkeypatch, [({}, ["2"]), ({}, ["1"])])
    assert do_parts(dispatcher, ["1", "2"], []) == ["teacher 1", "teacher 2"]


def test_the_fault_of_one_part_is_raised_while_others_run(dispatcher, run, monkeypatch):
    Cluster(dispatcher, run, monkeypatch, [({"1": epoch(1)}, []), ({}, ["fails"])])
    with pytest.raises(ModelError, match="no such checkpoint"):
        do_parts(dispatcher, ["1", "fails"], [])


def test_a_lost_worker_of_a_part_is_a_fault_of_the_stage(dispatcher, run, monkeypatch):
    from ray.exceptions import RayError

    Cluster(dispatcher, run, monkeypatch, [({}, ["1"])])
    monkeypatch.setattr("ray.get", lambda _: (_ for _ in ()).throw(RayError("node died")))
    with pytest.raises(RunFailedError, match="a worker was lost: node died"):
        do_parts(dispatcher, ["1"], [])


WAITS = Progress("waiting for 2 CPUs on one node", {"waiting_for": "2 CPUs on one node"})


@pytest.mark.parametrize(
    ("states", "num_ended", "expected"),
    [
        ({"teacher 1 of 2": None, "teacher 2 of 2": None}, 0, None),
        ({}, 2, None),
        (
            {"teacher 1 of 2": WAITS, "teacher 2 of 2": WAITS},
            0,
            ("teacher 1 of 2: waiting for 2 CPUs on one node", {"waiting_for": "2 CPUs on one node"}),
        ),
        (
            {"a": WAITS, "b": Progress("half", {"done": 1, "total": 2, "waiting_for": None})},
            1,
            ("b: half", {"waiting_for": None, "done": 3, "total": 6}),
        ),
        (
            {"a": Progress("", {"done": 50, "total": 100}), "b": Progress("", {"done": 5, "total": 10})},
            0,
            ("a; b", {"done": 100, "total": 200}),
        ),
    ],
    ids=["starting", "ended", "all wait", "one works", "other units"],
)
def test_the_progress_of_parts_is_that_of_one_task(states, num_ended, expected):
    found = together(states, num_ended)
    if expected is None:
        assert found is None
        return
    message, values = expected
    assert found.message == message
    assert {name: value for name, value in found.values.items() if name != "parts"} == values


def test_only_some_of_many_parts_are_shown():
    found = together({f"teacher {n} of 20": Progress("works") for n in range(1, 21)}, 0)
    assert len(found.values["parts"]) == 9 and found.values["parts"][-1] == "12 more"


def sent(monkeypatch, dispatcher, wanted, cluster_gpus=0.0):
    """Capture the task that is sent, with its function and options, in place of Ray."""
    found = {}

    class Remote:
        def __init__(self, function, decorated):
            found.update(decorated=decorated)

        def options(self, **options):
            found.update(options=options)
            return self

        def remote(self, store, progress, work):
            found.update(task=work[0][1])
            return "sent"

    def remote(*function, **decorated):
        return Remote(function[0], decorated) if function else lambda function: Remote(function, decorated)

    monkeypatch.setattr("ray.remote", remote)
    monkeypatch.setattr("ray.put", lambda work: work)
    monkeypatch.setattr(dispatching, "num_gpus", lambda _: cluster_gpus)
    dispatcher.send("teacher", print, wanted)
    return found


@pytest.mark.parametrize(
    ("wanted", "cluster_gpus", "gpus"),
    [
        (TaskResources(gpu=0), 4, 0),
        (TaskResources(gpu=1), 4, 1),
        (TaskResources(gpu=0.25), 4, 0.25),
        (TaskResources(), 4, 1),
        (TaskResources(), 0, 0),
    ],
)
def test_a_task_that_holds_a_gpu_ends_its_process(wanted, cluster_gpus, gpus, dispatcher, monkeypatch):
    found = sent(monkeypatch, dispatcher, wanted, cluster_gpus)
    assert found["options"]["num_gpus"] == gpus
    assert found["task"].use_gpu is (gpus > 0)
    # Of the decorator: Ray refuses max_calls among the options.
    assert found["decorated"].get("max_calls") == (1 if gpus else None)
    assert found["decorated"].get("retry_exceptions") == ([DeviceError] if gpus else None)


def test_ray_takes_the_limit_of_calls(dispatcher):
    """It is ignored if it is given with the options."""
    import ray

    assert dispatching._in_worker(begin, 0.5)._default_options["max_calls"] == 1
    with pytest.raises(ValueError, match="max_calls"):
        ray.remote(begin).options(num_gpus=1, max_calls=1)


@pytest.mark.parametrize(("gpu", "expected"), [(None, 0), (0, 0), (0.5, 0.5), (1, 1)])
def test_a_measurement_has_the_gpus_that_it_requests(gpu, expected, dispatcher, monkeypatch):
    sent_with = []
    monkeypatch.setattr(dispatching, "num_gpus", lambda _: 4)
    monkeypatch.setattr(dispatching, "whole_node", lambda *_: ("node", 16.0))
    monkeypatch.setattr(
        "ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy", lambda *_, **__: "here"
    )
    monkeypatch.setattr(dispatcher, "send", lambda *given, **_: sent_with.append(given[2]))
    monkeypatch.setattr(dispatcher, "wait", lambda *_: "measured")
    wanted = ResourcesConfig.model_validate({"benchmark": {"cpu": 4, "gpu": gpu}}).benchmark
    assert dispatcher.do_alone("benchmark", print, wanted, report=print) == "measured"
    assert (sent_with[0].cpu, sent_with[0].gpu) == (16.0, expected)


# --- On a GPU ----------------------------------------------------------------------------------------------------


def in_worker(num_bytes=0):
    """Return a task that takes some memory of its GPU; nested, since workers do not find this module."""

    def sees(task):
        """Return the process id, the number of GPUs that it sees, and their free memory before it takes some."""
        import os

        import torch

        if not torch.cuda.device_count():
            return os.getpid(), 0, 0
        free = torch.cuda.mem_get_info()[0]
        torch.kept = torch.zeros(num_bytes, dtype=torch.uint8, device="cuda")  # until the process ends
        return os.getpid(), torch.cuda.device_count(), free

    return sees


@pytest.mark.gpu
@needs_gpu
@pytest.mark.usefixtures("ray_session")
def test_the_memory_of_a_task_is_free_when_the_next_one_runs(dispatcher):
    one_gpu, num_bytes = TaskResources(gpu=1), 2**30
    first, _, free = dispatcher.do("teacher", in_worker(num_bytes), one_gpu, report=print)
    deadline = time.monotonic() + 30
    while True:  # its process may take a moment to end
        second, _, free_now = dispatcher.do("teacher", in_worker(), one_gpu, report=print)
        assert second != first
        if free_now > free - num_bytes // 2:
            break
        assert time.monotonic() < deadline, f"{free - free_now} bytes are still taken"


@pytest.mark.gpu
@needs_gpu
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("gpu", "num"), [(None, 0), (0, 0), (0.5, 1), (1, 1)])
def test_a_measurement_sees_the_gpu_that_it_requests_and_no_other(gpu, num, dispatcher):
    wanted = ResourcesConfig.model_validate({"benchmark": {"gpu": gpu}}).benchmark
    assert dispatcher.do_alone("benchmark", in_worker(), wanted, report=print)[1] == num
