"""The store's contract on every kind of storage: a directory, a real S3 server, an fsspec file system."""

import errno
import logging
import os
import pickle
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from servers import S3_ENVIRONMENT, make_bucket, s3_server

from distiltune.errors import ConfigError, DamagedRecordError, InputError, PermanentStorageError, StorageError
from distiltune.storage.filesystems import refuse_userinfo
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


class _Refuses(BaseHTTPRequestHandler):
    def _answer(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        code, status = self.server.answer
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        self.send_response(status)
        self.send_header("content-type", "application/xml")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture
def refusing_s3(monkeypatch):
    """Yield the address of an object store that refuses every request, and the error it returns, as a list to set."""
    for name, value in S3_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refuses)
    server.answer = ["AccessDenied", 403]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", server.answer
    server.shutdown()
    server.server_close()
    thread.join()


def fill(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def other_machine(monkeypatch, tmp_path):
    """Switch to an empty local cache, as on another machine."""
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / f"cache-{secrets.token_hex(2)}"))


def test_a_record_is_read_as_it_was_written(store):
    assert store.read("a/b.json") is None
    assert store.read_json("a/b.json") is None
    store.write_json("a/b.json", {"value": 1})
    store.write_json("a/b.json", {"value": 2})
    assert store.read_json("a/b.json") == {"value": 2}


def test_names_and_sizes_list_what_is_stored(store):
    assert store.names() == []
    assert store.sizes("none") == {}
    store.write("a/one", b"1")
    store.write("a/deep/two", b"22")
    store.write("b", b"")
    assert store.names() == ["a", "b"]
    assert store.names("a") == ["deep", "one"]
    assert store.sizes("a") == {"one": 1, "deep/two": 2}


def test_deleted_keys_are_gone_and_can_be_deleted_again(store):
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


def test_the_first_upload_of_a_shared_folder_is_kept(store, tmp_path, monkeypatch):
    fill(store.local("f"), one="first", two="first")
    store.publish("f", shared=True)
    other_machine(monkeypatch, tmp_path)
    if store.directory is None:
        fill(store.local("f"), one="other", two="other")
    store.publish("f", shared=True)
    folder = store.fetch("f")
    assert {(folder / name).read_text() for name in ("one", "two")} == {"first"}


def test_concurrent_uploads_of_a_shared_folder_do_not_mix(s3_url, tmp_path, monkeypatch):
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


def test_an_outdated_copy_is_fetched_again(store, tmp_path, monkeypatch):
    fill(store.local("f"), one="first")
    store.publish("f")
    first = os.environ.get("DISTILTUNE_CACHE")
    other_machine(monkeypatch, tmp_path)
    fill(store.local("f"), one="newer")
    store.publish("f")
    monkeypatch.setenv("DISTILTUNE_CACHE", str(first))
    assert (store.fetch("f") / "one").read_text() == "newer"


def test_a_store_can_be_pickled(store):
    store.write("a", b"1")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"1"


def test_readers_see_the_old_or_the_new_record_never_a_mix(store):
    store.write_json("r", {"all": [0] * 5000})
    stop = threading.Event()

    def write():
        for number in range(1, 60):
            store.write_json("r", {"all": [number] * 5000})
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not stop.is_set():
        assert len(set(store.read_json("r")["all"])) == 1
    writer.join()


def test_a_growing_log_is_readable_and_extended_by_a_second_writer(store):
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


def test_a_remote_folder_without_a_listing_does_not_exist(s3_url, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / "cache"))
    store = Store(s3_url, retry_s=1)
    fill(store.local("f"), one="first")
    store.publish("f")
    store.delete("f.folder.json")
    assert not store.has_folder("f")
    with pytest.raises(FileNotFoundError):
        store.fetch("f")


def test_a_modified_remote_folder_is_rejected(s3_url, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / "cache"))
    store = Store(s3_url, retry_s=1)
    fill(store.local("f"), one="first")
    store.publish("f")
    store.write("f/one", b"other")
    other_machine(monkeypatch, tmp_path)
    with pytest.raises(StorageError, match="SHA-256"):
        store.fetch("f")


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside"])
def test_a_listing_that_names_files_outside_its_folder_is_rejected(s3_url, tmp_path, monkeypatch, name):
    monkeypatch.setenv("DISTILTUNE_CACHE", str(tmp_path / "cache"))
    store = Store(s3_url, retry_s=1)
    fill(store.local("f"), one="first")
    store.publish("f")
    listing = store.read_json("f.folder.json")
    store.write_json("f.folder.json", {**listing, "files": {name: listing["files"]["one"]}})
    other_machine(monkeypatch, tmp_path)
    with pytest.raises(StorageError, match="outside"):
        store.fetch("f")


