"""What a resumed run shows: repeated stages, reused stages, and what is left of the previous attempt."""

import io
import time

import pytest
from rich.console import Console
from runfiles import BEST, SEARCH, SUBMISSION, Writer, meanwhile

from distiltune.cluster.store.runs import STAGES, Storage, now
from distiltune.cluster.watching.follow import follow
from distiltune.cluster.watching.status import StatusReader

LONG_AGO = "2026-01-01T10:00:00+00:00"


@pytest.fixture(params=["directory", "s3"])
def storage(request, tmp_path):
    url = str(tmp_path / "store") if request.param == "directory" else request.getfixturevalue("s3_url")
    return Storage(url, retry_s=2)


@pytest.fixture
def directory(tmp_path):
    return Storage(str(tmp_path / "store"), retry_s=0)


def tried_before(storage, stage, state="running"):
    """A run whose first attempt got to that stage, and was killed there unless `state` is another."""
    writer = Writer(storage, created=LONG_AGO)
    for earlier in STAGES[: STAGES.index(stage)]:
        result = writer.result(earlier)
        writer.stage(earlier, "finished", f"{earlier} of before", started=LONG_AGO, result=result)
    writer.stage(stage, state, started=LONG_AGO)
    progress = {"text": "3 of 4 trials done, 1 running", "at": time.time() - 3600, **SEARCH, "done": 3}
    writer.run.write(writer.run.progress("search"), {**progress, **BEST})
    return writer


def sent(writer):
    """Its job was sent to a cluster."""
    writer.run.write("submission.json", {**SUBMISSION, "created": now(), "pending": True})
    return writer


def driven(writer):
    """A driver has just begun to work on it."""
    run = writer.run
    held = {"owner": "other", "host": "far", "machine": "far", "pid": 1, "beats": 1}
    run.write("lease.json", {**held, "at": time.time(), "process_started": time.time() - 1})
    record = {"run_id": run.id, "name": "job", "created": LONG_AGO, "error": None}
    run.write("run.json", {**record, "state": "running"})
    run.write("submission.json", {**SUBMISSION, "created": now(), "pending": False})
    return writer


def stages(found):
    return {stage["name"]: stage for stage in found["stages"]}


def test_a_killed_stage_is_not_shown_as_running(storage):
    """The driver needs some seconds for Ray and the data before it records its stage."""
    found = StatusReader(driven(tried_before(storage, "search")).run).read()
    assert (found["state"], found["stage"], found["progress"]) == ("running", None, None)
    assert stages(found)["search"] == {
        "name": "search",
        "state": "waiting",
        "seconds": None,
        "text": "",
        "reused": False,
    }
    assert (found["trials"]["done"], found["trials"]["running"]) == (3, 0)


def test_the_progress_of_a_killed_search_is_not_shown_again(storage):
    writer = driven(tried_before(storage, "search"))
    reader = StatusReader(writer.run)
    writer.stage("teacher", "running")
    assert reader.read()["stage"] == "teacher"
    writer.until("search").stage("search", "running")
    found = reader.read()
    assert (found["stage"], found["progress"], found["trials"]["running"]) == ("search", None, 0)
    writer.progress("search", "3 of 4 trials done, 1 running", **{**SEARCH, "done": 3, "running": 1})
    found = reader.read()
    assert found["progress"] == "3 of 4 trials done, 1 running"
    assert (found["trials"]["done"], found["trials"]["running"]) == (3, 1)


def test_an_attempt_that_failed_earlier_than_the_previous_one_names_its_own_stage(directory):
    writer = driven(tried_before(directory, "search", "stopped"))
    writer.stage("teacher", "failed").state("failed", "run a, stage teacher: no model")
    found = stages(StatusReader(writer.run).read())
    assert (found["teacher"]["state"], found["search"]["state"]) == ("failed", "waiting")


def followed(writer, work):
    """The lines that `resume --follow` shows of stages that ended, while the run is worked on."""
    shown = Console(file=io.StringIO(), width=120, highlight=False)
    with meanwhile(work):
        status = follow(writer.run, shown)
    assert status == 0
    lines = shown.file.getvalue().splitlines()
    assert not [line for line in lines if line.startswith("✗")]
    assert lines[0].split(maxsplit=1) == ["job", "waiting for the cluster to start its job"]
    ended = [line.removeprefix("✓").strip() for line in lines if line.startswith("✓")]
    assert [line.split()[0] for line in ended] == list(STAGES)
    return {line.split()[0]: line for line in ended}


@pytest.mark.parametrize("storage", ["directory", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_follow_shows_which_stages_were_repeated_and_which_were_reused(storage, capsys):
    writer = sent(tried_before(storage, "search"))
    pause_s = 1.3 if storage.store.directory is not None else 2.6  # longer than between two looks

    def work():
        time.sleep(pause_s)
        driven(writer)
        time.sleep(pause_s)
        for stage in ("teacher", "logits", "student"):
            writer.stage(stage, "finished", f"{stage} again", result=writer.result(stage))
        writer.stage("search", "running")
        time.sleep(pause_s)
        search = {"text": "4 of 4 trials", "result": writer.result("search")}
        writer.stage("search", "finished", **search)
        for stage in STAGES[STAGES.index("export") :]:
            writer.stage(stage, "finished", stage, result=writer.result(stage))
        writer.state("finished")

    ended = followed(writer, work)
    assert ended["data"].endswith("data of before (reused)")
    assert ended["teacher"].endswith("teacher again (1.5 s)")
    assert ended["search"].endswith("4 of 4 trials (1.5 s)")


@pytest.mark.slow
def test_follow_of_a_run_whose_search_was_done_reuses_it(directory, capsys):
    writer = sent(tried_before(directory, "export"))

    def work():
        time.sleep(1.5)
        driven(writer)
        time.sleep(1.5)
        writer.stage("export", "running")
        time.sleep(1.5)
        for stage in STAGES[STAGES.index("export") :]:
            writer.stage(stage, "finished", stage, result=writer.result(stage))
        writer.state("finished")

    ended = followed(writer, work)
    for stage in ("data", "teacher", "search"):
        assert ended[stage].endswith("of before (reused)")
    assert ended["export"].endswith("(1.5 s)")
