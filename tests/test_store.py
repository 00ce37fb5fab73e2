"""The store's contract, over every kind of place: a directory, a real S3 server, an fsspec file system."""

import logging
import os
import pickle
import secrets
import signal
import subprocess
import sys
import threading
import time

import pytest
from servers import make_bucket, s3_server

from distiltune.errors import ConfigError, StorageError
from distiltune.storage.filesystems import with_endpoint
from distiltune.storage.logs import LogWriter, read_log
from distiltune.storage.retry import retrying
from distiltune.storage.store import Store


@pytest.fixture(params=["directory", "s3", "memory"])
def store(request, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / "cache"))
    if request.param == "directory":
        return Store(str(tmp_path / "store"), retry_s=1)
    if request.param == "memory":
        return Store(f"memory://{secrets.token_hex(4)}/store", retry_s=1)
    url = request.getfixturevalue("s3_url")
    return Store(url.replace("?", "/prefix?"), retry_s=1)


def fill(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def other_machine(monkeypatch, tmp_path):
    """From here on folders are fetched as a machine would that has none of them."""
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / f"cache-{secrets.token_hex(2)}"))


def test_a_record_is_read_as_it_was_written(store):
    assert store.read("a/b.json") is None
    assert store.read_json("a/b.json") is None
    store.write_json("a/b.json", {"value": 1})
    store.write_json("a/b.json", {"value": 2})
    assert store.read_json("a/b.json") == {"value": 2}


def test_names_and_sizes_say_what_is_there(store):
    assert store.names() == []
    assert store.sizes("none") == {}
    store.write("a/one", b"1")
    store.write("a/deep/two", b"22")
    store.write("b", b"")
    assert store.names() == ["a", "b"]
    assert store.names("a") == ["deep", "one"]
    assert store.sizes("a") == {"one": 1, "deep/two": 2}


def test_what_is_deleted_is_gone_and_may_be_deleted_again(store):
    store.write("a/one", b"1")
    store.write("a/two", b"2")
    store.delete("a/one")
    assert store.names("a") == ["two"]
    for _ in range(2):
        store.delete("a")
        assert store.read("a/two") is None


def test_a_folder_is_fetched_as_it_was_published(store, tmp_path, monkeypatch):
    assert not store.has_folder("f")
    with pytest.raises(FileNotFoundError):
        store.fetch("f")
    fill(store.local("f"), one="first", deep__two="second")
    store.publish("f")
    assert store.has_folder("f")
    other_machine(monkeypatch, tmp_path)
    folder = store.fetch("f")
    assert (folder / "one").read_text() == "first"
    assert (folder / "deep" / "two").read_text() == "second"
    assert "f" in store.names()
    assert [name for name in store.names() if name.startswith("f.")] == []


def test_a_folder_published_again_replaces_the_first(store, tmp_path, monkeypatch):
    fill(store.local("f"), one="first", gone="x")
    store.publish("f")
    here = store.local("f")
    (here / "gone").unlink()
    fill(here, one="other")
    store.publish("f")
    other_machine(monkeypatch, tmp_path)
    folder = store.fetch("f")
    assert sorted(path.name for path in folder.iterdir()) == ["one"]
    assert (folder / "one").read_text() == "other"


def test_of_two_that_send_a_shared_folder_the_first_stays_whole(store, tmp_path, monkeypatch):
    fill(store.local("f"), one="first", two="first")
    store.publish("f", shared=True)
    other_machine(monkeypatch, tmp_path)
    if store.directory is None:
        fill(store.local("f"), one="other", two="other")
    store.publish("f", shared=True)
    folder = store.fetch("f")
    assert {(folder / name).read_text() for name in ("one", "two")} == {"first"}


def test_two_that_send_a_shared_folder_at_once_do_not_mix_their_files(s3_url, tmp_path, monkeypatch):
    code = (
        "import sys\nfrom distiltune.storage.store import Store\n"
        "store = Store(sys.argv[1])\nfolder = store.local('f')\nfolder.mkdir(parents=True)\n"
        "for n in range(20): (folder / str(n)).write_text(sys.argv[2])\n"
        "print('ready', flush=True)\nsys.stdin.readline()\nstore.publish('f', shared=True)"
    )
    senders = [
        subprocess.Popen(
            [sys.executable, "-c", code, s3_url, name],
            env={**os.environ, "DISTILTUNE_CACHE": str(tmp_path / name)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    for sender in senders:
        sender.stdout.readline()
    for sender in senders:
        sender.stdin.write("\n")
        sender.stdin.flush()
    for sender in senders:
        sender.communicate(timeout=60)
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / "reader"))
    folder = Store(s3_url).fetch("f")
    assert len({(folder / str(n)).read_text() for n in range(20)}) == 1


def test_a_copy_that_is_out_of_date_is_fetched_again(store, tmp_path, monkeypatch):
    fill(store.local("f"), one="first")
    store.publish("f")
    first = os.environ.get("DISTILTUNE_CACHE")
    other_machine(monkeypatch, tmp_path)
    fill(store.local("f"), one="newer")
    store.publish("f")
    monkeypatch.setenv("DISTILTUNE_CACHE", str(first))
    assert (store.fetch("f") / "one").read_text() == "newer"


def test_it_can_be_sent_to_another_process(store):
    store.write("a", b"1")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"1"


def test_readers_see_the_old_or_the_new_and_never_half(store):
    store.write_json("r", [0] * 5000)
    stop = threading.Event()

    def write():
        for number in range(1, 60):
            store.write_json("r", [number] * 5000)
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not stop.is_set():
        assert len(set(store.read_json("r"))) == 1
    writer.join()


def test_a_log_is_read_while_it_grows_and_by_a_second_writer(store):
    assert read_log(store, "log") == ("", 0)
    writer = LogWriter(store, "log")
    writer.write("one\n")
    writer.flush()
    text, offset = read_log(store, "log")
    assert text == "one\n"
    writer.emit(logging.makeLogRecord({"msg": "two"}))
    writer.flush()
    assert read_log(store, "log", offset)[0] == "two\n"
    writer.close()
    again = LogWriter(store, "log")
    again.write("three\n" + "long line\n" * 20_000)
    again.close()
    assert read_log(store, "log")[0] == "one\ntwo\nthree\n" + "long line\n" * 20_000
    assert len(store.names("log")) > 3


def test_a_remote_folder_without_its_listing_is_not_there(s3_url, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / "cache"))
    store = Store(s3_url, retry_s=1)
    fill(store.local("f"), one="first")
    store.publish("f")
    store.delete("f.folder.json")
    assert not store.has_folder("f")
    with pytest.raises(FileNotFoundError):
        store.fetch("f")


