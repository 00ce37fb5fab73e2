"""A sealed artifact is verified against its manifest each time that it is loaded."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from artifacts import TEXTS, tiny_artifact

from distiltune.errors import ArtifactError
from distiltune.export.artifact import contents, files, hash_cache
from distiltune.export.artifact.seal import seal_artifact, verify_artifact
from distiltune.export.runtime.classifier import TextClassifier

SEALED = ["README.md", "distiltune.json", "model.onnx", "tokenizer.json"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "distiltune"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make files count as old enough for the cache at once."""
    monkeypatch.setattr(hash_cache, "_SETTLED_NS", -1)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    made = tiny_artifact(tmp_path / "made")
    return seal_artifact(made, tmp_path / "sealed", made_from={}, measurements={"query": TEXTS[0]})


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose content was hashed."""
    names = []

    def count(file, path: Path) -> str:
        names.append(path.name)
        return files.hash_regular(file, path)

    monkeypatch.setattr(contents, "hash_regular", count)
    return names


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", SEALED)
def test_a_changed_file_is_refused_and_verify_false_loads_it(sealed: Path, name: str) -> None:
    with (sealed / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(ArtifactError, match=name):
        TextClassifier.load(sealed)
    if name != "model.onnx":
        assert TextClassifier.load(sealed, verify=False)(TEXTS[0])["label"]


def test_other_labels_of_the_same_size_are_refused(sealed: Path) -> None:
    config = sealed / "distiltune.json"
    before = config.stat()
    config.write_text(config.read_text().replace("first", "fifth"))
    os.utime(config, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ArtifactError, match=r"distiltune\.json was changed"):
        TextClassifier.load(sealed)


@pytest.mark.parametrize("name", SEALED)
def test_a_missing_file_is_refused(sealed: Path, name: str) -> None:
    (sealed / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        TextClassifier.load(sealed)


def test_weights_that_the_manifest_does_not_list_are_refused(sealed: Path) -> None:
    (sealed / "notes.txt").write_text("read by nobody")
    TextClassifier.load(sealed)
    (sealed / "model.onnx.data").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"model\.onnx\.data"):
        TextClassifier.load(sealed)


@pytest.mark.parametrize("damage", ["{", "[]", "", "\0", "directory", "pipe", "link"])
def test_a_damaged_manifest_is_not_taken_for_none(sealed: Path, damage: str) -> None:
    manifest = sealed / "manifest.json"
    manifest.unlink()
    if damage == "directory":
        manifest.mkdir()
    elif damage == "pipe":
        os.mkfifo(manifest)
    elif damage == "link":
        manifest.symlink_to("nowhere")
    else:
        manifest.write_text(damage)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        TextClassifier.load(sealed)
    assert TextClassifier.load(sealed, verify=False)(TEXTS[0])["label"]


def test_a_folder_without_manifest_is_loaded_as_it_is(sealed: Path, hashed: list[str]) -> None:
    (sealed / "manifest.json").unlink()
    edit(sealed / "distiltune.json", labels=["a", "b", "c"])
    assert TextClassifier.load(sealed).labels == ["a", "b", "c"]
    assert hashed == []


def test_files_through_links_are_loaded_where_their_content_is_right(sealed: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"  # like those in a model hub's cache or a mounted volume
    linked.mkdir()
    for file in sealed.iterdir():
        (linked / file.name).symlink_to(file)
    TextClassifier.load(linked)
    with pytest.raises(ArtifactError, match="link"):
        verify_artifact(linked)


def test_an_unchanged_file_is_hashed_once(sealed: Path, settled: None, hashed: list[str]) -> None:
    TextClassifier.load(sealed)
    assert hashed == SEALED
    TextClassifier.load(sealed)
    assert hashed == SEALED
    verify_artifact(sealed)
    assert hashed == SEALED * 2  # verify_artifact always hashes


def test_a_changed_file_is_hashed_again_though_its_mtime_is_put_back(
    sealed: Path, settled: None, hashed: list[str]
) -> None:
    TextClassifier.load(sealed)
    hashed.clear()
    config = sealed / "distiltune.json"
    before = config.stat()
    time.sleep(0.02)  # a tick of the file system's clock
    config.write_text(config.read_text().replace("first", "fifth"))
    os.utime(config, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (config.stat().st_size, config.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(ArtifactError, match=r"distiltune\.json was changed"):
        TextClassifier.load(sealed)
    assert hashed == ["distiltune.json"]


def test_a_file_changed_a_moment_ago_is_not_remembered(sealed: Path, cache: Path) -> None:
    TextClassifier.load(sealed)
    assert not cache.exists()


def test_the_cache_is_private(sealed: Path, settled: None, cache: Path) -> None:
    TextClassifier.load(sealed)
    (file,) = cache.iterdir()
    assert (file.stat().st_mode & 0o777, cache.stat().st_mode & 0o777) == (0o600, 0o700)
    assert len(file.read_text().splitlines()) == len(SEALED)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder, file: file.chmod(0o666),
        lambda folder, file: folder.chmod(0o777),
        lambda folder, file: (shutil.move(file, folder / "moved"), file.symlink_to(folder / "moved")),
        lambda folder, file: os.chown(file, 65534, -1),
        lambda folder, file: (file.unlink(), os.mkfifo(file)),
        lambda folder, file: (file.unlink(), file.mkdir()),
        lambda folder, file: file.write_text("1 2 3\n"),
        lambda folder, file: file.write_bytes(b"\xff" * 300_000),
    ],
    ids=["written by others", "folder of others", "link", "other user", "pipe", "directory", "text", "bytes"],
)
def test_a_cache_that_cannot_be_trusted_is_ignored(
    sealed: Path, settled: None, cache: Path, hashed: list[str], spoil
) -> None:
    TextClassifier.load(sealed)
    (file,) = cache.iterdir()
    # The forged cache has the manifest's hash for a changed file.
    entries = file.read_text()
    (sealed / "README.md").write_text("x" * (sealed / "README.md").stat().st_size)
    forged = files.identity((sealed / "README.md").stat())
    digest = json.loads((sealed / "manifest.json").read_text())["files"]["README.md"]["sha256"]
    file.write_text(f"{entries}{' '.join(map(str, forged))} {digest}\n")
    TextClassifier.load(sealed)
    if os.geteuid() != 0 and "chown" in spoil.__code__.co_names:
        pytest.skip("only root can give files away")
    spoil(cache, file)
    with pytest.raises(ArtifactError, match=r"README\.md was changed"):
        TextClassifier.load(sealed)


@pytest.mark.parametrize("home", ["/proc/none", "relative", "file"])
def test_a_cache_that_cannot_be_written_is_done_without(
    sealed: Path, settled: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / home) if home == "file" else home)
    TextClassifier.load(sealed)
    assert not (tmp_path / "relative").exists()


def test_the_cache_stays_small(cache: Path, settled: None) -> None:
    for start in (0, 400):
        new = {files.Identity(1, start + n, 1, 1, 1): f"{n:064}" for n in range(400)}
        hash_cache.save_hashes(hash_cache.load_hashes(), new)
    kept = hash_cache.load_hashes()
    assert len(kept) == 512
    assert min(each.inode for each in kept) == 800 - 512


@pytest.mark.parametrize("name", ["distiltune.json", "tokenizer.json", "model.onnx"])
def test_a_file_replaced_between_its_check_and_its_use_is_refused(
    sealed: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    checked = contents.check_hashes

    def then_replace(directory: Path, listed) -> dict:
        seen = checked(directory, listed)
        other = sealed.parent / "other"
        shutil.copy(sealed / name, other)
        other.replace(sealed / name)
        return seen

    monkeypatch.setattr(contents, "check_hashes", then_replace)
    with pytest.raises(ArtifactError, match=f"{name} was changed while"):
        TextClassifier.load(sealed)


FINGERPRINT = {"sha256": "0" * 64, "bytes": 0}


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "a\0b",
        "a\nb",
        "x" * 256,
        "é" * 128,
        "",
        ".",
        "..",
        "manifest.json",
        "C:x",
        "\ud800",
    ],
)
@pytest.mark.parametrize("use", [TextClassifier.load, verify_artifact])
def test_a_name_that_could_lead_elsewhere_is_refused(sealed: Path, name: str, use) -> None:
    manifest = sealed / "manifest.json"
    listed = json.loads(manifest.read_text())["files"]
    edit(manifest, files={**listed, name: FINGERPRINT})
    with pytest.raises(ArtifactError, match="entry ") as raised:
        use(sealed)
    assert len(str(raised.value).removeprefix(str(sealed))) < 200


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("files", []),
        ("files", None),
        ("files", {}),
        ("files", {f"f{n}": FINGERPRINT for n in range(2000)}),
        ("entry", None),
        ("entry", "x"),
        ("entry", {}),
        ("entry", {"sha256": "0" * 64}),
        ("entry", {"sha256": "0" * 63, "bytes": 1}),
        ("entry", {"sha256": "Z" * 64, "bytes": 1}),
        ("entry", {"sha256": 0, "bytes": 1}),
        ("entry", {"sha256": "0" * 64, "bytes": -1}),
        ("entry", {"sha256": "0" * 64, "bytes": True}),
        ("entry", {"sha256": "0" * 64, "bytes": 1.0}),
        ("entry", {"sha256": "0" * 64, "bytes": "1"}),
        ("entry", {"sha256": "0" * 64, "bytes": 2**80}),
        ("entry", {"sha256": "0" * 64, "bytes": 1, "more": 1}),
        ("format_version", True),
        ("format_version", 1.0),
        ("format_version", "1"),
        ("format_version", 2),
        ("made_from", None),
        ("measurements", []),
        ("unknown", 1),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(sealed: Path, key: str, value: object) -> None:
    manifest = sealed / "manifest.json"
    if key == "entry":
        listed = json.loads(manifest.read_text())["files"]
        edit(manifest, files={**listed, "distiltune.json": value})
        key = r"distiltune\.json"
    else:
        edit(manifest, **{key: value})
    for use in (TextClassifier.load, verify_artifact):
        with pytest.raises(ArtifactError, match=key) as raised:
            use(sealed)
        assert "\n" not in str(raised.value)
        assert len(str(raised.value).replace(str(sealed), "")) < 300


@pytest.mark.parametrize(
    "content",
    [
        '{"files": {}, "files": {}}',
        '{"format_version": NaN}',
        '{"format_version": 1e999}',
        '{"a": ' * 100_000,
        "[" * 100_000,
        '{"format_version": ' + "1" * 5000 + "}",
        "\ufeff{}",
        "\xff",
    ],
    ids=["twice", "nan", "infinity", "deep", "deep list", "digits", "mark", "not utf-8"],
)
@pytest.mark.parametrize("name", ["manifest.json", "distiltune.json"])
def test_json_that_means_no_one_thing_is_refused(sealed: Path, name: str, content: str) -> None:
    (sealed / name).write_bytes(content.encode("latin-1" if content == "\xff" else "utf-8"))
    if name == "distiltune.json":
        (sealed / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=f"{name}: .*JSON") as raised:
        TextClassifier.load(sealed)
    assert len(str(raised.value)) < 400


def test_a_manifest_of_unbounded_size_is_not_read(sealed: Path) -> None:
    os.truncate(sealed / "manifest.json", 2**40)
    with pytest.raises(ArtifactError, match=r"manifest\.json has 1099511627776 bytes"):
        TextClassifier.load(sealed)
