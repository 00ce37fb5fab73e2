"""Targets on a real GPU; deselected where there is none (``pytest -m gpu`` runs them)."""

import numpy as np
import pytest
import torch
from models import tiny_classifier, tiny_data

from distiltune.export.benchmark import targets
from distiltune.export.benchmark.targets.base import OpenOptions
from distiltune.export.config import ExportConfig
from distiltune.export.runtime.session.providers import CPU
from distiltune.export.variants.build import build_variant

TEXTS = [text for text, _ in tiny_data()]
ON_GPU = [each for each in targets.names() if targets.get(each).needs_gpu]
VARIANTS = {"cuda": "onnx-fused-fp16", "tensorrt": "onnx-tensorrt-fp16"}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no NVIDIA GPU on this machine"),
]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return tiny_classifier(tmp_path_factory.mktemp("student") / "student", hidden_size=64)


@pytest.mark.parametrize("name", ON_GPU)
def test_it_gives_the_students_predictions_and_says_where_its_nodes_run(name, student, tmp_path):
    target, folder = targets.get(name), student
    if (reason := target.missing()) is not None:
        pytest.skip(reason)
    if name in VARIANTS:
        folder = tmp_path / "variant"
        build_variant(VARIANTS[name], student, folder, config=ExportConfig(), max_length=16)
    expected = targets.get("pytorch").open(OpenOptions(str(student), 16, None, 1, None)).logits(TEXTS)
    opened = target.open(OpenOptions(str(folder), 16, None, 1, None, max_batch_size=len(TEXTS)))
    np.testing.assert_allclose(opened.logits(TEXTS), expected, atol=0.05 * expected.std())
    if opened.num_nodes is not None:
        assert opened.num_nodes.get(CPU, 0) < sum(opened.num_nodes.values())
    assert (opened.engine_build_s is not None) == (name == "tensorrt")
    if opened.with_cuda_graphs is not None:
        captured = opened.with_cuda_graphs()
        for _ in range(3):  # captured, then replayed
            assert captured(TEXTS, batch_size=8) == opened.pipeline(TEXTS, batch_size=8)
