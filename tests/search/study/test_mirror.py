"""The Optuna journal of a search: its content, and that the real optuna-dashboard shows it over HTTP."""

import json
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from servers import free_port, wait_for_http

from distiltune.errors import StorageError
from distiltune.search.config import Objective
from distiltune.search.parameters import Choice, FloatRange, IntRange
from distiltune.search.study import mirror as mirror_module
from distiltune.search.study.frozen_trial import frozen_trial, reached_values
from distiltune.search.study.mirror import StudyMirror
from distiltune.search.trial_record import TrialRecord
from distiltune.storage.store import Store

KEY = "runs/first/search/study.journal"
SPACE = {
    "alpha": FloatRange(low=0.0, high=1.0),
    "temperature": IntRange(low=2, high=20),
    "optim": Choice(values=["adamw", "sgd"]),
    "momentum": FloatRange(low=0.1, high=1.0),  # only with sgd
    "student.layers": Choice(values=[[0, 5], [0, 2, 5]]),
}
ONE = [Objective(metric="validation_accuracy", mode="max")]
TWO = [*ONE, Objective(metric="latency_ms", mode="min")]
BEGIN = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def at(seconds):
    return BEGIN.timestamp() + seconds


def changed(trial, **changes):
    return trial.model_copy(update=changes)


FINISHED = TrialRecord(
    number=1,
    trial_id="aaaa0001",
    parameters={
        "alpha": 0.25,
        "temperature": 4,
        "optim": "sgd",
        "momentum": 0.5,
        "student.layers": [0, 2, 5],
        "num_train_epochs": 3,
    },
    state="finished",
    curve=[[1 / 3, 0.7], [2 / 3, 0.8], [1.0, 0.9]],
    seconds=30,
    ended=at(30),
)
PRUNED = TrialRecord(
    number=0,
    trial_id="aaaa0000",
    parameters={"alpha": 0.5, "temperature": 7, "optim": "adamw", "student.layers": [0, 5]},
    state="pruned",
    curve=[[0.25, 0.4]],
    seconds=40,
    ended=at(40),
)
FAILED = TrialRecord(
    number=2,
    trial_id="aaaa0002",
    parameters={"alpha": 0.75, "temperature": 9, "optim": "adamw", "student.layers": [0, 5]},
    state="failed",
    curve=[[0.25, float("nan")]],
    reason="loss is nan at step 3",
)
TRIALS = [FINISHED, PRUNED, FAILED]


@pytest.fixture(params=["directory", "s3"])
def store(request, tmp_path):
    url = str(tmp_path / "store") if request.param == "directory" else request.getfixturevalue("s3_url")
    return Store(url, retry_s=2)


def new_mirror(store, **changes):
    given = {
        "name": "first",
        "space": SPACE,
        "objectives": ONE,
        **changes,
    }
    return StudyMirror(store, KEY, **given)


def mirrored(store, trials, **changes):
    mirror = new_mirror(store, **changes)
    for trial in trials:
        mirror.append(trial)
    mirror.close()
    return store.read(KEY)


def read_study(content, path, name="first"):
    path.write_bytes(content)
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(path))))


def ids(study):
    return [trial.user_attrs["trial_id"] for trial in study.trials]


def test_what_optuna_reads(store, tmp_path):
    study = read_study(mirrored(store, TRIALS), tmp_path / "copy")
    assert study.metric_names == ["validation_accuracy"]
    assert study.direction.name == "MAXIMIZE"
    finished, pruned, failed = study.trials
    assert finished.state == TrialState.COMPLETE
    assert finished.value == 0.9
    assert finished.params == {
        "alpha": 0.25,
        "temperature": 4,
        "optim": "sgd",
        "momentum": 0.5,
        "student.layers": "[0, 2, 5]",
    }
    assert finished.distributions == {name: each.distribution() for name, each in SPACE.items()}
    assert finished.intermediate_values == {33: 0.7, 67: 0.8, 100: 0.9}
    assert finished.user_attrs == {
        "num_train_epochs": 3,
        "trial_id": "aaaa0001",
        "number": 1,
    }
    assert finished.duration == timedelta(seconds=30)
    assert finished.datetime_start.astimezone(UTC) == BEGIN
    assert pruned.state == TrialState.PRUNED
    assert pruned.value == 0.4
    assert pruned.intermediate_values == {25: 0.4}
    assert set(pruned.params) == {"alpha", "temperature", "optim", "student.layers"}
    assert failed.state == TrialState.FAIL
    assert failed.values is None
    assert failed.intermediate_values == {}
    assert failed.user_attrs["reason"] == "loss is nan at step 3"


