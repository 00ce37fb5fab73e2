"""A job on `resources.address` names files of this machine by relative paths: its nodes read them from the storage."""

from pathlib import Path

import pytest
from models import tiny_classifier

from distiltune.cluster.pipeline import run_job as running
from distiltune.cluster.pipeline.run_job import run_job
from distiltune.cluster.specification.config import JobConfig
from distiltune.cluster.store.input_files import ship_inputs, with_local_inputs
from distiltune.cluster.store.runs import Run, Storage
from distiltune.errors import DistiltuneError, InputError
from distiltune.storage.store import Store

# For each key that names a local file or folder, a job with that key, and the relative path in it.
NAMED = {
    "data.train": {"data": {"source": "files", "train": "rows.csv"}},
    "data.path": {"data": {"source": "clinc_json", "path": "./all.json"}},
    "data.unlabelled.path": {"data": {"unlabelled": {"path": "rows.csv"}}},
    "teacher.checkpoint": {"teacher": {"checkpoint": "./model"}},
    "teacher.fine_tune.checkpoint": {"teacher": {"fine_tune": {"checkpoint": "model"}}},
    "student.checkpoint": {"student": {"checkpoint": "folder/../model"}},
    "student.pretraining.checkpoint": {
        "student": {"layers": [0], "pretraining": {"checkpoint": "model"}},
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The working directory of the user who starts the job."""
    folder = tmp_path_factory.mktemp("person")
    tiny_classifier(folder / "model", label_names=["no", "yes"], texts=["good morning", "what is new"])
    (folder / "folder").mkdir()
    rows = [f"{text} {n},{label}" for n in range(12) for text, label in (("good", "yes"), ("new", "no"))]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    (folder / "all.json").write_text("{}")
    return folder


def at(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize("key", NAMED)
def test_a_relative_path_is_sent_and_found_from_any_working_directory(key, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    config, store = JobConfig.model_validate(NAMED[key]), Store(str(tmp_path / "store"))
    shipped = ship_inputs(config, store)
    assert at(shipped, key).startswith("storage:cache/inputs/")
    (tmp_path / "worker").mkdir()
    monkeypatch.chdir(tmp_path / "worker")
    found = Path(at(with_local_inputs(shipped, store), key))
    assert found.is_absolute()
    original = folder / at(config, key)
    names = ["config.json", "model.safetensors"] if found.is_dir() else [""]
    for name in names:
        assert (found / name).read_bytes() == (original / name).read_bytes()


@pytest.mark.parametrize("key", NAMED)
def test_a_relative_path_to_nothing_is_refused_by_its_key_before_anything_is_sent(
    key, folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    values = {**NAMED[key]}
    if not key.startswith("data"):  # a bare name could be on the hub
        section, *rest = key.split(".")
        inner = {rest[-1]: "./model"}
        values = {section: {**values[section], **({rest[0]: inner} if len(rest) > 1 else inner)}}
    store = Store(str(tmp_path / "store"))
    with pytest.raises(DistiltuneError) as raised:
        ship_inputs(JobConfig.model_validate(values), store)
    assert key in str(raised.value)
    assert not (tmp_path / "store").exists()


@pytest.fixture
def job(folder, tmp_path, monkeypatch):
    """Start a job with relative paths, which ends before its first stage; also return the jobs that got so far."""
    monkeypatch.chdir(folder)
    calls = []

    class EndedError(DistiltuneError):
        pass

    def stop(runner, checked, run):
        calls.append((checked, run))
        raise EndedError("far enough")

    monkeypatch.setattr(running, "_run_stages", stop)

    def start(**resources):
        values = {
            "data": {"train": "rows.csv", "out_of_scope_label": None},
            "teacher": {"checkpoint": "./model"},
            "student": {"layers": [0]},
            "training": {"max_length": 16},
            "export": {"out_of_scope": None, "choose": {"max_drop_from_student": 1.0}},
            "storage": {"path": str(tmp_path / "store")},
            "resources": resources,
        }
        with pytest.raises(EndedError):
            run_job(JobConfig.model_validate(values), "job", run_id="a")
        return calls[-1]

    return start


def test_a_run_on_a_cluster_gives_its_tasks_references_and_its_driver_paths(job, folder):
    checked, run = job(address="10.0.0.1:6379")
    assert checked.config.teacher.checkpoint.startswith("storage:")
    assert checked.config.data.train.startswith("storage:")
    assert checked.local_config.teacher.checkpoint == "./model"
    assert run.specification().teacher.checkpoint == checked.config.teacher.checkpoint
    again, _ = job(address="10.0.0.1:6379")
    assert again.config == checked.config


def test_a_run_on_this_machine_copies_nothing(job):
    checked, run = job()
    assert checked.config.teacher.checkpoint == "./model"
    assert run.store.names("cache/inputs") == []


@pytest.mark.parametrize(("first", "then"), [({}, {"address": "auto"}), ({"address": "auto"}, {})])
def test_a_run_is_resumed_wherever_it_began(first, then, job):
    _, run = job(**first)
    before = run.read("job.json")
    checked, _ = job(**then)
    assert checked.config.teacher.checkpoint.startswith("storage:")
    assert run.read("job.json") == before


def test_a_changed_file_is_another_specification(job, folder):
    _, run = job(address="auto")
    rows = folder / "rows.csv"
    text = rows.read_text()
    rows.write_text(text + "good again,yes\n")
    try:
        with pytest.raises(InputError, match=r"--run-id: run a .*data"):
            running.run_job(run_config(run, "rows.csv"), "job", run_id="a")
    finally:
        rows.write_text(text)
    assert Run(Storage(str(run.store.directory)).store, "a").state == "failed"


def run_config(run, train):
    held = run.specification()
    return held.model_copy(update={"data": held.data.model_copy(update={"train": train})})
