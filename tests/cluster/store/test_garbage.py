"""Freeing space: rm, gc and the sizes of runs, in a directory and on S3."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from runfiles import Writer

from distiltune.cluster.cli import main
from distiltune.cluster.commands import cleaning
from distiltune.cluster.pipeline.best_trial import select_other_trial
from distiltune.cluster.pipeline.run_job import _begin
from distiltune.cluster.session import private_ray
from distiltune.cluster.specification.config import JobConfig
from distiltune.cluster.store import garbage
from distiltune.cluster.store.lease import Lease
from distiltune.cluster.store.runs import Run, Storage
from distiltune.cluster.store.shared_work import WORK
from distiltune.cluster.store.stage_index import INDEX, enter, write_result
from distiltune.errors import InputError
from distiltune.storage.folders import new_folder, temporary_beside
from distiltune.storage.leftovers import stored_files
from distiltune.storage.store import Store

LONG_AGO = "2020-01-01T00:00:00+00:00"
USED, UNUSED = "a" * 32, "b" * 32


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.slow)])
def storage(request, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(private_ray, "old_directories", lambda older_than_s: {})
    url = str(tmp_path / "store") if request.param == "directory" else request.getfixturevalue("s3_url")
    return Storage(url, retry_s=2)


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setattr(private_ray, "old_directories", lambda older_than_s: {})
    return Storage(str(tmp_path / "store"), retry_s=0)


@pytest.fixture
def everything_is_old(monkeypatch):
    """What was written just now counts as old enough."""
    monkeypatch.setattr(garbage, "LEFTOVER_AGE_S", -60.0)


def call(storage, capsys, *arguments):
    status = main([*arguments, "--storage", storage.store.url])
    return status, *capsys.readouterr()


def whole_run(storage, run_id="a", state="finished"):
    """A run with everything that a run has; its teacher is the used one."""
    writer = Writer(storage, run_id).finished() if state == "finished" else Writer(storage, run_id)
    run = writer.run
    if state != "finished":
        writer.state("running").until("search").stage("search", "stopped").state(state)
        run.store.delete(run.key("lease.json"))
    run.write("job.json", JobConfig().model_dump(mode="json"))
    result = {"key": f"cache/teachers/{USED}"}
    writer.stage("teacher", "finished", result=result).stage("logits", "finished", result={})
    for key, files in (("best", {"model.safetensors": "w" * 10}), ("student", {"model.safetensors": "s"})):
        writer.folder(run.key(key), files)
    writer.folder(run.key("variants/onnx"), {"model.onnx": "o"})
    for name in ("search/0000/checkpoint_000001/model.safetensors", "search/0000/params.json"):
        run.store.write(run.key(name), b"c" * 5)
    for name in ("logs/run/000000.log", "tensorboard/0000/events"):
        run.store.write(run.key(name), b"l")
    run.store.delete(run.key("lease.json"))
    return run


def cached(storage, name):
    folder = storage.store.local(f"cache/teachers/{name}")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("t" * 7, encoding="utf-8")
    storage.store.publish(f"cache/teachers/{name}", shared=True)


def files_of(run):
    return sorted(stored_files(run.store, run.key()))


def test_rm_deletes_a_run_and_leaves_others_and_what_they_share(storage, capsys):
    run, other = whole_run(storage), whole_run(storage, "other")
    cached(storage, USED)
    before = files_of(other)
    status, out, _ = call(storage, capsys, "rm", "a", "--yes")
    assert status == 0
    assert "run a" in out and "freed" in out
    assert files_of(run) == [] and [each.id for each in storage.candidates()] == ["other"]
    assert files_of(other) == before
    assert storage.store.has_folder(f"cache/teachers/{USED}")


def test_rm_asks_on_a_terminal_and_deletes_nothing_without_an_answer(directory, capsys, monkeypatch):
    run = whole_run(directory)
    before = files_of(run)
    status, _, err = call(directory, capsys, "rm", "a")
    assert status == 2 and "--yes" in err  # stdin is no terminal here
    monkeypatch.setattr(cleaning.sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr(cleaning.typer, "confirm", lambda question, err: False)
    assert call(directory, capsys, "rm", "a")[0] == 2
    assert files_of(run) == before
    monkeypatch.setattr(cleaning.typer, "confirm", lambda question, err: True)
    assert call(directory, capsys, "rm", "latest")[0] == 0
    assert files_of(run) == []


def test_a_run_that_is_under_way_is_refused_and_no_other_is_deleted(directory, capsys):
    whole_run(directory, "done")
    Writer(directory, "live").searching()
    Writer(directory, "sent").submitted()
    for name in ("live", "sent"):
        status, _, err = call(directory, capsys, "rm", "done", name, "--yes")
        assert status == 2 and name in err and "distiltune stop" in err
    assert {run.id for run in directory.candidates()} == {"done", "live", "sent"}


def test_a_run_that_is_begun_meanwhile_is_not_deleted(directory):
    run = whole_run(directory)
    found = garbage.find_runs(directory, ["a"])
    lease = Lease(run.store, run.key())
    lease.acquire()
    try:
        with pytest.raises(InputError, match="another process"):
            found[0].delete()
        assert run.read("run.json") is not None
    finally:
        lease.release()


def test_a_stop_that_was_requested_earlier_does_not_interrupt_rm(directory):
    run = whole_run(directory)
    run.request_stop()
    garbage.find_runs(directory, ["a"])[0].delete()
    assert files_of(run) == []


def test_a_damaged_run_can_be_deleted(directory, capsys):
    run = whole_run(directory)
    run.store.write(run.key("run.json"), b"{")
    assert call(directory, capsys, "rm", "a", "--yes")[0] == 0
    assert files_of(run) == []


def test_the_source_of_a_warm_start_is_kept_until_the_new_run_has_its_trials(directory):
    whole_run(directory)
    new = Writer(directory, "new").submitted().run
    new.write("job.json", {"search": {"warm_start": "a"}})
    with pytest.raises(InputError, match=r"a is needed.*new"):
        garbage.find_runs(directory, ["a"])
    new.write("former.json", {"trials": []})
    assert [each.what for each in garbage.find_runs(directory, ["a"])] == ["run a"]


def test_a_run_whose_files_an_unfinished_one_reads_is_kept(directory):
    run = whole_run(directory)
    new = Writer(directory, "new").state("stopped").run
    new.write("job.json", {"teacher": {"checkpoint": run.store.location(run.best)}})
    with pytest.raises(InputError, match=r"a is needed.*new"):
        garbage.find_runs(directory, ["a"])
    Writer(directory, "new").state("finished")
    assert garbage.find_runs(directory, ["a"])


def test_the_runs_of_a_plan_that_is_running_are_kept(directory):
    whole_run(directory, "p-0")
    Writer(directory, "p-1").searching()
    assert garbage.find_runs(directory, ["p-0"])
    directory.store.write_json("plans/p.json", {"tried": []})
    with pytest.raises(InputError, match=r"p-0 is needed.*p-1"):
        garbage.find_runs(directory, ["p-0"])


def test_gc_keeps_the_best_checkpoint_or_only_the_artifacts(storage, capsys):
    run = whole_run(storage)
    before = set(files_of(run))
    assert call(storage, capsys, "gc", "--keep", "best", "--dry-run")[0] == 0
    assert set(files_of(run)) == before
    status, out, _ = call(storage, capsys, "gc", "--keep", "best", "--yes")
    gone = before - set(files_of(run))
    assert status == 0 and "checkpoints" in out
    assert {name.partition("/")[0].removesuffix(".folder.json") for name in gone} == {"search", "student"}
    assert run.store.has_folder(run.best) and run.store.has_folder(run.artifact)
    assert run.state == "finished" and "search/0000/params.json" in files_of(run)

    assert call(storage, capsys, "gc", "--keep", "artifacts", "--yes")[0] == 0
    left = {name.partition("/")[0] for name in files_of(run) if "/" in name}
    assert left == {"report", "artifact", "logs", "stages"}
    assert run.read("job.json") and run.state == "finished" and run.stage_record("search")
    assert "nothing to delete" in call(storage, capsys, "gc", "--keep", "artifacts", "--yes")[1]


def test_gc_cuts_down_ended_runs_alone(directory, capsys):
    live = Writer(directory, "live").searching().run
    live.store.write(live.key("search/0000/checkpoint_000001/model.safetensors"), b"c")
    stopped = whole_run(directory, "stopped", "stopped")
    before = files_of(live), files_of(stopped)
    for kept in ("best", "artifacts"):
        status, _, err = call(directory, capsys, "gc", "--keep", kept, "--yes")
        assert status == 0 and "live is running" in err and "stopped is stopped" in err
    assert (files_of(live), files_of(stopped)) == before


def test_gc_leaves_runs_that_ended_recently(directory, capsys):
    old, new = whole_run(directory, "old"), whole_run(directory, "new")
    old.write("run.json", {**(old.read("run.json") or {}), "created": LONG_AGO, "ended": LONG_AGO})
    found = json.loads(
        call(directory, capsys, "gc", "--keep", "best", "--older-than", "30d", "--dry-run", "--json")[1]
    )
    assert [each["what"].partition(":")[0] for each in found["items"]] == ["run old"]
    assert found["bytes"] == 6 and found["deleted"] is False
    assert new.state == "finished"


@pytest.mark.parametrize("given", ["30", "d", "-3d", "1.5h", "3 months", ""])
def test_an_invalid_age_is_refused(directory, capsys, given):
    status, _, err = call(directory, capsys, "gc", f"--older-than={given}")
    assert status == 2 and "--older-than" in err


def test_gc_deletes_caches_that_no_run_names(storage, capsys, everything_is_old):
    whole_run(storage)
    cached(storage, USED)
    cached(storage, UNUSED)
    assert call(storage, capsys, "gc", "--yes")[0] == 0
    assert storage.store.has_folder(f"cache/teachers/{USED}")
    assert not storage.store.has_folder(f"cache/teachers/{UNUSED}")


def test_gc_leaves_caches_that_were_written_just_now(directory, capsys):
    cached(directory, UNUSED)
    assert "nothing to delete" in call(directory, capsys, "gc", "--yes")[1]


def test_gc_leaves_caches_while_a_run_has_not_named_its_own(directory, capsys, everything_is_old):
    run = whole_run(directory, "stopped", "stopped")
    run.store.delete(run.key("stages/logits.json"))
    cached(directory, UNUSED)
    _, _, err = call(directory, capsys, "gc", "--yes")
    assert "caches are kept" in err and "stopped" in err
    assert directory.store.has_folder(f"cache/teachers/{UNUSED}")


def test_the_cache_of_a_run_that_kept_its_artifacts_alone_is_freed(directory, capsys, everything_is_old):
    whole_run(directory)
    cached(directory, USED)
    assert call(directory, capsys, "gc", "--keep", "artifacts", "--yes")[0] == 0
    assert not directory.store.has_folder(f"cache/teachers/{USED}")


def test_a_run_that_was_cut_down_says_what_it_lacks(directory, capsys):
    run = whole_run(directory)
    call(directory, capsys, "gc", "--keep", "best", "--yes")
    with pytest.raises(InputError, match=r"run a: .*checkpoints of its trials.*gc --keep best.*warm_start=a"):
        select_other_trial(run, "0007")
    run.store.delete(run.key("stages/search.json"))
    with pytest.raises(InputError, match=r"cannot be resumed.*checkpoints of its trials"):
        _begin(run, JobConfig(), "job", SimpleNamespace(fingerprint="f"))


def test_resume_of_a_finished_run_that_was_cut_down_says_what_it_lacks(directory, capsys):
    whole_run(directory)
    assert "lacks" not in call(directory, capsys, "resume", "a")[1]
    call(directory, capsys, "gc", "--keep", "artifacts", "--yes")
    status, out, _ = call(directory, capsys, "resume", "a")
    assert status == 0 and "lacks everything but its records, logs, report and artifact" in out


def age(path: Path, seconds: float = 7200.0):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_gc_deletes_what_killed_writes_left_in_a_directory(directory, capsys):
    root = directory.store.directory
    whole_run(directory)
    foreign = root / ".git.settings"  # not in a folder of ours
    foreign.mkdir()
    age(foreign)
    dead = 2**22 + 1  # more than any process id
    old, young, own = (
        root / f"runs/a/.run.json.{pid}.0123456{n}" for n, pid in enumerate((dead, dead, os.getpid()))
    )
    for path in (old, young, own):
        path.write_bytes(b"12345")
    age(old)
    age(own)  # its process lives
    folder, busy = root / "cache/teachers/.t.abcd_123", root / "cache/teachers/.u.abcd_123"
    for each in (folder, busy):
        each.mkdir(parents=True)
        (each / "model.safetensors").write_bytes(b"123")
        age(each / "model.safetensors")
    age(folder)
    (busy / "config.json").write_bytes(b"1")  # written to just now
    age(busy)
    status, out, _ = call(directory, capsys, "gc", "--yes")
    assert status == 0 and out.splitlines()[-1] == "8 B freed"
    assert not old.exists() and not folder.exists()
    assert all(path.exists() for path in (young, own, busy, foreign))


def test_names_of_leftovers_are_those_that_writes_give(tmp_path):
    from distiltune.storage.leftovers import _FILE, _FOLDER

    assert _FILE.fullmatch(temporary_beside(tmp_path / "run.json").name)
    with new_folder(tmp_path / "best") as folder:
        assert _FOLDER.fullmatch(folder.name)


@pytest.mark.slow
def test_gc_deletes_uploads_that_no_listing_names(s3_url, tmp_path, monkeypatch, capsys, everything_is_old):
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(private_ray, "old_directories", lambda older_than_s: {})
    storage = Storage(s3_url, retry_s=2)
    whole_run(storage)
    cached(storage, USED)
    storage.store.write(f"cache/teachers/{USED}/01234567/model.safetensors", b"half")
    assert call(storage, capsys, "gc", "--yes")[0] == 0
    assert not [name for name in storage.store.sizes("cache") if "01234567" in name]
    assert Store(s3_url).fetch(f"cache/teachers/{USED}").is_dir()


def test_gc_deletes_directories_of_killed_processes_on_this_machine(directory, capsys, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(private_ray.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(private_ray, "short_temporary_directory", lambda: tmp_path)
    old, young = tmp_path / "distiltune-teacher-x.tmp", tmp_path / "dt-y.tmp"
    for path in (old, young):
        path.mkdir()
        (path / "file").write_bytes(b"123")
    age(old)
    held = private_ray.TemporaryDirectory("trial", tmp_path)
    age(held.path)
    try:
        assert call(directory, capsys, "gc", "--yes")[0] == 0
        assert not old.exists() and young.exists() and held.path.exists()
    finally:
        held.remove()


def test_runs_shows_the_size_of_each(storage, capsys):
    run = whole_run(storage)
    [row] = json.loads(call(storage, capsys, "runs", "--json")[1])
    assert row["size_bytes"] == sum(run.store.sizes(run.key()).values()) > 0
    assert " kB" in call(storage, capsys, "runs")[1]


def entries(storage):
    return sorted(storage.store.names(INDEX))


@pytest.mark.usefixtures("everything_is_old")
def test_gc_deletes_entries_of_the_index_whose_results_are_gone_and_no_other(storage, capsys):
    run = whole_run(storage)
    enter(run, "1" * 32, best=["0001", 1])
    write_result(run, "variants/onnx.made.json", "2" * 32, {"name": "onnx"})
    write_result(run, "measurements/onnx.json", "3" * 32, {"name": "onnx"})
    enter(Run(storage.store, "gone"), "4" * 32, best=None)
    write_result(run, "measurements/onnx.json", "5" * 32, {"name": "onnx"})  # in place of 3
    storage.store.write(f"{INDEX}/{'6' * 32}.json", b"{")
    storage.store.write_json(f"{INDEX}/{'7' * 32}.json", {"run_id": "../../elsewhere", "record": "x"})
    before = files_of(run)
    status, out, _ = call(storage, capsys, "gc", "--yes")
    assert status == 0
    assert f"4 entries of {INDEX}" in out
    assert entries(storage) == [f"{number * 32}.json" for number in "125"]
    assert files_of(run) == before
    assert call(storage, capsys, "gc", "--yes")[0] == 0
    assert len(entries(storage)) == 3
    call(storage, capsys, "rm", "a", "--yes")
    call(storage, capsys, "gc", "--yes")
    assert entries(storage) == []


@pytest.mark.usefixtures("everything_is_old")
def test_a_run_that_is_cut_down_takes_the_entries_of_its_variants_along(directory, capsys):
    run = whole_run(directory)
    write_result(run, "variants/onnx.made.json", "2" * 32, {"name": "onnx"})
    assert call(directory, capsys, "gc", "--keep", "best", "--yes")[0] == 0
    assert len(entries(directory)) == 1
    call(directory, capsys, "gc", "--keep", "artifacts", "--yes")
    call(directory, capsys, "gc", "--yes")
    assert entries(directory) == []


def test_an_entry_of_a_run_that_has_just_begun_is_kept(directory):
    enter(Run(directory.store, "new"), "4" * 32, best=None)
    assert garbage.find_garbage(directory).garbage == []


def test_an_entry_that_was_renewed_meanwhile_is_kept(directory, everything_is_old):
    enter(Run(directory.store, "gone"), "4" * 32, best=None)
    (found,) = garbage.find_garbage(directory).garbage
    enter(whole_run(directory), "4" * 32, best=None)
    found.delete()
    assert len(entries(directory)) == 1


def test_claims_of_ended_processes_are_garbage_once_they_are_old(directory, capsys):
    claims = [f"{WORK}/teachers-{name}.lease.json" for name in ("old", "new")]
    for key in claims:
        directory.store.write(key, b"{}")
    long_ago = time.time() - 2 * garbage.LEFTOVER_AGE_S
    os.utime(directory.store.directory / claims[0], (long_ago, long_ago))
    status, out, _ = call(directory, capsys, "gc", "--yes")
    assert status == 0 and "claim of an ended process on teachers-old" in out
    assert directory.store.names(WORK) == ["teachers-new.lease.json"]
