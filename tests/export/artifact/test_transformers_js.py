"""transformers.js opens the folder under Node, in a separate project."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from sealed_students import assert_equal, sealed_students

from distiltune.export.runtime.classifier import TextClassifier

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
    (project / "classify.mjs").write_text(PROGRAM)
    for name, sealed in sealed_students(tmp_path, max_length=32).items():
        done = subprocess.run(
            ["node", "classify.mjs", f"{sealed.parent}/", sealed.name, json.dumps(TEXTS)],
            cwd=project,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{name}: {done.stderr}"
        classifier = TextClassifier.load(sealed)
        classifier.temperature = 1.0  # transformers.js has no temperature
        expected = [classifier(text) for text in TEXTS]
        for answers in json.loads(done.stdout):
            assert_equal(name, answers, expected)
