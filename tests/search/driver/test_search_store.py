"""Searches that keep everything in a store: on a real S3 server, with drivers, nodes and storage that are lost."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from servers import S3_ENVIRONMENT, small_disk
from stored_searches import (
    KEYS,
    LOGGED_EPOCH,
    eventually,
    kill,
    proxy,
    saved_by_trial,
    search,
)
from transformers import AutoModelForSequenceClassification

from distiltune.errors import StorageError
from distiltune.search.trial.checkpoints import (
    checkpoint_key,
    download_checkpoint,
    find_checkpoint,
    saved_epochs,
    thin_out,
    thinned,
    upload_files,
    upload_record,
    write_epoch,
)
from distiltune.search.trial.integrity import last_intact
from distiltune.search.trial_record import is_trial_name
from distiltune.storage.logs import read_log
from distiltune.storage.store import Store
from distiltune.training.distillation.config import TrainingConfig

# Ray's workers inherit it when Ray starts, which may be in another file's tests.
os.environ.update(S3_ENVIRONMENT)

TESTS = Path(__file__).parents[2] / "support"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / "cache"))


def events_of(store: Store, run: str, folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name in store.sizes(run):
        store.download(f"{run}/{name}", folder / name)
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


@pytest.mark.slow
def test_a_search_on_s3_leaves_everything_there(ray_session, s3_url, cache, tmp_path):
    store = Store(s3_url, retry_s=5)
    reported = []
    seen_while_running = []

    def report(progress):
        reported.append(progress)
        if progress.values["best_value"] is not None and progress.values["running"]:
            seen_while_running.append(store.names(KEYS["tensorboard"]))

    outcome = search(store, 2, 2, report=report, cpus_per_trial=2)
    assert [trial.state for trial in outcome.trials] == ["finished"] * 2
    assert json.loads(json.dumps(dict(reported[-1].values)))["done"] == 2
    assert outcome.best.checkpoint is not None
    assert outcome.best.checkpoint.startswith(f"{KEYS['experiment']}/{outcome.best.trial_id}/checkpoint_")
    folder = download_checkpoint(store, outcome.best.checkpoint, tmp_path / "best")
    AutoModelForSequenceClassification.from_pretrained(folder)
    assert any(set(names) & {trial.trial_id for trial in outcome.trials} for names in seen_while_running)
    for trial in outcome.trials:
        events = events_of(store, f"{KEYS['tensorboard']}/{trial.trial_id}", tmp_path / trial.trial_id)
        assert len(events.Scalars("validation/accuracy")) == 2
        assert "_hparams_/session_end_info" in events.summary_metadata
        text, _ = read_log(store, f"{KEYS['logs']}/{trial.trial_id}")
        assert LOGGED_EPOCH.findall(text) == ["1", "2"]
        assert f'"alpha": {trial.parameters["alpha"]}' in text
        assert socket.gethostname() in text
        assert "in scope accuracy" in text
    assert search(store, 2, 2, cpus_per_trial=2) == outcome


@pytest.mark.parametrize("place", ["directory", "s3"])
def test_a_checkpoint_counts_when_all_its_files_have_their_size(place, request, tmp_path):
    directory = place == "directory"
    store = Store(str(tmp_path / "store") if directory else request.getfixturevalue("s3_url"), retry_s=1)

    def save(number: int, epoch: int, accuracy: float) -> None:
        folder = tmp_path / f"made-{number}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(10 * number))
        (folder / "optimizer.pt").write_bytes(bytes(7))
        write_epoch(folder, {"epoch": epoch, "step": 7 * epoch, "metrics": {"accuracy": accuracy}})
        for path in folder.iterdir():
            store.write(f"s/t/checkpoint_{number:06}/{path.name}", path.read_bytes())

    for number, accuracy in ((0, 0.5), (3, 0.9), (4, 0.9), (6, 0.7), (7, 0.95)):
        save(number, number + 1, accuracy)
    store.write("s/t/checkpoint_000007/model.safetensors", b"cut off")
    store.write("s/t/params.json", b"{}")
    epochs = saved_epochs(store, "s/t")
    assert [each.epoch for each in epochs] == [1, 4, 5, 7]
    assert (find_checkpoint(epochs, "accuracy") or epochs[0]).epoch == 5
    assert (find_checkpoint(epochs) or epochs[0]).epoch == 7
    thin_out(store, "s/t", "accuracy", "max")
    assert store.names("s/t") == ["checkpoint_000004", "checkpoint_000006", "params.json"]
    only = download_checkpoint(store, "s/t/checkpoint_000004", tmp_path / "only", {"model.safetensors"})
    assert [path.name for path in only.iterdir()] == ["model.safetensors"]
    assert [list(each.record["files"]) for each in saved_epochs(store, "s/t")] == [["model.safetensors"], []]
    assert sum(store.sizes("s/t").values()) < 2000, "weights once, and records"
    with pytest.raises(FileNotFoundError):
        download_checkpoint(store, "s/t/checkpoint_000000", tmp_path / "none")


def test_the_last_epoch_alone_keeps_what_resuming_needs(tmp_path):
    store, left = Store(str(tmp_path / "store"), retry_s=0), []
    for epoch, accuracy in ((1, 0.5), (2, 0.9), (3, 0.7), (4, 0.8)):
        folder = tmp_path / f"made-{epoch}"
        folder.mkdir()
        for name in ("config.json", "model.safetensors", "optimizer.pt"):
            (folder / name).write_bytes(b"x")
        write_epoch(folder, {"epoch": epoch, "step": epoch, "metrics": {"accuracy": accuracy}})
        upload_files(store, folder, checkpoint_key("s/t", epoch))
        left.append(upload_record(store, folder, checkpoint_key("s/t", epoch)))
        left = thinned(store, left, "accuracy", "max", ended=False)
        assert left == saved_epochs(store, "s/t")
        assert [each.epoch for each in left if "optimizer.pt" in each.record["files"]] == [epoch]
        assert [each.epoch for each in left if each.can_be_resumed] == [epoch]
    best, last = left
    assert (best.epoch, last.epoch) == (2, 4)
    assert set(best.record["files"]) == {"config.json", "model.safetensors"}
    assert sorted(store.sizes(best.key)) == ["config.json", "epoch.json", "model.safetensors"]
    store.write(f"{last.key}/optimizer.pt", b"y")
    messages = []
    assert last_intact(store, left, messages.append) is None, "the best epoch has nothing to resume from"
    assert "checkpoint of epoch 4" in messages[0]
    assert messages[1].startswith("starting again at epoch 1: ")
    assert "no intact checkpoint has an optimizer state" in messages[1]
    assert last_intact(store, [best], messages.append) is None
    assert len(messages) == 2, "nothing is damaged"


def test_a_damaged_last_epoch_falls_back_to_the_one_before(tmp_path):
    """As when the driver was killed before it thinned out what the new epoch replaces."""
    store, messages = Store(str(tmp_path / "store"), retry_s=0), []
    for epoch in (1, 2):
        folder = tmp_path / f"made-{epoch}"
        folder.mkdir()
        (folder / "optimizer.pt").write_bytes(b"x")
        write_epoch(folder, {"epoch": epoch, "step": epoch, "metrics": {}})
        upload_files(store, folder, checkpoint_key("s/t", epoch))
        upload_record(store, folder, checkpoint_key("s/t", epoch))
    store.write(f"{checkpoint_key('s/t', 2)}/optimizer.pt", b"y")
    found = last_intact(store, saved_epochs(store, "s/t"), messages.append)
    assert found is not None
    assert found.epoch == 1
    assert len(messages) == 1


def test_a_checkpoint_exists_only_once_it_is_complete(tmp_path, monkeypatch):
    store, sent = Store(str(tmp_path / "store"), retry_s=0), []
    upload = Store.upload

    def away_after_one(self, source, key):
        if sent:
            raise StorageError("storage: away")
        sent.append(key)
        upload(self, source, key)

    def made(weights: bytes) -> Path:
        folder = tmp_path / weights.decode()
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "optimizer.pt").write_bytes(weights)
        (folder / "model.safetensors").write_bytes(weights)
        write_epoch(folder, {"epoch": 3, "step": 7, "metrics": {"accuracy": 0.5}})
        return folder

    key = checkpoint_key("s/0001", 3)
    first, other = made(b"first"), made(b"other")
    upload_files(store, first, key)
    assert saved_epochs(store, "s/0001") == []
    saved = upload_record(store, first, key)
    assert saved == saved_epochs(store, "s/0001")[0]
    assert saved.key == "s/0001/checkpoint_000003"
    monkeypatch.setattr(Store, "upload", away_after_one)
    with pytest.raises(StorageError):
        upload_files(store, other, key)
    assert len(sent) == 1
    assert saved_epochs(store, "s/0001") == [], "half of one and half of another"
    monkeypatch.undo()
    upload_files(store, other, key)
    again = upload_record(store, other, key)
    assert saved_epochs(store, "s/0001") == [again]
    assert store.read(f"{again.key}/deep/optimizer.pt") == b"other"


@pytest.mark.slow
def test_trials_missing_from_the_snapshot_are_resumed_by_their_numbers(ray_session, tmp_path):
    """As after a kill of the driver within the seconds before a snapshot; nothing is trained again."""
    store = Store(str(tmp_path))
    outcome = search(store, 3, 2, cpus_per_trial=2)
    experiment, logs = KEYS["experiment"], KEYS["logs"]
    for name in store.names(experiment):
        if not is_trial_name(name):
            store.delete(f"{experiment}/{name}")
    other = store.read_json(f"{experiment}/0002/begun.json") or {}
    store.write_json(f"{experiment}/0002/begun.json", {**other, "arguments": {"alpha": 0.123}})
    again = search(store, 3, 2, cpus_per_trial=2)
    for before, after in zip(outcome.trials, again.trials, strict=True):
        assert (before.trial_id, before.parameters, before.curve) == (
            after.trial_id,
            after.parameters,
            after.curve,
        )
        assert store.names(f"{experiment}/{after.trial_id}") == store.names(f"{experiment}/{before.trial_id}")
    texts = [read_log(store, f"{logs}/{trial.trial_id}")[0] for trial in again.trials]
    assert [LOGGED_EPOCH.findall(text) for text in texts] == [["1", "2"]] * 3
    assert [re.findall(r"after epoch (\d+)", text) for text in texts] == [["2"], ["2"], []], (
        "the number of the last one stood for other arguments"
    )
    for trial in again.trials:
        lines = (store.read(f"{experiment}/{trial.trial_id}/result.json") or b"").splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
        events = events_of(store, f"{KEYS['tensorboard']}/{trial.trial_id}", tmp_path / trial.trial_id)
        assert len(events.Scalars("validation/accuracy")) == 2


def test_a_folder_that_a_former_driver_left_does_not_change_a_trials_name(ray_session, tmp_path):
    from ray.train._internal.storage import StorageContext
    from ray.tune.experiment import Trial

    from distiltune.search.driver.experiment import _name_folder

    for _ in range(2):
        storage = StorageContext(storage_path=str(tmp_path / "store"), experiment_dir_name="search")
        trial = Trial(
            "any", config={"number": 7}, trial_dirname_creator=_name_folder, storage=storage, stub=True
        )
        trial.init_local_path()
        storage = trial.storage
        assert storage is not None
        assert storage.trial_fs_path.endswith("/search/0007")
        assert Path(trial.local_path or "").is_dir()


def test_results_wait_for_an_unavailable_storage_and_keep_earlier_ones(tmp_path, monkeypatch):
    from distiltune.search.driver.progress import search_running
    from distiltune.search.driver.result_files import ResultFiles

    store, away = Store(str(tmp_path), retry_s=0), threading.Event()
    read, write = Store.read, Store.write

    def unless_away(operation):
        def wrapped(*args):
            if away.is_set():
                raise StorageError("storage: away")
            return operation(*args)

        return wrapped

    monkeypatch.setattr(Store, "read", unless_away(read))
    monkeypatch.setattr(Store, "write", unless_away(write))
    config = {"number": 3, "arguments": {"alpha": 0.5}}
    trial = cast(Any, SimpleNamespace(config=config, trial_id="of-tune"))

    def report(files: ResultFiles, epoch: int, **more: Any) -> None:
        files.on_trial_result(0, [], trial, {"epoch": epoch, "config": config, **more})

    def found() -> list[tuple[int, int]]:
        lines = (read(store, "s/0003/result.json") or b"").splitlines()
        return [(json.loads(line)["epoch"], json.loads(line).get("try", 1)) for line in lines]

    with search_running(None, store=store, experiment="s"):
        first = ResultFiles()
        first.on_trial_start(0, [], trial)
        report(first, 1)
        report(first, 2)
        assert found() == [(1, 1), (2, 1)]
        assert json.loads(read(store, "s/0003/params.json") or b"") == config
        again = ResultFiles()
        away.set()
        again.on_trial_start(0, [], trial)
        report(again, 2, **{"try": 2})
        away.clear()
        report(again, 3, **{"try": 2})
        again.on_trial_complete(0, [], trial)
        assert found() == [(1, 1), (2, 2), (3, 2)]
        away.set()
        last = ResultFiles()
        config["arguments"] = {"alpha": 0.6}
        last.on_trial_start(0, [], trial)
        report(last, 1, **{"try": 3})
        last.on_trial_complete(0, [], trial)
        away.clear()
        last.on_experiment_end([])
        assert found() == [(1, 3)], "the others are of a trial with other arguments"
        assert json.loads(read(store, "s/0003/params.json") or b"") == config


def test_a_directory_that_the_nodes_do_not_share_is_refused_by_the_first_trial(tmp_path):
    from distiltune.search.trial.inputs import TrialSettings
    from distiltune.search.trial.run import run_trial

    settings = TrialSettings(
        training=TrainingConfig(),
        metric="validation_accuracy",
        mode="max",
        store=Store(str(tmp_path)),
        **KEYS,
        num_threads=torch.get_num_threads(),
        use_gpu=False,
    )
    with pytest.raises(StorageError, match=r"the search's folder .*distiltune resume"):
        run_trial({"number": 0, "arguments": {}}, cast(Any, None), settings)
    assert not list(tmp_path.iterdir())


def test_a_trials_log_holds_what_is_printed_and_warned_while_it_runs(tmp_path, capsys):
    from distiltune.search.trial.log import trial_log

    store = Store(str(tmp_path))
    transformers = logging.getLogger("transformers.some.module")
    kept = []
    with trial_log(store, "logs/one") as log:
        log("epoch 1")
        sys.stdout.write("printed\n")
        sys.stderr.write("to stderr\n")
        transformers.warning("careful")
        logging.getLogger("distiltune.search").warning("take care")
        logging.getLogger("distiltune.search").info("not this")
        kept.append(sys.stdout)
    with pytest.raises(SystemExit), trial_log(store, "logs/stopped") as log:
        log("before the end")
        sys.exit(0)
    with pytest.raises(ZeroDivisionError), trial_log(store, "logs/two"):
        kept[0].write("of the first")
        1 / 0  # noqa: B018
    one, two = (read_log(store, f"logs/{name}")[0] for name in ("one", "two"))
    for text in ("epoch 1", "printed", "to stderr", "careful", "take care"):
        assert one.count(text) == 1, text
    assert "not this" not in one
    assert "of the first" not in one + two
    assert "Traceback" in two
    assert "ZeroDivisionError" in two
    assert "before the end" in read_log(store, "logs/stopped")[0]
    assert "printed" in capsys.readouterr().out


@pytest.mark.slow
def test_an_unavailable_storage_does_not_fail_a_trial_because_of_its_plots(s3_url, tmp_path, caplog):
    from distiltune.search.trial.events import TrialEvents

    store = Store(s3_url)
    with proxy(s3_url) as (url, away):
        events = TrialEvents(Store(url), "tensorboard/t", {"alpha": 0.5})
        assert len(store.names("tensorboard/t")) == 1
        away.set()
        events.scalars({"loss/total": 1.0}, 1)
        events.send()
        assert "TensorBoard" in caplog.text
        away.clear()
        events.scalars({"loss/total": 0.5}, 2)
        events.send()
        shown = events_of(store, "tensorboard/t", tmp_path / "t").Scalars("loss/total")
        assert [event.step for event in shown] == [1, 2]
        events.close()


def test_a_search_that_nothing_can_run_reports_what_it_waits_for(ray_session, tmp_path, monkeypatch):
    from distiltune.search.driver import callbacks

    monkeypatch.setattr(callbacks, "_PATIENCE_S", 1.0)

    class EnoughError(Exception):
        pass

    def report(moment):
        if moment.values["waiting_for"]:
            raise EnoughError(moment.values["waiting_for"])

    with pytest.raises(EnoughError, match=r"1 CPU and 0\.5 GPU for a trial"):
        search(Store(str(tmp_path)), 1, 1, gpus_per_trial=0.5, check_resources=False, report=report)


@pytest.mark.parametrize(
    ("states", "pending"),
    [
        ([], True),
        (["CREATED"], False),
        (["REMOVED", "CREATED", "CREATED"], False),
        (["REMOVED"], True),
        (["CREATED", "PENDING"], True),
        (["RESCHEDULING"], True),
    ],
)
def test_a_trial_whose_worker_starts_has_its_place(states, pending, monkeypatch):
    from distiltune.search.driver.callbacks import has_pending_places

    groups = {str(number): {"state": state} for number, state in enumerate(states)}
    monkeypatch.setattr("ray.util.placement_group_table", lambda: groups)
    assert has_pending_places() == pending


def test_what_a_trial_raised_is_what_its_worker_raised(ray_session, tmp_path):
    import ray
    from ray import cloudpickle

    from distiltune.search.driver import callbacks

    @ray.remote(num_cpus=0)
    def away():
        raise StorageError("storage: away")

    trial = SimpleNamespace(pickled_error_file=tmp_path / "error.pkl")
    with pytest.raises(StorageError) as caught:
        ray.get(away.remote())
    assert type(caught.value) is not StorageError
    trial.pickled_error_file.write_bytes(cloudpickle.dumps(caught.value))
    found = callbacks._error_of(trial)  # type: ignore[arg-type]
    assert type(found) is StorageError
    assert str(found) == "storage: away"


def test_what_tune_writes_into_a_directory_appears_whole(tmp_path):
    from pyarrow.fs import LocalFileSystem, copy_files

    from distiltune.search.driver.atomic_files import tune_filesystem

    made = pickle.loads(pickle.dumps(tune_filesystem(Store(str(tmp_path)))))
    assert made == tune_filesystem(Store(str(tmp_path)))
    target = tmp_path / "target"
    target.write_text("old")
    with made.open_output_stream(str(target)) as file:
        file.write(b"new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "weights").write_bytes(bytes(3 * 2**20))
    copy_files(
        str(source),
        str(tmp_path / "copy"),
        source_filesystem=LocalFileSystem(),
        destination_filesystem=made,
    )
    assert (tmp_path / "copy" / "deep" / "weights").stat().st_size == 3 * 2**20
    assert list(tmp_path.rglob(".*")) == []
    with pytest.raises(FileNotFoundError):
        made.open_output_stream(str(tmp_path / "none" / "target"))
    given_up = made.open_output_stream(str(target))
    given_up.write(b"half")
    del given_up
    assert target.read_text() == "new"
    assert list(tmp_path.rglob(".*")) == []


# Slow: real failures.


@contextmanager
def driver_process(folder: Path, *arguments):
    """One machine: a process group with an empty temporary directory and an empty cache."""
    temporary = Path("/tmp") / f"d{os.getpid()}-{folder.name}"
    temporary.mkdir()
    folder.mkdir()
    code = f"from stored_searches import driver; driver(*{arguments!r})"
    environment = {
        **os.environ,
        "PYTHONPATH": str(TESTS),
        "TMPDIR": str(temporary),
        "DISTILTUNE_CACHE": str(folder / "cache"),
    }
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        yield process
    finally:
        kill(process)
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_on_s3_is_resumed_on_another_machine(s3_url, tmp_path, cache):
    store = Store(s3_url, retry_s=10)
    job = (s3_url, 4, 8, 480, str(tmp_path / "outcome.json"))
    with driver_process(tmp_path / "first", *job) as process:

        def some_ended() -> bool:
            assert process.poll() is None, (tmp_path / "first" / "stderr").read_text()
            saved = saved_by_trial(store).values()
            return 8 in saved and any(2 < epoch < 7 for epoch in saved)

        eventually(some_ended, 200)
        kill(process)
    before = saved_by_trial(store)
    with driver_process(tmp_path / "second", *job) as process:
        assert process.wait(300) == 0, (tmp_path / "second" / "stderr").read_text()
    trials = json.loads((tmp_path / "outcome.json").read_text())["trials"]
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]
    assert [trial["state"] for trial in trials] == ["finished"] * 4
    after = {trial["trial_id"] for trial in trials}
    assert set(before) & after
    assert {name for name in store.names(KEYS["experiment"]) if is_trial_name(name)} == after
    for trial in after:
        lines = [int(epoch) for epoch in LOGGED_EPOCH.findall(read_log(store, f"{KEYS['logs']}/{trial}")[0])]
        again = [epoch for epoch in lines if epoch <= before.get(trial, 0)]
        assert len(again) == len(set(again)), (trial, before, lines)
        assert set(lines) >= set(range(before.get(trial, 0) + 1, 9))
        assert saved_by_trial(store)[trial] == 8


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_whose_storage_goes_away_ends_in_one_line_and_is_resumed(ray_session, s3_url, cache):
    direct = Store(s3_url, retry_s=10)
    with proxy(s3_url) as (url, away):
        store = Store(url, retry_s=3)

        def report(progress):
            if progress.values["best_value"] is not None:
                away.set()

        with pytest.raises(StorageError, match="distiltune resume") as caught:
            search(store, 3, 4, report=report)
        assert "\n" not in str(caught.value)
        away.clear()
        saved = saved_by_trial(direct)
        outcome = search(store, 3, 4)
    assert [trial.state for trial in outcome.trials] == ["finished"] * 3
    assert saved
    for trial in set(saved) & {trial.trial_id for trial in outcome.trials}:
        lines = [int(epoch) for epoch in LOGGED_EPOCH.findall(read_log(direct, f"{KEYS['logs']}/{trial}")[0])]
        again = [epoch for epoch in lines if epoch <= saved[trial]]
        assert len(again) == len(set(again))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_whose_disk_is_full_is_resumed_when_there_is_room(ray_session, tmp_path):
    with small_disk(tmp_path / "disk", "16m"):
        store = Store(str(tmp_path / "disk"), retry_s=3)

        def report(progress):
            if progress.values["best_value"] is not None:
                with suppress(OSError):
                    (tmp_path / "disk" / "filler").write_bytes(bytes(16 * 2**20))

        with pytest.raises(StorageError, match="No space left on device") as caught:
            search(store, 3, 4, report=report)
        assert "\n" not in str(caught.value)
        (tmp_path / "disk" / "filler").unlink()
        saved = saved_by_trial(store)
        assert saved
        outcome = search(store, 3, 4)
        assert [trial.state for trial in outcome.trials] == ["finished"] * 3
        assert set(saved) & {trial.trial_id for trial in outcome.trials}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_storage_that_comes_back_in_time_is_only_waited_for(ray_session, s3_url, cache):
    with proxy(s3_url) as (url, away):
        store = Store(url, retry_s=60)
        timers = []

        def report(progress):
            if progress.values["best_value"] is not None and not timers:
                away.set()
                timers.append(threading.Timer(6, away.clear))
                timers[0].start()

        outcome = search(store, 2, 4, report=report)
    assert timers
    assert [trial.state for trial in outcome.trials] == ["finished"] * 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_trial_whose_node_is_lost_is_resumed_on_another(s3_url, tmp_path):
    """In a process of its own: this one may be connected to another Ray."""
    code = f"from stored_searches import lose_a_node; lose_a_node({s3_url!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(TESTS), "DISTILTUNE_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