def test_a_journal_is_what_optuna_itself_writes(tmp_path):
    """Except for the name of the writer; fails if Optuna changes the format of its journal."""
    ours = mirrored(Store(str(tmp_path / "store")), TRIALS)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "theirs")))
    study = optuna.create_study(storage=storage, study_name="first", directions=["maximize"])
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.set_metric_names(["validation_accuracy"])
    known = [changed(trial, ended=trial.ended or at(50)) for trial in TRIALS]
    study.add_trials([frozen_trial(trial, SPACE, reached_values(trial, ONE)) for trial in known])

    def logs(content):
        return [{**json.loads(line), "worker_id": ""} for line in content.splitlines()]

    theirs = logs((tmp_path / "theirs").read_bytes())
    assert logs(ours)[:-1] == theirs[:-1]
    unknown = {
        "datetime_start": "",
        "datetime_complete": "",
    }  # of a trial that never began: when it was added
    assert {**logs(ours)[-1], **unknown} == {**theirs[-1], **unknown}


def test_one_by_one_and_all_at_once_are_the_same_file(store):
    known = [FINISHED, PRUNED, changed(FAILED, ended=at(50))]
    one_by_one = mirrored(store, known)
    mirror = new_mirror(store)
    mirror.rewrite([known[2], known[0], known[1]])
    assert store.read(KEY) == one_by_one
    mirror.rewrite(known[:1])
    assert one_by_one.startswith(store.read(KEY))
    for trial in known[1:]:
        mirror.append(trial)
    mirror.close()
    assert store.read(KEY) == one_by_one


def test_an_interrupted_search_continues_its_journal(store, tmp_path):
    last = changed(FAILED, ended=at(50))
    whole = mirrored(store, [FINISHED, PRUNED, last])
    store.write(KEY, whole[:-40])  # killed while it wrote the last one
    assert mirrored(store, [PRUNED, last]) == whole
    new_mirror(store).close()
    assert store.read(KEY) == whole
    # What ended before and was trained again.
    repaired = changed(FINISHED, curve=[[1.0, 0.95]])
    study = read_study(mirrored(store, [repaired]), tmp_path / "copy")
    assert ids(study) == ["aaaa0001", "aaaa0000", "aaaa0002"]
    assert study.trials[0].values == [0.95]
    new_mirror(store).rewrite([PRUNED])
    assert ids(read_study(store.read(KEY), tmp_path / "rewritten")) == ["aaaa0000"]


@pytest.mark.parametrize(
    "other",
    [
        {"name": "second"},
        {"objectives": [Objective(metric="validation_accuracy", mode="min")]},
        {"objectives": TWO},
    ],
    ids=["name", "direction", "objectives"],
)
def test_the_journal_of_another_study_is_replaced(tmp_path, other):
    store = Store(str(tmp_path / "store"))
    mirrored(store, [changed(FINISHED, metrics={"latency_ms": 0.9})], **other)
    assert ids(read_study(mirrored(store, [PRUNED]), tmp_path / "copy")) == ["aaaa0000"]


def test_an_empty_study_can_be_opened(store, tmp_path):
    new_mirror(store).rewrite([])
    assert read_study(store.read(KEY), tmp_path / "copy").trials == []


