"""optimum opens the folder, in a separate environment, since it needs an older transformers than this package."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from sealed_students import assert_equal, sealed_students

from distiltune.export.runtime.classifier import TextClassifier

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
    for name, sealed in sealed_students(tmp_path, max_length=8).items():
        done = subprocess.run(
            [str(venv / "bin" / "python"), "-c", PROGRAM, str(sealed), json.dumps(TEXTS)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{name}: {done.stderr}"
        answers, expected = json.loads(done.stdout), TextClassifier.load(sealed)(TEXTS)
        assert_equal(name, answers, expected)
