"""Atomic files, hashes of files and environment variables of a block, each implemented in one place."""

import hashlib
import os
import re
import stat
from pathlib import Path

import pytest

from distiltune.storage.environment import environment_set
from distiltune.storage.folders import file_sha256, link_or_copy, new_file, write_file

ROOT = Path(__file__).parents[2]


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "below" / "file.txt"
    with new_file(target) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("private", [False, True])
def test_a_failed_write_leaves_only_the_earlier_file(tmp_path, error, private):
    target = tmp_path / "file.txt"
    target.write_text("earlier")
    with pytest.raises(error), new_file(target, private=private) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), new_file(tmp_path / "file.txt"):
        pass


@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o644)])
def test_a_private_file_is_readable_by_its_user_alone(tmp_path, private, mode):
    before = os.umask(0o022)
    try:
        write_file(tmp_path / "token", "s3cret", private=private)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == mode
    assert (tmp_path / "token").read_bytes() == b"s3cret"


def test_text_is_written_as_utf_8_and_bytes_as_they_are(tmp_path):
    write_file(tmp_path / "text", "für\n")
    write_file(tmp_path / "bytes", b"\xff\r\n")
    assert (tmp_path / "text").read_bytes() == "für\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\xff\r\n"


def test_the_sha_256_of_a_file_is_that_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_variables_are_restored_after_a_block_fails(monkeypatch):
    monkeypatch.setenv("DISTILTUNE_TEST_SET", "before")
    monkeypatch.setenv("DISTILTUNE_TEST_REMOVED", "before")
    monkeypatch.delenv("DISTILTUNE_TEST_NEW", raising=False)
    monkeypatch.delenv("DISTILTUNE_TEST_OWN", raising=False)
    before = dict(os.environ)
    settings = {"DISTILTUNE_TEST_SET": "in", "DISTILTUNE_TEST_REMOVED": None, "DISTILTUNE_TEST_NEW": "in"}
    with pytest.raises(KeyError), environment_set(settings, "DISTILTUNE_TEST_OWN"):
        assert os.environ["DISTILTUNE_TEST_SET"] == os.environ["DISTILTUNE_TEST_NEW"] == "in"
        assert "DISTILTUNE_TEST_REMOVED" not in os.environ
        os.environ["DISTILTUNE_TEST_OWN"] = "the block's"
        del os.environ["DISTILTUNE_TEST_NEW"]
        raise KeyError
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("call", "owners"),
    [
        # hash_regular of artifact/files.py hashes an opened file, and checks that it did not change meanwhile.
        (r"file_digest\(", {"storage/folders.py", "export/artifact/files.py"}),
        (r"os\.replace\(|mkstemp\(|O_EXCL", {"storage/folders.py"}),
        (r"os\.environ\.(update|pop)\(|os\.environ\.get\(name\)", {"storage/environment.py"}),
    ],
)
def test_each_operation_is_implemented_in_one_place(call, owners):
    paths = [
        path
        for folder in ("storage", "training", "search", "export", "cluster")
        for path in (ROOT / folder).rglob("*.py")
    ]
    found = {
        str(path.relative_to(ROOT))
        for path in [*paths, *ROOT.glob("*.py")]
        if re.search(call, path.read_text())
    }
    assert found == owners


def test_a_large_file_is_linked_and_a_small_one_copied(tmp_path):
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(bytes(2**20))
    small.write_bytes(b"x")
    for source in (large, small):
        link_or_copy(source, tmp_path / f"{source.name}-2")
    assert large.samefile(tmp_path / "large-2")
    assert not small.samefile(tmp_path / "small-2")
    with new_file(tmp_path / "large-2") as temporary:  # replacing one does not change the other
        temporary.write_bytes(b"new")
    assert large.stat().st_size == 2**20


def test_files_are_copied_where_they_cannot_be_linked(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_bytes(bytes(2**20))
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "a").samefile(tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == bytes(2**20)
    with pytest.raises(FileNotFoundError):
        link_or_copy(tmp_path / "none", tmp_path / "c")
