"""transformers.js opens the folder under Node, in a separate project."""

import json
import shutil
import subprocess
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
    "an unknown wörd, and a comma",
    "",
]
PROGRAM = """
import { env, pipeline } from "@huggingface/transformers";

const [models, name, texts] = process.argv.slice(2);
env.localModelPath = models;
env.allowRemoteModels = false;
const classify = await pipeline("text-classification", name, { subfolder: "", dtype: "fp32" });
const answers = [await classify(JSON.parse(texts))];
for (const text of JSON.parse(texts)) answers.push(await classify(text));
console.log(JSON.stringify([answers[0], answers.slice(1).flat()]));
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_transformers_js_answers_as_the_runtime_does(tmp_path: Path) -> None:
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("npm and node are not installed")
    project = tmp_path / "project"
    project.mkdir()
    (project / "package.json").write_text('{"private": true}')
    # Without install scripts: that of onnxruntime-node downloads libraries for GPUs.
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "@huggingface/transformers@4"]
    if subprocess.run(install, cwd=project, check=False, capture_output=True).returncode != 0:
        pytest.skip("transformers.js cannot be installed here: no package registry is reachable")
    students = {
        "transformer": tiny_classifier(tmp_path / "transformer", label_names=LABELS),
        "convolution": convolution_student(tmp_path / "convolution"),
    }
    (project / "classify.mjs").write_text(PROGRAM)
    for name, student in students.items():
        made = tmp_path / f"{name}-onnx"
        build_variant("onnx", student, made, config=ExportConfig(), max_length=32)
        sealed = seal_artifact(made, tmp_path / "models" / name, made_from={}, measurements={})
        done = subprocess.run(
            ["node", "classify.mjs", f"{sealed.parent}/", sealed.name, json.dumps(TEXTS)],
            cwd=project,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        classifier = TextClassifier.load(sealed)
        classifier.temperature = 1.0  # transformers.js has no temperature
        expected = [classifier(text) for text in TEXTS]
        for answers in json.loads(done.stdout):
            assert [each["label"] for each in answers] == [each["label"] for each in expected]
            assert [each["score"] for each in answers] == pytest.approx(
                [each["score"] for each in expected], abs=1e-5
            )