def test_a_remote_folder_that_was_changed_is_refused(s3_url, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / "cache"))
    store = Store(s3_url, retry_s=1)
    fill(store.local("f"), one="first")
    store.publish("f")
    store.write("f/one", b"other")
    other_machine(monkeypatch, tmp_path)
    with pytest.raises(StorageError, match="SHA-256"):
        store.fetch("f")


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside"])
def test_a_listing_that_names_what_is_outside_is_refused(s3_url, tmp_path, monkeypatch, name):
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / "cache"))
    store = Store(s3_url, retry_s=1)
    fill(store.local("f"), one="first")
    store.publish("f")
    listing = store.read_json("f.folder.json")
    store.write_json("f.folder.json", {**listing, "files": {name: listing["files"]["one"]}})
    other_machine(monkeypatch, tmp_path)
    with pytest.raises(StorageError, match="outside"):
        store.fetch("f")


def test_credentials_of_a_url_are_shown_to_nobody():
    store = Store("s3://key:secret@bucket/x?endpoint_override=127.0.0.1:1&scheme=http", retry_s=0)
    assert store.location("a") == "s3://bucket/x/a"
    with pytest.raises(StorageError) as caught:
        store.write("a", b"1")
    assert "secret" not in f"{store} {caught.value}"


def test_a_server_that_is_down_is_tried_for_the_stated_time_then_one_line():
    store = Store("s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http", retry_s=0)
    with pytest.raises(StorageError) as caught:
        store.write("a", b"1")
    assert "127.0.0.1:1" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_write_waits_for_a_server_that_comes_back(monkeypatch):
    from servers import S3_ENVIRONMENT, free_port

    for name, value in S3_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    port = free_port()
    with s3_server(port=port) as endpoint:
        url = make_bucket(endpoint, "comes-back")
    store = Store(url, retry_s=60)
    done = []
    writer = threading.Thread(target=lambda: done.append(store.write("a", b"1")))
    writer.start()
    time.sleep(2)
    assert not done
    with s3_server(port=port) as endpoint:
        make_bucket(endpoint, "comes-back")
        writer.join(timeout=60)
        assert done
        assert store.read("a") == b"1"


def test_retrying_ends_with_the_last_reason():
    tries = []

    def fail():
        tries.append(1)
        raise PermissionError("denied\nby the server")

    with pytest.raises(StorageError, match=r"storage here: denied by the server \(tried for 0.6 s\); repair"):
        retrying(fail, "here", 0.6)
    assert len(tries) == 2


def test_retrying_returns_when_it_works_again():
    answers = iter([OSError("away"), 5])

    def sometimes():
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert retrying(sometimes, "here", 5) == 5


@pytest.mark.parametrize("url", ["zz://a/b", "s3://"])
def test_a_url_that_nothing_knows_is_refused_in_one_line(url):
    with pytest.raises(ConfigError, match=r"storage\.path") as caught:
        Store(url)
    assert "\n" not in str(caught.value)


def test_an_endpoint_becomes_part_of_the_url():
    assert with_endpoint("s3://b/p", None) == "s3://b/p"
    assert with_endpoint("s3://b/p", "http://h:9000") == "s3://b/p?endpoint_override=h:9000&scheme=http"
    assert with_endpoint("s3://b?region=x", "h:1") == "s3://b?region=x&endpoint_override=h:1&scheme=https"
    for url, endpoint in (("gs://b", "http://h:1"), ("s3://b", "http://h:1/path"), ("s3://b", "")):
        with pytest.raises(ConfigError, match=r"storage\.endpoint_override"):
            with_endpoint(url, endpoint)


def test_a_killed_writer_leaves_the_old_record(tmp_path):
    store = Store(str(tmp_path))
    store.write_json("r", [0])
    code = (
        f"from distiltune.storage.store import Store\nstore = Store({str(tmp_path)!r})\nprint('go', flush=True)\n"
        "while True: store.write_json('r', [1] * 300_000)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    record = store.read_json("r")
    assert record is not None
    assert len(set(record)) == 1
    assert store.names() == ["r"]