SECRET_URLS = [
    "s3://KEY:HUSH@bucket/x",
    "s3://KEY:HU/HUSH@bucket",
    "s3://KEY:1/HUSH@bucket",
    "S3://KEY:HUSH@bucket",
    "s3://HUSH@bucket",
    "s3://bucket?access_key=KEY&secret_key=HUSH",
    "s3://bucket/x?session_token=HUSH",
    "s3://bucket?endpoint_override=KEY:HUSH@127.0.0.1:1&scheme=http",
    "s3://bucket?endpoint_override=http%3A%2F%2FKEY%3AHUSH%40127.0.0.1",
    "abfss://container:HUSH@account.dfs.core.windows.net",
    "abfs://container@account.dfs.core.windows.net?client_secret=HUSH",
    "gs://KEY:HUSH@bucket",
    "ftp://user:HUSH@127.0.0.1/x",
    "http://user:HUSH@127.0.0.1/x",
    "file://user:HUSH@host/x",
    "s3:KEY:HUSH@bucket",
]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_credentials_in_a_url_are_refused_and_not_shown(url):
    with pytest.raises(ConfigError, match=r"^storage\.path: ") as caught:
        Store(url)
    assert "HUSH" not in str(caught.value)
    assert "KEY:" not in str(caught.value)


def test_an_at_sign_after_the_bucket_is_not_a_credential():
    for url in (
        "s3://bucket/x@y",
        "http://127.0.0.1:80/x@y",
        "abfs://container@account/x",
        "gs://anonymous@bucket",
    ):
        refuse_userinfo("storage.path", url)


@pytest.mark.parametrize(
    "url", ["", "  ", "~nobody-of-this-name/x", "a\0b", "file://host/x", "\udcff", "x" * 5000, "s3:/b"]
)
def test_an_invalid_path_is_rejected_in_one_line(url):
    with pytest.raises(ConfigError, match=r"^storage\.path: ") as caught:
        Store(url)
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize(
    "key", ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "a\0b", "a/", "k" * 2000]
)
def test_a_key_never_leads_out_of_the_store(store, key, tmp_path):
    uses = (
        lambda: store.read(key),
        lambda: store.read_json(key),
        lambda: store.write(key, b"x"),
        lambda: store.delete(key),
        lambda: store.names(key),
        lambda: store.sizes(key),
        lambda: store.local(key),
        lambda: store.fetch(key),
        lambda: store.has_folder(key),
        lambda: store.download(key, tmp_path / "target"),
        lambda: store.upload(tmp_path / "source", key),
    )
    for use in uses:
        with pytest.raises(InputError, match=r"^key "):
            use()


def test_an_unreachable_server_is_reported_in_one_line():
    store = Store("s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http", retry_s=0)
    with pytest.raises(StorageError) as caught:
        store.write("a", b"1")
    assert "127.0.0.1:1" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_write_is_retried_until_the_server_is_back(monkeypatch):
    from servers import free_port

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
        raise OSError("away\nfor a while")

    with pytest.raises(StorageError, match=r"storage here: away for a while \(retried for 0.6 s\); "):
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
def test_an_unsupported_url_is_rejected_in_one_line(url):
    with pytest.raises(ConfigError, match=r"storage\.path") as caught:
        Store(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        "endpoint_override=",
        "endpoint_override=here%20it%20is",
        "endpoint_override=h:99999",
        "endpoint_override=[::1]:9000",
        "endpoint_override=h:0",
        "endpoint_override=h%00:9",
        "endpoint_override=h:1/path",
        "endpoint_override=http://h:1",
        "endpoint_override=h:1&scheme=gopher",
    ],
)
def test_an_invalid_endpoint_is_rejected(options):
    with pytest.raises(ConfigError, match=r"^storage\.path: (endpoint_override|scheme)="):
        Store(f"s3://b/p?{options}")


@pytest.mark.parametrize("endpoint", ["minio.internal", "127.0.0.1:9000"])
def test_an_endpoint_is_a_host_with_or_without_a_port(endpoint):
    Store(f"s3://b/p?endpoint_override={endpoint}&scheme=http")


