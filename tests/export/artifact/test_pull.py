"""A copy of an artifact is complete or absent, and is never made inside the artifact itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from artifacts import TEXTS, tiny_artifact

from distiltune.errors import ArtifactError, InputError
from distiltune.export.artifact import copying
from distiltune.export.artifact.seal import copy_artifact, seal_artifact, verify_artifact


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    made = tiny_artifact(tmp_path / "made")
    return seal_artifact(made, tmp_path / "run" / "sealed", made_from={}, measurements={"query": TEXTS[0]})


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refused(sealed: Path, target: str | Path, root: Path, *names: str) -> None:
    before = tree(root)
    with pytest.raises(InputError) as raised:
        copy_artifact(sealed, target)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith("--to")
    for name in names:
        assert name in message
    assert tree(root) == before


@pytest.mark.parametrize(
    "target",
    [
        "sealed",
        "sealed/copy",
        "sealed/a/b",
        ".",
        "sealed/../sealed/x",
        "link",
        "link/x",
        "to_parent/sealed/x",
    ],
)
def test_a_target_in_its_own_source_is_refused(
    sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    run = sealed.parent
    (run / "link").symlink_to("sealed")
    (run / "to_parent").symlink_to(run)
    refused(sealed, run / target, tmp_path, str(sealed))
    monkeypatch.chdir(run)
    refused(Path("sealed"), target, tmp_path, str(sealed))
    monkeypatch.chdir(sealed)
    refused(Path(), "x", tmp_path, str(sealed))


def test_a_source_through_a_link_is_the_folder_itself(sealed: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(sealed)
    refused(tmp_path / "link", sealed / "x", tmp_path, str(sealed))
    assert verify_artifact(copy_artifact(tmp_path / "link", tmp_path / "copy"))


@pytest.mark.parametrize("target", ["", " ", "a\0b", "~nobody-of-that-name", "~nobody-of-that-name/x"])
def test_a_name_that_names_no_folder_is_refused(sealed: Path, tmp_path: Path, target: str) -> None:
    refused(sealed, target, tmp_path, repr(target))


def test_the_home_is_meant_by_its_sign(sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert copy_artifact(sealed, "~/copy") == tmp_path / "home" / "copy"


@pytest.mark.parametrize(
    "taken",
    [
        Path.mkdir,
        lambda path: path.write_text(""),
        os.mkfifo,
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to("."),
        lambda path: path.symlink_to(path),
    ],
    ids=["folder", "file", "pipe", "broken link", "link", "link to itself"],
)
def test_a_target_that_is_taken_is_refused(sealed: Path, tmp_path: Path, taken) -> None:
    target = tmp_path / "target"
    taken(target)
    if target.is_dir() and not target.is_symlink():
        (target / "mine").write_text("stays")
    refused(sealed, target, tmp_path, str(target))


@pytest.mark.parametrize("below", ["file/copy", "file/a/b", "pipe/copy"])
def test_a_target_below_a_file_is_refused(sealed: Path, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    refused(sealed, tmp_path / below, tmp_path, below, "Not a directory")


def test_a_name_that_is_too_long_is_refused_and_the_longest_is_not(sealed: Path, tmp_path: Path) -> None:
    refused(sealed, tmp_path / "a" / ("x" * 256), tmp_path, "name too long")
    refused(sealed, tmp_path / ("x/" * 3000), tmp_path, "name too long")
    assert verify_artifact(copy_artifact(sealed, tmp_path / ("x" * 255)))
    assert verify_artifact(copy_artifact(sealed, tmp_path / ("é" * 127)))


def test_a_place_that_cannot_be_written_is_refused(sealed: Path, tmp_path: Path) -> None:
    refused(sealed, "/proc/copy", tmp_path, "/proc/copy")
    refused(sealed, "/proc/a/b/copy", tmp_path, "/proc/a/b/copy")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(122, "Quota exceeded")])
def test_a_full_disk_leaves_nothing(
    sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise error

    monkeypatch.setattr(copying.shutil, "copyfile", full)
    refused(sealed, tmp_path / "new" / "deep" / "copy", tmp_path, "copy", "choose another folder")


def test_a_copy_that_was_damaged_on_its_way_leaves_nothing(
    sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copyfile = shutil.copyfile

    def damaged(source: Path, target: Path) -> None:
        copyfile(source, target)
        if target.name == "distiltune.json":
            target.write_text("{}")

    monkeypatch.setattr(copying.shutil, "copyfile", damaged)
    before = tree(tmp_path)
    with pytest.raises(ArtifactError, match=r"distiltune\.json was changed"):
        copy_artifact(sealed, tmp_path / "new" / "copy")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["README.md", "model.onnx", "manifest.json"])
def test_a_damaged_source_makes_no_folder(sealed: Path, tmp_path: Path, name: str) -> None:
    (sealed / name).unlink()
    before = tree(tmp_path)
    with pytest.raises(ArtifactError, match=name):
        copy_artifact(sealed, tmp_path / "new" / "copy")
    assert tree(tmp_path) == before


def test_files_that_the_manifest_does_not_list_are_not_spread(sealed: Path, tmp_path: Path) -> None:
    (sealed / "evil.py").write_text("")
    with pytest.raises(ArtifactError, match=r"evil\.py"):
        copy_artifact(sealed, tmp_path / "copy")


KILLED = """
import sys, time
from distiltune.export.artifact import copying
from distiltune.export.artifact.seal import copy_artifact

def stuck(source, target):
    target.write_bytes(b"half")
    print("copying", flush=True)
    time.sleep(60)

copying.shutil.copyfile = stuck
copy_artifact(*sys.argv[1:])
"""


def test_a_killed_copy_leaves_one_hidden_folder_that_the_next_one_removes(
    sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_LEFT_BEHIND_S", 0.0)
    place = tmp_path / "place"
    place.mkdir()
    command = [sys.executable, "-c", KILLED, str(sealed), str(place / "copy")]
    path = os.pathsep.join(each for each in sys.path if each)
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"copying\n"
        (held,) = place.iterdir()
        assert held.name.startswith(".pull-")
        time.sleep(0.01)
        # Another pull to the same place does not touch a folder that is in use.
        copy_artifact(sealed, place / "copy")
        assert held.exists()
        shutil.rmtree(place / "copy")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [each.name for each in place.iterdir()] == [held.name]
    copy_artifact(sealed, place / "other")
    assert held.exists()  # it belongs to another target
    copy_artifact(sealed, place / "copy")
    assert sorted(each.name for each in place.iterdir()) == ["copy", "other"]


def test_a_young_folder_of_another_copy_is_left_alone(sealed: Path, tmp_path: Path) -> None:
    with copying._locked_folder_beside(tmp_path / "copy") as folder:
        kept = Path(shutil.copytree(folder, f"{folder}-2"))
    copy_artifact(sealed, tmp_path / "copy")
    assert kept.exists()


def test_the_copy_is_an_artifact_like_any_other(sealed: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    copy = copy_artifact(sealed, tmp_path / "empty")
    assert json.loads((copy / "manifest.json").read_text()) == json.loads(
        (sealed / "manifest.json").read_text()
    )
    assert copy.stat().st_mode & 0o777 == 0o755
    assert tree(copy) == tree(sealed)
