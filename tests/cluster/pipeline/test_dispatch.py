"""What a stage says of its task: what it does once it has a place, and what it waits for before."""

import pytest

from distiltune.cluster.pipeline.dispatch import Dispatcher
from distiltune.cluster.remote import begin as beginning
from distiltune.cluster.remote.begin import begin
from distiltune.cluster.remote.tasks import Task
from distiltune.cluster.remote.teacher_labels import _labelling
from distiltune.cluster.specification.config import JobConfig, TaskResources
from distiltune.cluster.store.runs import Run, Storage
from distiltune.progress import Progress

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
    ("stage", "part", "said"),
    [
        ("teacher", "", "preparing the teacher"),
        ("teacher", "2", "preparing the teacher"),
        ("logits", "", "labelling the texts with the teacher"),
        ("student", "", "making the student"),
        ("export", "onnx-int8", "exporting onnx-int8"),
        ("benchmark", "", "measuring the models"),
    ],
)
def test_a_task_that_works_is_never_said_to_wait(stage, part, said, dispatcher, run):
    task = task_of(run, stage, part)
    run.store.write_json(task.progress, {"text": ""})
    found = dispatcher.state(stage, TWO_CPUS, 3600.0, part=part)
    assert (found.message, found.values) == (said, {"waiting_for": None})


def test_what_a_task_reports_comes_with_its_counts(dispatcher, run):
    task = task_of(run, "teacher")
    values = {"done": 1, "total": 5, "validation_accuracy": 0.5}
    task.report(Progress("epoch 2 of 5, fine-tuning the teacher", values))
    found = dispatcher.state("teacher", TWO_CPUS, 3600.0)
    assert found.message == "epoch 2 of 5, fine-tuning the teacher"
    assert found.values == {"waiting_for": None, "done": 1, "total": 5}


def test_a_task_has_its_place_before_its_libraries_are_loaded(dispatcher, run, monkeypatch):
    """The work is behind a reference, which is resolved only after that was recorded."""
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
    report = _labelling(task, "labelling the texts of train with teacher 2 of 3", 1, 3)
    report(Progress("50 of 100 texts", {"done": 50, "total": 100}))
    found = dispatcher.state("logits", TWO_CPUS, 0.0)
    assert found.message == "labelling the texts of train with teacher 2 of 3; 50 of 100 texts"
    assert (found.values["done"], found.values["total"]) == (150, 300)
