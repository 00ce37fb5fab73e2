"""TensorBoard of a run over real HTTP: what trials write, wherever they run, appears while they train."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager

import pytest
from commands import command_line, distiltune, one_line
from runfiles import Writer

from distiltune.cluster.store.runs import Storage
from distiltune.cluster.watching.tensorboard import EventCopy, searched_by
from distiltune.errors import InputError
from distiltune.search.parameters import Choice, FloatRange
from distiltune.search.trial.events import TrialEvents, write_experiment

SPACE = {
    "alpha": FloatRange(low=0.0, high=1.0),
    "temperature": Choice(values=[1, 4]),
}
FIRST = {"alpha": 0.25, "temperature": 4}
RUNNING = "STATUS_UNKNOWN"  # what TensorBoard calls a session that has not ended
SECOND = {"alpha": 0.75, "temperature": 1}


@pytest.fixture(params=["directory", "s3"])
def storage(request, tmp_path):
    url = str(tmp_path / "store") if request.param == "directory" else request.getfixturevalue("s3_url")
    return Storage(url, retry_s=2)


@contextmanager
def served(run, temporary, ending=signal.SIGTERM):
    """Yield the address that the server reports; check that it ends quietly and leaves no copy behind."""
    temporary.mkdir()
    process = subprocess.Popen(
        command_line("tensorboard", run.id, "--port", 0, "--storage", run.store.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"TensorBoard of run {run.id}: http://127.0.0.1:"), line
        yield line.split()[4]
        process.send_signal(ending)
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 0
        assert list(temporary.glob("distiltune-*")) == []
    finally:
        process.terminate()  # not killed: it ends the server that it started
        process.communicate(timeout=30)


def get(url, body=None, **query):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}?{urllib.parse.urlencode(query)}" if query else url, data=data)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def steps(base, trial, tag="validation/accuracy"):
    """Return the steps of one curve; none while it does not exist."""
    tags = get(f"{base}data/plugin/scalars/tags")
    if tag not in tags.get(trial, {}):
        return []
    return [step for _, step, _ in get(f"{base}data/plugin/scalars/scalars", run=trial, tag=tag)]


def within(seconds, read, wanted):
    """Wait until ``read`` returns ``wanted``."""
    deadline = time.monotonic() + seconds
    while (found := read()) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.3)


@contextmanager
def trial(run, name, parameters, **more):
    """What one trial writes; what is left in the end is sent, as when its process ends."""
    events = TrialEvents(run.store, f"{run.tensorboard}/{name}", parameters, **more)
    try:
        yield events
    finally:
        events.close()


def epoch(events, number):
    events.scalars({"loss/total": 1 / number}, 10 * number - 5)
    events.scalars(
        {"validation/accuracy": 0.5 + number / 10, "best/accuracy": 0.5 + number / 10}, 10 * number
    )
    events.send()


def sessions(base):
    """Return each trial's status and hyperparameters as the HParams page shows them."""
    request = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [],
        "startIndex": 0,
        "sliceSize": 100,
    }
    groups = get(f"{base}data/plugin/hparams/session_groups", request).get("sessionGroups", [])
    return {group["name"]: (group["sessions"][0]["status"], group["hparams"]) for group in groups}


@pytest.mark.parametrize("storage", [pytest.param("directory", marks=pytest.mark.slow), "s3"], indirect=True)
def test_trials_appear_while_they_train(storage, tmp_path):
    run = Writer(storage).state("running").run
    with served(run, tmp_path / "tmp") as base:
        assert get(f"{base}data/plugin/scalars/tags") == {}  # no trials yet, and no error
        write_experiment(run.store, run.tensorboard, SPACE, "single_label")
        with trial(run, "one", FIRST) as first:
            epoch(first, 1)
            within(15, lambda: steps(base, "one"), [10])
            within(15, lambda: sessions(base), {"one": (RUNNING, FIRST)})
            # Its machine is lost within the second epoch; the trial is resumed elsewhere from the first.
            first.scalars({"loss/total": 0.9}, 15)
            first.scalars({"loss/total": 0.8}, 18)
            first.send()
            within(15, lambda: steps(base, "one", "loss/total"), [5, 15, 18])
        with trial(run, "one", FIRST, first_step=10) as again, trial(run, "two", SECOND):
            epoch(again, 2)
            again.end("success")
            again.send()
            within(15, lambda: steps(base, "one"), [10, 20])
            within(15, lambda: steps(base, "one", "loss/total"), [5, 15])
            expected = {"one": ("STATUS_SUCCESS", FIRST), "two": (RUNNING, SECOND)}
            within(15, lambda: sessions(base), expected)


@pytest.fixture
def reused(tmp_path):
    """A run that reused the search of run `first`."""
    storage = Storage(str(tmp_path / "store"))
    first, second = Writer(storage, "first").finished().run, Writer(storage, "second").finished().run
    record = second.stage_record("search")
    second.write("stages/search.json", {**record, "reused_from": "first"})
    return first, second


def test_the_trials_of_a_reused_search_are_those_of_its_run(reused):
    first, second = reused
    with pytest.raises(InputError, match=r"second reused .* run first, .*no longer"):
        searched_by(second)
    with trial(first, "0000", FIRST) as events:
        epoch(events, 1)
    assert searched_by(second) == first
    assert searched_by(first) == first


def test_a_reused_search_whose_run_is_gone_is_one_line(reused, tmp_path):
    done = distiltune(tmp_path / "state", "tensorboard", "second", "--storage", tmp_path / "store")
    one_line(done, "run second", "run first", "storage.reuse=false")


@pytest.mark.slow
def test_a_reused_search_is_shown_and_its_run_named(reused, tmp_path):
    first, second = reused
    with trial(first, "0000", FIRST) as events:
        epoch(events, 1)
    process = subprocess.Popen(
        command_line("tensorboard", "second", "--port", 0, "--storage", second.store.url),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "of run second, with the trials of run first" in line
        base = next(word for word in line.split() if word.startswith("http"))
        within(20, lambda: steps(base, "0000"), [10])
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_a_port_that_is_taken_is_one_line(tmp_path):
    storage = Storage(str(tmp_path / "store"))
    Writer(storage).submitted()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = distiltune(
            tmp_path / "state", "tensorboard", "a", "--port", port, "--storage", storage.store.url
        )
    one_line(done, "--port", port, "in use", "another")


def test_a_copy_grows_in_place(storage, tmp_path):
    """A server keeps the files open and continues reading; a partial copy is completed the next time."""
    store = storage.store
    copy = EventCopy(store, "events", tmp_path / "copy")
    copy.update()
    store.write("events/one/a", b"first")
    copy.update()
    with (tmp_path / "copy/one/a").open("rb") as held:
        assert held.read() == b"first"
        store.write("events/one/a", b"first, second")
        store.write("events/two/b", b"other")
        copy.update()
        assert held.read() == b", second"
    assert (tmp_path / "copy/two/b").read_bytes() == b"other"