def test_the_same_trial_is_there_once(store, tmp_path):
    once = mirrored(store, [FINISHED, PRUNED])
    new_mirror(store).rewrite([])
    assert mirrored(store, [FINISHED, FINISHED, PRUNED, FINISHED, PRUNED]) == once
    mirror = new_mirror(store)
    mirror.rewrite([FINISHED, PRUNED])
    mirror.append(FINISHED)
    mirror.close()
    assert store.read(KEY) == once
    # A trial that was lost and then finished after all.
    repaired = changed(FAILED, state="finished", curve=[[1.0, 0.8]], reason=None, ended=at(60))
    new_mirror(store).rewrite([])
    study = read_study(mirrored(store, [FAILED, FINISHED, repaired]), tmp_path / "copy")
    assert sorted(ids(study)) == ["aaaa0001", "aaaa0002"]
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_several_objectives(store, tmp_path):
    trials = [changed(FINISHED, metrics={"latency_ms": 1.5}), changed(PRUNED, curve=[]), FAILED]
    study = read_study(mirrored(store, trials, objectives=TWO), tmp_path / "copy")
    assert study.metric_names == ["validation_accuracy", "latency_ms"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert [trial.values for trial in study.trials] == [[0.9, 1.5], None, None]
    assert ids(study)[0] == study.best_trials[0].user_attrs["trial_id"]


def test_what_is_outside_of_the_space_is_an_attribute(store, tmp_path):
    odd = {"alpha": 1.5, "temperature": 4.5, "optim": "lion", "student.layers": [1]}
    study = read_study(mirrored(store, [changed(FINISHED, parameters=odd)]), tmp_path / "copy")
    (trial,) = study.trials
    assert trial.params == {}
    assert {name: trial.user_attrs[name] for name in odd} == odd


def test_an_append_leaves_the_rest_of_the_file_as_it_is(tmp_path):
    """A directory's journal is not written again: its inode and the notes of a dashboard stay."""
    store = Store(str(tmp_path))
    path = tmp_path / KEY
    mirror = new_mirror(store)
    mirror.append(FINISHED)
    study = read_study(path.read_bytes(), tmp_path / "copy")
    inode = path.stat().st_ino
    live = optuna.load_study(study_name="first", storage=JournalStorage(JournalFileBackend(str(path))))
    live.set_user_attr("note", "looks good")
    mirror.append(PRUNED)
    assert path.stat().st_ino == inode
    assert live.user_attrs == {"note": "looks good"}
    assert ids(live) == ["aaaa0001", "aaaa0000"]
    assert ids(study) == ["aaaa0001"]
    assert [name.name for name in path.parent.iterdir()] == ["study.journal"]


def test_a_lock_of_a_killed_writer_blocks_nothing(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    mirror = new_mirror(store)
    mirror.append(FINISHED)
    # Its holder was killed.
    (tmp_path / f"{KEY}.lock").touch()
    before = time.monotonic()
    mirror.append(PRUNED)
    assert time.monotonic() - before < 15
    assert ids(read_study(store.read(KEY), tmp_path / "copy")) == ["aaaa0001", "aaaa0000"]


def test_an_unavailable_store_only_delays(tmp_path, caplog):
    """It is replaced with a link to itself, below which not even root can read or write."""
    folder = tmp_path / "store"
    mirror = new_mirror(Store(str(folder), retry_s=0))
    mirror.append(FINISHED)
    away = folder.rename(tmp_path / "away")
    folder.symlink_to(folder)
    mirror.append(PRUNED)
    assert "the Optuna journal" in caplog.text
    with pytest.raises(StorageError):
        mirror.rewrite([FINISHED, PRUNED])
    folder.unlink()
    away.rename(folder)
    mirror.append(FAILED)
    mirror.close()
    study = read_study((folder / KEY).read_bytes(), tmp_path / "copy")
    assert ids(study) == ["aaaa0001", "aaaa0000", "aaaa0002"]


def test_a_truncated_line_is_not_continued(tmp_path, monkeypatch):
    """As on a full disk: only a part of the line is written, and readers see the trials before it."""
    store = Store(str(tmp_path))
    mirror = new_mirror(store)
    mirror.append(FINISHED)

    def cut_off(self, logs):
        with (tmp_path / KEY).open("ab") as file:
            file.write(b'{"op_code":4,"wor')
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", cut_off)
        mirror.append(PRUNED)
    assert ids(read_study(store.read(KEY), tmp_path / "cut")) == ["aaaa0001"]
    mirror.close()
    assert ids(read_study(store.read(KEY), tmp_path / "copy")) == ["aaaa0001", "aaaa0000"]


def test_a_remote_journal_is_sent_periodically(s3_url, tmp_path, monkeypatch):
    monkeypatch.setattr(mirror_module, "_UPLOAD_PERIOD_S", 0.5)
    store = Store(s3_url, retry_s=2)
    writes = []
    write = Store.write
    monkeypatch.setattr(Store, "write", lambda *given: (writes.append(time.monotonic()), write(*given))[1])
    mirror = new_mirror(store)
    for number in range(20):
        mirror.append(changed(FINISHED, number=number, trial_id=f"{number:08x}", ended=at(number)))
    deadline = time.monotonic() + 20
    while (store.read(KEY) or b"").count(b"trial_id") < 20:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(writes) == 1  # of twenty, and without a further append
    mirror.close()
    assert len(writes) == 1
    assert len(read_study(store.read(KEY), tmp_path / "copy").trials) == 20


def test_appending_costs_the_same_after_many_trials(tmp_path):
    """An append writes one line, however long the journal is."""
    store = Store(str(tmp_path))
    mirror = new_mirror(store)
    sizes = []
    appended = []
    append = JournalFileBackend.append_logs
    mirror.rewrite(
        changed(FINISHED, number=number, trial_id=f"{number:08x}", ended=at(number)) for number in range(300)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            JournalFileBackend,
            "append_logs",
            lambda self, logs: (appended.append(len(logs)), append(self, logs))[1],
        )
        patch.setattr(Store, "write", lambda *_: sizes.append(1))
        for number in range(300, 310):
            mirror.append(changed(FINISHED, number=number, trial_id=f"{number:08x}", ended=at(number)))
    assert appended == [1] * 10
    assert sizes == []
    assert len(read_study(store.read(KEY), tmp_path / "copy").trials) == 310


@contextmanager
def dashboard(path: Path):
    """The address of a real optuna-dashboard that serves a journal file."""
    port = free_port()
    process = subprocess.Popen(
        [
            Path(sys.executable).with_name("optuna-dashboard"),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            str(path),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_http(f"http://127.0.0.1:{port}/api/studies")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        process.kill()
        process.wait(timeout=20)


def get(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)


def shown_trials(url, count):
    """Wait until the dashboard, which polls the file, shows ``count`` trials, and return them."""
    deadline = time.monotonic() + 60
    while True:
        trials = get(f"{url}/api/studies/0")["trials"]
        if len(trials) >= count:
            return trials
        assert time.monotonic() < deadline, trials
        time.sleep(0.2)


@pytest.mark.slow
def test_the_real_dashboard_shows_a_search_while_it_runs(tmp_path):
    mirror = new_mirror(Store(str(tmp_path)))
    mirror.rewrite([])
    with dashboard(tmp_path / KEY) as url:
        (study,) = get(f"{url}/api/studies")["study_summaries"]
        assert (study["study_name"], study["directions"]) == ("first", ["maximize"])
        assert shown_trials(url, 0) == []
        known = [FINISHED, PRUNED, changed(FAILED, ended=at(50))]
        mirror.append(known[0])
        assert len(shown_trials(url, 1)) == 1
        mirror.append(known[1])
        mirror.append(known[2])
        shown = shown_trials(url, 3)
        # The search's end puts a new file there, with the same trials.
        last = changed(FINISHED, number=3, trial_id="aaaa0003", ended=at(60))
        mirror.rewrite([*known, last])
        again = shown_trials(url, 4)

    assert again[:3] == shown
    assert [trial["state"] for trial in again] == ["Complete", "Pruned", "Fail", "Complete"]
    assert [trial.get("values") for trial in again] == [[0.9], [0.4], None, [0.9]]
    params = {each["name"]: each["param_external_value"] for each in again[0]["params"]}
    assert params == {
        "alpha": "0.25",
        "temperature": "4",
        "optim": "sgd",
        "momentum": "0.5",
        "student.layers": "[0, 2, 5]",
    }
    assert [each["name"] for each in again[1]["params"]] == [
        "alpha",
        "temperature",
        "optim",
        "student.layers",
    ]
    steps = [{"step": 33, "value": 0.7}, {"step": 67, "value": 0.8}, {"step": 100, "value": 0.9}]
    assert again[0]["intermediate_values"] == steps
    attributes = [{each["key"]: each["value"] for each in trial["user_attrs"]} for trial in again]
    assert [each["trial_id"] for each in attributes] == ["aaaa0001", "aaaa0000", "aaaa0002", "aaaa0003"]
    assert attributes[0]["num_train_epochs"] == "3"
    assert attributes[2]["reason"] == "loss is nan at step 3"