def test_a_killed_writer_leaves_the_old_record(tmp_path):
    store = Store(str(tmp_path))
    store.write_json("r", {"all": [0]})
    code = (
        f"from distiltune.storage.store import Store\nstore = Store({str(tmp_path)!r})\nprint('go', flush=True)\n"
        "while True: store.write_json('r', {{'all': [1] * 300_000}})"
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
    assert len(set(record["all"])) == 1
    assert store.names() == ["r"]


DAMAGED_RECORDS = {
    "list": b"[]",
    "number": b"5",
    "null": b"null",
    "text": b'"text"',
    "empty": b"",
    "cut off": b'{"a": 1',
    "nan": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "too large a number": b'{"a": 1e999}',
    "too many digits": b'{"a": ' + b"9" * 5000 + b"}",
    "deep": b'{"a":' * 100_000,
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "bytes": b"\xff\xfe\x00\xd8",
    "half of a pair": b'{"a": "\\ud800"}',
}


@pytest.mark.parametrize("kind", DAMAGED_RECORDS)
def test_a_damaged_record_is_reported_and_left_unchanged(store, kind):
    store.write("a/r.json", DAMAGED_RECORDS[kind])
    with pytest.raises(DamagedRecordError, match=r"a/r\.json: is damaged .*backup") as caught:
        store.read_json("a/r.json")
    assert len(str(caught.value)) < 400
    assert "delete" not in str(caught.value)
    assert store.read("a/r.json") == DAMAGED_RECORDS[kind]


def test_a_record_of_100_mb_is_not_read(tmp_path):
    with (tmp_path / "r.json").open("wb") as file:
        file.truncate(100 * 2**20)
    with pytest.raises(DamagedRecordError, match=r"r\.json: has 104,857,600 bytes"):
        Store(str(tmp_path)).read_json("r.json")


def test_a_pipe_or_a_folder_in_place_of_a_record_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe.json", "folder.json"):
        with pytest.raises(PermanentStorageError, match=name):
            Store(str(tmp_path)).read_json(name)


def test_foreign_names_do_not_hide_records(tmp_path):
    store = Store(str(tmp_path))
    store.write("good", b"1")
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    (tmp_path / "nowhere").symlink_to("/nowhere/at/all")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "parent").symlink_to(tmp_path)
    assert "good" in store.names()
    assert "good" in store.sizes("")


def _raises(code):
    def fail():
        raise OSError(code, os.strerror(code), "/some/where")

    return fail


@pytest.mark.parametrize(
    "name",
    ["EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "ENAMETOOLONG", "ENOTDIR", "EISDIR", "ELOOP", "EINVAL"],
)
def test_permanent_errors_are_not_retried(name):
    code = getattr(errno, name)
    began = time.monotonic()
    with pytest.raises(
        PermanentStorageError, match=rf"^storage /some/where: {re.escape(os.strerror(code))}; \w+"
    ):
        retrying(_raises(code), "here", 60)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("name", ["EIO", "ESTALE", "ETIMEDOUT", "ECONNREFUSED", "EHOSTUNREACH"])
def test_transient_errors_are_retried(name):
    tries = []

    def operation():
        if not tries:
            tries.append(1)
            _raises(getattr(errno, name))()
        return "done"

    assert retrying(operation, "here", 5) == "done"


def test_a_name_that_is_too_long_is_reported(tmp_path):
    store = Store(str(tmp_path), retry_s=60)
    for use in (lambda: store.write("n" * 300, b"1"), lambda: store.has_folder("n" * 300)):
        with pytest.raises(PermanentStorageError, match=r"File name too long; .*shorter"):
            use()


def test_a_full_disk_is_reported_at_once_with_its_path(small_disk):
    store = Store(str(small_disk), retry_s=60)
    with pytest.raises(PermanentStorageError, match=rf"storage {small_disk}/.*No space left on device; free"):
        store.write("large", bytes(4 * 2**20))
    source = small_disk.parent / "source"
    source.write_bytes(bytes(4 * 2**20))
    with pytest.raises(PermanentStorageError, match=r"disk/.*No space left on device; free"):
        store.upload(source, "large")
    assert store.names() == []
    store.write("small", b"1")


def test_a_missing_bucket_is_not_retried(s3_url):
    store = Store(s3_url.replace(s3_url.partition("?")[0], "s3://not-there"), retry_s=60)
    with pytest.raises(
        PermanentStorageError, match=r"storage s3://not-there/a: .*NO_SUCH_BUCKET.*; create the bucket"
    ):
        store.write("a", b"1")


@pytest.mark.parametrize(
    ("code", "status", "remedy"),
    [
        ("AccessDenied", 403, "AWS_ACCESS_KEY_ID"),
        ("InvalidAccessKeyId", 403, "AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", 403, "AWS_ACCESS_KEY_ID"),
        ("PermanentRedirect", 301, "region"),
        ("AuthorizationHeaderMalformed", 400, "region"),
        ("KeyTooLongError", 400, "shorter"),
        ("ExpiredToken", 400, "AWS_SESSION_TOKEN"),
    ],
)
def test_refusals_of_an_object_store_are_not_retried(refusing_s3, code, status, remedy):
    endpoint, answer = refusing_s3
    answer[:] = [code, status]
    store = Store(f"s3://bucket/x?endpoint_override={endpoint}&scheme=http", retry_s=60)
    with pytest.raises(PermanentStorageError, match=rf"storage s3://bucket/x/a: .*{remedy}"):
        store.write("a", b"1")
    with pytest.raises(PermanentStorageError, match=r"storage s3://bucket/x/a: "):
        if code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "PermanentRedirect"):
            store.read("a")
        else:
            store.names("a")
