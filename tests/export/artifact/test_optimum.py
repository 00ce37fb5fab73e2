"""optimum opens the folder, in a separate environment, since it needs an older transformers than this package."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from convolution_students import convolution_student
from models import tiny_classifier

from distiltune.export.artifact.seal import seal_artifact
from distiltune.export.config import ExportConfig
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.variants.build import build_variant

LABELS = ["balance", "transfer", "oos"]
TEXTS = [
    "open early red",
    "close late",
    "slow fast big small old new warm cold left right north south first last",
]
PROGRAM = """
import json, sys
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

folder, texts = sys.argv[1], json.loads(sys.argv[2])
model = ORTModelForSequenceClassification.from_pretrained(folder)
classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
print(json.dumps(classify(texts, truncation=True)))
"""


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_optimum_answers_as_the_runtime_does(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    packages = ["optimum-onnx[onnxruntime]", f"torch=={metadata.version('torch')}"]
    install = [str(venv / "bin" / "pip"), "install", "--quiet", *packages]
    if subprocess.run(install, check=False).returncode != 0:
        pytest.skip("optimum cannot be installed here: no package index is reachable")
    students = {
        "transformer": tiny_classifier(tmp_path / "transformer", label_names=LABELS),
        "convolution": convolution_student(tmp_path / "convolution"),
    }
    for name, student in students.items():
        made = tmp_path / f"{name}-onnx"
        build_variant("onnx", student, made, config=ExportConfig(), max_length=8)
        sealed = seal_artifact(made, tmp_path / f"{name}-sealed", made_from={}, measurements={})
        done = subprocess.run(
            [str(venv / "bin" / "python"), "-c", PROGRAM, str(sealed), json.dumps(TEXTS)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers, expected = json.loads(done.stdout), TextClassifier.load(sealed)(TEXTS)
        assert [each["label"] for each in answers] == [each["label"] for each in expected]
        assert [each["score"] for each in answers] == pytest.approx(
            [each["score"] for each in expected], abs=1e-5
        )
