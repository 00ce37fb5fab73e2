import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tokenizers
from models import tiny_classifier
from transformers import AutoConfig, AutoTokenizer, pipeline

import distiltune
from distiltune.errors import ArtifactError, InputError
from distiltune.export.config import ExportConfig
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.runtime.scores import SCORES
from distiltune.export.variants.build import build_variant
from distiltune.training.checkpoints.load import load_classifier

LABELS = ["zebra", "oos", "balance", "transfer"]
TEXTS = [
    "transfer ten dollars to my brother today please and tell him that it is for the rent",
    "what is my balance",
    "rain",
    "Wörter, die er nicht kennt: 東京?",
    "balance " * 60,
    "what is my balance",
]
MAX_LENGTH = 16


FAMILIES = pytest.mark.parametrize("family", ["bert", pytest.param("roberta", marks=pytest.mark.slow)])
Make = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that makes checkpoint and ONNX variant of a family, once."""

    @cache
    def made(family: str) -> tuple[Path, Path]:
        root = tmp_path_factory.mktemp(family)
        options = {"num_layers": 1, "label_names": LABELS, "texts": TEXTS}
        student = tiny_classifier(root / "student", family=family, **options)
        build_variant("onnx", student, root / "onnx", config=ExportConfig(), max_length=MAX_LENGTH)
        return student, root / "onnx"

    return made


@pytest.fixture
def variant(make: Make) -> Path:
    return make("bert")[1]


@pytest.fixture
def copy(variant: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(variant, tmp_path / "copy"))


@FAMILIES
def test_answers_as_the_transformers_pipeline_does(make: Make, family: str) -> None:
    student, variant = make(family)
    model, tokenizer = load_classifier(student)
    torch_pipeline = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    classifier = TextClassifier.load(variant)
    expected = torch_pipeline(TEXTS, truncation=True, max_length=MAX_LENGTH)
    for batch_size in (1, 4, 32):
        answers = classifier(TEXTS, batch_size=batch_size)
        assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
        for answer, other in zip(answers, expected, strict=True):
            assert answer["score"] == pytest.approx(other["score"], abs=1e-5)
    assert classifier(TEXTS[1])["label"] == expected[1]["label"]
    assert classifier(TEXTS[1])["score"] == pytest.approx(expected[1]["score"], abs=1e-5)


def test_logits_keep_the_order_of_the_texts(variant: Path) -> None:
    classifier = TextClassifier.load(variant)
    logits = classifier.logits(TEXTS, batch_size=2)
    assert logits.shape == (len(TEXTS), len(LABELS))
    assert logits.dtype == np.float32
    one_by_one = np.concatenate([classifier.logits([text]) for text in TEXTS])
    np.testing.assert_allclose(logits, one_by_one, atol=1e-5)
    np.testing.assert_array_equal(logits[1], classifier.logits(TEXTS[1])[0])
    assert classifier.labels == LABELS


@FAMILIES
def test_transformers_reads_labels_and_ids_from_the_folder(make: Make, family: str) -> None:
    student, variant = make(family)
    config = AutoConfig.from_pretrained(variant)
    assert config.architectures == [type(load_classifier(student)[0]).__name__]
    assert config.model_type == family
    assert config.id2label == dict(enumerate(LABELS))
    assert config.label2id == {label: number for number, label in enumerate(LABELS)}
    assert config.problem_type == "single_label_classification"
    tokenizer = AutoTokenizer.from_pretrained(variant)
    own = TextClassifier.load(variant)._predictor.tokenizer
    ids = [encoding.ids for encoding in own.encode(TEXTS)]
    assert max(map(len, ids)) == MAX_LENGTH
    assert tokenizer(TEXTS, truncation=True)["input_ids"] == ids
    batch = tokenizer(TEXTS, truncation=True, padding=True, return_tensors="np")
    assert set(batch) == {"input_ids", "attention_mask"}
    padded = np.full((len(ids), MAX_LENGTH), own.tokenizer.token_to_id(tokenizer.pad_token))
    for row, each in zip(padded, ids, strict=True):
        row[: len(each)] = each
    np.testing.assert_array_equal(batch["input_ids"], padded)
    # transformers.js truncates only as the file says.
    alone = tokenizers.Tokenizer.from_file(str(variant / "tokenizer.json"))
    assert [encoding.ids for encoding in alone.encode_batch(TEXTS)] == ids


@FAMILIES
def test_the_folder_has_the_special_tokens_of_the_student_and_nothing_of_its_place(
    make: Make, family: str
) -> None:
    student, variant = make(family)
    found, expected = (AutoTokenizer.from_pretrained(each) for each in (variant, student))
    assert found.special_tokens_map == expected.special_tokens_map
    for name in ("config.json", "tokenizer_config.json", "distiltune.json"):
        assert str(student.parent) not in (variant / name).read_text()


def test_the_graph_alone_names_task_and_labels(variant: Path) -> None:
    named = onnxruntime.InferenceSession(variant / "model.onnx").get_modelmeta().custom_metadata_map
    assert named["task"] == "single_label"
    assert json.loads(named["labels"]) == LABELS


def test_no_texts_give_no_answers(variant: Path) -> None:
    classifier = TextClassifier.load(variant)
    assert classifier([]) == []
    assert classifier.logits([]).shape == (0, len(LABELS))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fine", None], "text 1 is NoneType"),
        ([3], "text 0 is int 3"),
        (None, "texts is NoneType"),
        (["\ud800"], "not valid Unicode"),
        (["fine", "\ud800"], "not valid Unicode"),
    ],
)
def test_what_is_not_a_text_is_refused(variant: Path, texts: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TextClassifier.load(variant)(texts)  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_sizes_below_one_are_refused(variant: Path) -> None:
    with pytest.raises(InputError, match="batch_size is 0"):
        TextClassifier.load(variant)(["a"], batch_size=0)
    with pytest.raises(InputError, match="num_threads is 0"):
        TextClassifier.load(variant, num_threads=0)
    with pytest.raises(InputError, match="NoSuchProvider is not in this ONNX Runtime"):
        TextClassifier.load(variant, providers=["NoSuchProvider"])


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "distiltune.json"])
def test_a_missing_or_broken_file_is_named(copy: Path, name: str) -> None:
    (copy / name).write_text("no such thing", encoding="utf-8")
    with pytest.raises(ArtifactError, match=name):
        TextClassifier.load(copy)
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        TextClassifier.load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": []}, "labels is"),
        ({"max_length": 0}, "max_length is 0"),
        ({"pad_token_id": None}, "pad_token_id is None"),
        ({"threshold": 1.5}, "threshold is 1.5; it must be null, or an object of score, value and label"),
        (
            {"threshold": {"score": "beauty", "value": 1.0, "label": "oos"}},
            "its score must be one of margin, energy",
        ),
        (
            {"threshold": {"score": "margin", "value": 1.0, "label": "oos", "weight": 0.3, "output": 4}},
            "its output must be the index of its label in labels",
        ),
        (
            {"threshold": {"score": "energy", "value": "1", "label": "oos"}},
            "its value must be a finite number",
        ),
        ({"threshold": {"score": "energy", "value": 1.0, "label": ""}}, "its label must be a name"),
        ({"labels": ["one", "two"]}, "names 2 labels but model.onnx has 4 outputs"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(copy: Path, change: dict, message: str) -> None:
    path = copy / "distiltune.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=message):
        TextClassifier.load(copy)


def test_texts_under_the_threshold_are_out_of_scope(copy: Path) -> None:
    path = copy / "distiltune.json"
    plain = TextClassifier.load(copy)
    assert plain.threshold is None
    before, energies = plain(TEXTS), SCORES["energy"](plain.logits(TEXTS))
    value = float(np.median(energies))
    for label in ("oos", "none of these"):
        threshold = {"score": "energy", "value": value, "label": label}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"threshold": threshold}))
        classifier = TextClassifier.load(copy)
        after = classifier(TEXTS)
        assert {energy < value for energy in energies} == {True, False}
        for energy, one, other in zip(energies, before, after, strict=True):
            if energy >= value or one["label"] == label:
                assert other == one
            else:
                assert other == {"label": label, "score": pytest.approx(1 - one["score"])}
        assert classifier(TEXTS[2]) == after[2]
        classifier.threshold = None
        assert classifier(TEXTS) == before


FORBIDDEN = ("torch", "transformers", "ray", "onnx", "datasets", "pydantic", "optuna", "typer", "rich")
WITHOUT_HEAVY_IMPORTS = """
import sys, time

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {forbidden}:
            raise ImportError(f"{{name}} is forbidden here")

