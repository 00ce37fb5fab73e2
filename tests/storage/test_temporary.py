"""Temporary directories: private, deleted after use, and removed by a later process if theirs was killed."""

import os
import subprocess
import sys
import time

import pytest

from distiltune.storage import temporary
from distiltune.storage.temporary import TemporaryDirectory, remove_abandoned, temporary_directory

HOLD = """
import sys, time
from pathlib import Path
from distiltune.storage.temporary import TemporaryDirectory
directory = TemporaryDirectory("work", Path(sys.argv[1]))
(directory.path / "weights").write_bytes(b"x")
print(directory.path, flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Yield another process that holds a temporary directory in ``tmp_path``, and that directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        yield process, temporary.Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def test_a_directory_is_private_and_deleted_after_its_block():
    with temporary_directory("work") as path:
        assert path.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_uid == os.getuid()
        (path / "file").touch()
    assert not path.exists()


def test_a_directory_is_deleted_when_its_block_fails():
    with pytest.raises(KeyboardInterrupt), temporary_directory("work") as path:
        raise KeyboardInterrupt
    assert not path.exists()


def test_a_second_removal_does_nothing(tmp_path):
    directory = TemporaryDirectory("work", tmp_path)
    directory.remove()
    directory.path.mkdir()
    directory.remove()
    assert directory.path.exists()


def test_a_directory_is_removed_after_its_process_is_killed(holder, tmp_path):
    process, path = holder
    assert remove_abandoned(tmp_path) == []
    assert (path / "weights").exists()
    process.kill()
    process.wait()
    assert remove_abandoned(tmp_path) == [path]
    assert not path.exists()


def test_the_first_directory_of_a_process_removes_abandoned_ones(holder, tmp_path):
    process, path = holder
    process.kill()
    process.wait()
    own = TemporaryDirectory("work", tmp_path)
    assert not path.exists()
    assert own.path.exists()


def test_directories_of_this_process_are_kept(tmp_path):
    own = [TemporaryDirectory(purpose, tmp_path) for purpose in ("teacher", "trial")]
    assert remove_abandoned(tmp_path) == []
    assert all(each.path.exists() for each in own)


def test_similarly_named_files_of_the_user_are_kept(tmp_path):
    mine = tmp_path / "distiltune-runs"
    mine.mkdir()
    (tmp_path / "distiltune-notes.tmp").write_text("a file")
    assert remove_abandoned(tmp_path) == []
    assert mine.exists()
    assert (tmp_path / "distiltune-notes.tmp").exists()


def test_links_are_not_followed(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "precious").touch()
    link = tmp_path / "distiltune-work-abcdefgh.tmp"
    link.symlink_to(target, target_is_directory=True)
    assert remove_abandoned(tmp_path) == []
    assert link.is_symlink()
    assert (target / "precious").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes a directory of another user")
def test_directories_of_other_users_are_kept(tmp_path):
    other = tmp_path / "distiltune-work-abcdefgh.tmp"
    other.mkdir()
    os.chown(other, 65534, 65534)
    assert remove_abandoned(tmp_path) == []
    assert other.exists()


def test_the_callback_before_a_removal_sees_the_directory(holder, tmp_path):
    process, path = holder
    process.kill()
    process.wait()
    seen = []
    remove_abandoned(tmp_path, before=lambda each: seen.append((each, (each / "weights").exists())))
    assert seen == [(path, True)]


def test_concurrent_processes_keep_each_others_directories(tmp_path):
    """Each process creates its directory while the others search for abandoned ones."""
    code = HOLD.replace("time.sleep(60)", "sys.stdin.read()")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    paths = [temporary.Path(process.stdout.readline().strip()) for process in processes]
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        assert remove_abandoned(tmp_path) == []
    assert all((path / "weights").exists() for path in paths)
    for process in processes:
        process.communicate("")
