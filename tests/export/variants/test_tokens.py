"""A variant's tokenizer gives the ids of the tokenizer in training, whichever end of a text is cut off."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import tiny_classifier, tiny_data

from distiltune.errors import ExportError
from distiltune.export.config import ExportConfig
from distiltune.export.out_of_scope.fit_scores import ValidationTexts
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.variants import model_files
from distiltune.export.variants.build import build_variant
from distiltune.training.checkpoints.load import load_classifier, load_tokenizer

LABELS = ["label_0", "label_1", "label_2", "label_3"]
TEXTS = [text for text, _ in tiny_data()]
LONG = [" ".join(TEXTS[start : start + 12]) for start in range(0, 24, 3)]
MAX_LENGTH = 12


def student(path: Path, side: str) -> Path:
    tiny_classifier(path, label_names=LABELS, texts=TEXTS)
    config = path / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "truncation_side": side}))
    return path


@pytest.fixture
def build(plain_graph) -> Callable[[Path, Path], None]:
    texts = [*TEXTS[:40], *LONG]
    validation = ValidationTexts(texts, [LABELS[n % 4] for n in range(len(texts))])
    options = {"config": ExportConfig(), "max_length": MAX_LENGTH, "validation": validation}

    def built(student_dir: Path, out: Path) -> None:
        base = plain_graph(student_dir, MAX_LENGTH)
        build_variant("onnx", student_dir, out, base_onnx=base, **options)

    return built


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_long_text_is_read_from_the_same_end_as_in_training(side: str, build, tmp_path: Path) -> None:
    directory = student(tmp_path / "student", side)
    build(directory, tmp_path / "onnx")
    classifier, tokenizer = TextClassifier.load(tmp_path / "onnx"), load_tokenizer(directory)
    assert tokenizer.truncation_side == side
    encoded = tokenizer(LONG, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    assert [each.ids for each in classifier._predictor.tokenizer.encode(LONG)] == encoded
    whole = tokenizer(LONG[0], add_special_tokens=False)["input_ids"]
    kept = whole[-(MAX_LENGTH - 2) :] if side == "left" else whole[: MAX_LENGTH - 2]
    assert encoded[0][1:-1] == kept
    model, _ = load_classifier(directory)
    with torch.no_grad():
        expected = model(torch.tensor(encoded)).logits.numpy()
    assert classifier.logits(LONG) == pytest.approx(expected, abs=1e-4)
    saved = json.loads((tmp_path / "onnx" / "tokenizer.json").read_text())["truncation"]
    assert saved["direction"].lower() == side
    very_long = " ".join(TEXTS) * 400
    (ids,) = (each.ids for each in classifier._predictor.tokenizer.encode([very_long]))
    assert ids == tokenizer(very_long, truncation=True, max_length=MAX_LENGTH)["input_ids"]


def test_other_ids_than_in_training_are_no_export(build, tmp_path: Path, monkeypatch) -> None:
    directory = student(tmp_path / "student", "left")
    monkeypatch.setattr(model_files, "truncation_side", lambda _: "right")
    with pytest.raises(ExportError, match="other token ids than the one in training"):
        build(directory, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_the_longest_texts_are_among_those_that_are_compared(build, tmp_path: Path, monkeypatch) -> None:
    """One of a thousand texts is long, and is not among those that are evenly spaced."""
    directory = student(tmp_path / "student", "left")
    build(directory, tmp_path / "onnx")
    texts = [TEXTS[0]] * 1000
    texts[7] = LONG[0]
    model_files.check_tokens(directory, tmp_path / "onnx", texts, MAX_LENGTH)
    path = tmp_path / "onnx" / "tokenizer.json"
    values = json.loads(path.read_text())
    values["truncation"]["direction"] = "Right"
    path.write_text(json.dumps(values))
    with pytest.raises(ExportError, match="other token ids"):
        model_files.check_tokens(directory, tmp_path / "onnx", texts, MAX_LENGTH)
    model_files.check_tokens(directory, tmp_path / "onnx", texts[8:], MAX_LENGTH)