sys.meta_path.insert(0, Forbid())
start = time.perf_counter()
from distiltune import TextClassifier
import distiltune.export.artifact.seal
classifier = TextClassifier.load(sys.argv[1])
seconds = time.perf_counter() - start
assert classifier("what is my balance")["label"] in classifier.labels
print(seconds)
"""


def test_imports_and_loads_in_under_a_second_and_without_torch(variant: Path) -> None:
    code = WITHOUT_HEAVY_IMPORTS.format(forbidden=FORBIDDEN)
    seconds = []
    for _ in range(3):  # the best of three, since other work may occupy the cores
        done = subprocess.run(
            [sys.executable, "-c", code, str(variant)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        seconds.append(float(done.stdout))
        if seconds[-1] < 1.0:
            break
    assert min(seconds) < 1.0


def test_runs_in_a_venv_of_three_packages(variant: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(venv)], check=True)
    site = next(venv.glob("lib/python*/site-packages"))
    for package in ("numpy", "onnxruntime", "flatbuffers", "packaging", "protobuf", "tokenizers"):
        for file in metadata.files(package) or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(Path(str(file.locate())).parents[len(file.parts) - 2])
    (site / "distiltune").symlink_to(Path(distiltune.__file__).parent)
    python = venv / "bin" / "python"
    start = time.perf_counter()
    code = (
        "import sys, importlib.util as u; from distiltune import TextClassifier;"
        f"assert not any(u.find_spec(name) for name in {FORBIDDEN});"
        "print(TextClassifier.load(sys.argv[1])('what is my balance')['label'])"
    )
    done = subprocess.run(
        [str(python), "-I", "-c", code, str(variant)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == TextClassifier.load(variant)("what is my balance")["label"]
    assert time.perf_counter() - start < 30
