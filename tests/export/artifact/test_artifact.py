import json
import shutil
from pathlib import Path

import pytest
from models import tiny_classifier

from distiltune.errors import ArtifactError, InputError
from distiltune.export.artifact.seal import copy_artifact, seal_artifact, verify_artifact
from distiltune.export.config import ExportConfig
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.variants.build import build_variant

LABELS = ["balance", "transfer", "weather", "oos"]
MADE_FROM = {"run_id": "r1", "hyperparameters": {"alpha": 0.25}}
FILES = [
    "README.md",
    "config.json",
    "distiltune.json",
    "model.onnx",
    "probes.json",
    "tokenizer.json",
    "tokenizer_config.json",
]
MEASURED = {"accuracy": 0.9375, "latency_ms": {"p50": 0.64}, "fused": None}


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory, plain_graph) -> Path:
    root = tmp_path_factory.mktemp("artifact")
    student = tiny_classifier(root / "student", label_names=LABELS)
    options = {"config": ExportConfig(), "max_length": 16, "base_onnx": plain_graph(student, 16)}
    build_variant("onnx", student, root / "onnx", **options)
    (root / "onnx" / "notes.pkl").write_bytes(b"stays behind")
    return root / "onnx"


@pytest.fixture
def sealed(variant: Path, tmp_path: Path) -> Path:
    return seal_artifact(variant, tmp_path / "sealed", made_from=MADE_FROM, measurements=MEASURED)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_seals_verifies_and_runs(sealed: Path, tmp_path: Path) -> None:
    assert names(sealed) == sorted([*FILES, "manifest.json"])
    assert names(tmp_path) == ["sealed"]
    manifest = verify_artifact(sealed)
    assert manifest.made_from == MADE_FROM
    assert manifest.measurements == MEASURED
    assert sorted(manifest.files) == FILES
    assert manifest.files["model.onnx"]["bytes"] == (sealed / "model.onnx").stat().st_size
    card = (sealed / "README.md").read_text()
    for text in ("pipeline_tag: text-classification", "| accuracy | 0.9375 |", "| latency_ms.p50 | 0.64 |"):
        assert text in card
    assert "| hyperparameters.alpha | 0.25 |" in card
    assert "`transfer`" in card
    assert TextClassifier.load(sealed)("open early")["label"] in LABELS


def test_sealing_again_replaces(sealed: Path, variant: Path, tmp_path: Path) -> None:
    seal_artifact(variant, sealed, made_from={"run_id": "r2"}, measurements={})
    assert verify_artifact(sealed).made_from == {"run_id": "r2"}
    assert names(tmp_path) == ["sealed"]


def test_a_variant_without_a_graph_is_not_sealed(variant: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(variant, tmp_path / "source"))
    (source / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing"):
        seal_artifact(source, tmp_path / "out", made_from={}, measurements={})
    assert names(tmp_path) == ["source"]


@pytest.mark.parametrize("name", FILES)
def test_a_changed_or_missing_file_is_named(sealed: Path, name: str) -> None:
    content = bytearray((sealed / name).read_bytes())
    content[len(content) // 2] ^= 1
    (sealed / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} was changed"):
        verify_artifact(sealed)
    (sealed / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        verify_artifact(sealed)


def test_an_extra_file_is_named(sealed: Path) -> None:
    (sealed / "evil.py").write_text("")
    with pytest.raises(ArtifactError, match=r"evil\.py. is not in the manifest"):
        verify_artifact(sealed)


def test_a_link_in_place_of_a_file_is_refused(sealed: Path, tmp_path: Path) -> None:
    shutil.move(sealed / "model.onnx", tmp_path / "elsewhere")
    (sealed / "model.onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"model\.onnx .*link"):
        verify_artifact(sealed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "manifest.json: .*JSON"),
        ("[]", "manifest.json: .*list"),
        ('{"files": {}}', "format_version is None"),
        ('{"format_version": 99, "files": {}, "made_from": {}, "measurements": {}}', "format_version is 99"),
        (
            '{"format_version": 1, "files": {}, "made_from": {}, "measurements": {}}',
            "model.onnx is not listed",
        ),
        (
            '{"format_version": 1, "files": {"../x": {}}, "made_from": {}, "measurements": {}}',
            "'../x' is not allowed",
        ),
    ],
)
def test_a_manifest_that_is_none_is_refused(sealed: Path, content: str, message: str) -> None:
    (sealed / "manifest.json").write_text(content)
    with pytest.raises(ArtifactError, match=message):
        verify_artifact(sealed)


def test_folders_that_are_no_artifact_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder"):
        verify_artifact(tmp_path / "absent")
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing"):
        verify_artifact(tmp_path)


def test_a_copy_appears_whole(sealed: Path, tmp_path: Path) -> None:
    target = copy_artifact(sealed, tmp_path / "deep" / "copy")
    assert verify_artifact(target) == verify_artifact(sealed)
    assert names(tmp_path / "deep") == ["copy"]
    with pytest.raises(InputError, match="already exists"):
        copy_artifact(sealed, target)


def test_a_copy_goes_into_an_empty_folder(sealed: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert verify_artifact(copy_artifact(sealed, tmp_path / "empty"))


def test_a_damaged_artifact_is_not_copied(sealed: Path, tmp_path: Path) -> None:
    manifest = json.loads((sealed / "manifest.json").read_text())
    manifest["files"]["config.json"]["sha256"] = "0" * 64
    (sealed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"config\.json was changed"):
        copy_artifact(sealed, tmp_path / "copy")
    assert names(tmp_path) == ["sealed"]


def test_a_copy_that_cannot_be_written_says_so(sealed: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        copy_artifact(sealed, tmp_path / "file" / "copy")
