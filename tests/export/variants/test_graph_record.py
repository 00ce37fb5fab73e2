"""Records of graphs: bytes by part, a matrix before and after quantization, pictures, opsets."""

from pathlib import Path

import matplotlib.image
import numpy as np
import onnx
import pytest
from models import tiny_classifier, tiny_data
from onnx import numpy_helper
from pictures import num_colours

from distiltune.cluster.pipeline.checks.models import check_models
from distiltune.cluster.specification.config import JobConfig
from distiltune.errors import ConfigError, ExportError, ModelError
from distiltune.export.config import ExportConfig, OutOfScopeConfig
from distiltune.export.onnx.components import bytes_by_group, part_of
from distiltune.export.onnx.opset import accepted_opsets, check_opset
from distiltune.export.onnx.parts import BLOCKS, FILTERS, GROUPS, HIDDEN_LAYER
from distiltune.export.out_of_scope.fit_scores import ValidationTexts, fit_scores
from distiltune.export.out_of_scope.thresholds import ScopeGoal
from distiltune.export.report.plots.graphs import draw_graphs
from distiltune.export.variants.build import build_variant

NAMES = {
    "model.bert.embeddings.word_embeddings.weight_quantized": "word embeddings",
    "model.roberta.embeddings.position_embeddings.weight": "other embeddings",
    "embedding_1": "other embeddings",
    "model.bert.encoder.layer.3.attention.self.query.weight": "layer 3 query, key, value",
    "model.bert.encoder.layer.2.layer.attention.self.value.bias": "layer 2 query, key, value",
    "model.distilbert.transformer.layer.0.attention.k_lin.weight_Q4": "layer 0 query, key, value",
    "model.bert.encoder.layer.0.attention.output.dense.weight_scale": "layer 0 attention output",
    "model.distilbert.transformer.layer.1.attention.out_lin.weight": "layer 1 attention output",
    "model.distilbert.transformer.layer.1.sa_layer_norm.bias": "layer 1 attention output",
    "model.bert.encoder.layer.10.intermediate.dense.weight_zero_point": "layer 10 feed-forward in",
    "model.distilbert.transformer.layer.1.ffn.lin1.weight": "layer 1 feed-forward in",
    "model.bert.encoder.layer.0.output.LayerNorm.weight": "layer 0 feed-forward out",
    "model.distilbert.transformer.layer.1.ffn.lin2.weight": "layer 1 feed-forward out",
    "model.distilbert.transformer.layer.1.output_layer_norm.bias": "layer 1 feed-forward out",
    "model.bert.pooler.dense.weight": "pooler",
    "model.distilbert.pre_classifier.weight": "pooler",
    "model.roberta.classifier.out_proj.weight": "classifier",
    "layer_norm_3_scale": None,
    "val_38": None,
}
VARIANTS = (
    "onnx",
    "onnx-int8",
    "onnx-int8-per-channel",
    "onnx-static-minmax",
    "onnx-weights-4bit",
    "onnx-fp16",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, plain_graph) -> dict[str, tuple[Path, dict]]:
    """Return the graph and the record of each variant."""
    root = tmp_path_factory.mktemp("variants")
    student, found = tiny_classifier(root / "student"), {}
    for name in VARIANTS:
        record = build_variant(
            name,
            student,
            root / name,
            config=ExportConfig(sensitivity=name == "onnx-int8"),
            max_length=32,
            base_onnx=plain_graph(student, 32) if name == "onnx" else found["onnx"][0],
            training_texts=[text for text, _ in tiny_data()],
        )
        found[name] = root / name / "model.onnx", record.to_json()["graph"]
    return found


@pytest.mark.parametrize(("name", "part"), NAMES.items())
def test_a_name_says_which_part_a_parameter_belongs_to(name: str, part: str | None) -> None:
    found = part_of(name)
    assert (None if found is None else str(found)) == part
    assert found is None or found.group in GROUPS


@pytest.mark.parametrize("variant", VARIANTS)
def test_bytes_by_part_add_up(variant: str, made) -> None:
    path, record = made[variant]
    model = onnx.load(str(path))
    total = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert total > 0
    parts = record["bytes_by_part"]
    assert sum(parts[group] for group in GROUPS) >= total
    assert parts == {**bytes_by_group(model), "structure": parts["structure"]}
    assert sum(parts.values()) == path.stat().st_size
    assert parts["structure"] > 0
    # unnamed constants are tiny: shapes, and scales of activations
    assert parts["other"] < 0.02 * total
    assert {group for group in GROUPS if not parts[group]} == {BLOCKS, FILTERS, HIDDEN_LAYER}


def test_the_size_of_each_part_is_that_of_its_tensors(made) -> None:
    plain, int8 = made["onnx"][1]["bytes_by_part"], made["onnx-int8"][1]["bytes_by_part"]
    model = onnx.load(str(made["onnx"][0]))
    [table] = [each for each in model.graph.initializer if "word_embeddings" in each.name]
    assert plain["word embeddings"] == 4 * int(np.prod(table.dims))
    assert int8["word embeddings"] == int(np.prod(table.dims)) + 5  # scale and zero point
    # Two layers, each in and out; of biases and normalizations, which are equal in a new model, one is stored.
    assert 0 <= plain["feed-forward"] - 2 * 4 * 2 * 32 * 64 <= 2 * 4 * (64 + 32 + 2 * 32)
    assert 0 <= plain["head"] - 4 * (32 * 32 + 4 * 32) <= 4 * (32 + 4)


def test_a_matrix_is_counted_before_and_after(made) -> None:
    path, record = made["onnx-static-minmax"]
    weights = record["weights"]
    assert weights["part"] == "layer 0 feed-forward in"
    tensors = {each.name: numpy_helper.to_array(each) for each in onnx.load(str(path)).graph.initializer}
    levels = tensors[f"{weights['name']}_quantized"]
    assert weights["step"] == pytest.approx(float(tensors[f"{weights['name']}_scale"]))
    values, counts = np.unique(levels, return_counts=True)
    assert weights["lowest"] == pytest.approx((values[0] - 0.5) * weights["step"])
    assert {i + int(values[0]): n for i, n in enumerate(weights["after"]) if n} == dict(
        zip(values.tolist(), counts.tolist(), strict=True)
    )
    before = np.array(weights["before"]).reshape(len(weights["after"]), -1).sum(axis=1)
    # Rounding moves a weight to the level of its bins, or at an edge to the next level.
    assert before.sum() == levels.size
    assert np.abs(before - weights["after"]).max() <= 2


def test_the_most_sensitive_matrix_is_shown_where_that_is_known(made) -> None:
    ranking = made["onnx-int8"][1]["sensitivity"]
    first = next(each for each in ranking if each["is_product"])
    assert made["onnx-int8"][1]["weights"]["part"] == first["part"]
    assert made["onnx-int8-per-channel"][1]["weights"] is None  # a scale for each column
    assert made["onnx-fp16"][1]["weights"] is None


def test_the_pictures_are_drawn(made, tmp_path: Path) -> None:
    records = {name: record for name, (_, record) in made.items()}
    sizes = {}
    for path in draw_graphs(records, "onnx-int8", tmp_path):
        picture = matplotlib.image.imread(path)
        sizes[path.name] = (picture.shape[1], picture.shape[0])
        assert num_colours(picture) > 50
    assert sizes == {
        "size-by-part.png": (1350, 510),
        "sensitivity-by-part.png": (900, 678),
        "weights-before-after.png": (1350, 825),
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(sizes)
    assert draw_graphs({}, None, tmp_path / "none") == []


def test_an_opset_that_the_runtime_lacks_is_refused_before_the_job_begins(tmp_path: Path) -> None:
    accepted = accepted_opsets()
    assert accepted[0] == 18
    assert 21 in accepted
    assert accepted[-1] <= onnx.defs.onnx_opset_version()
    check_opset(accepted[-1])
    with pytest.raises(ConfigError, match=rf"export\.opset: 99 given; 18 to {accepted[-1]} accepted"):
        check_models(JobConfig.model_validate({"export": {"opset": 99}}))


def test_a_family_of_which_no_student_can_be_made_is_refused_before_the_job_begins(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "ernie", "num_hidden_layers": 4}')
    (tmp_path / "model.safetensors").touch()
    config = {"teacher": {"checkpoint": str(tmp_path)}, "student": {"layers": [0]}}
    with pytest.raises(ModelError, match=r"student\.layers: 'ernie' given"):
        check_models(JobConfig.model_validate(config))
    own = {"student": {"checkpoint": str(tmp_path)}}
    with pytest.raises(
        ModelError, match=r"student\.checkpoint: 'ernie' given.*: albert, bert, .*, roberta, xlm-roberta;"
    ):
        check_models(JobConfig.model_validate(own))


def test_a_threshold_needs_validation_texts(made) -> None:
    nothing = ValidationTexts([], [], ScopeGoal(OutOfScopeConfig(), "oos"))
    with pytest.raises(ExportError, match=r"data\.validation: the split is empty"):
        fit_scores(made["onnx"][0].parent, nothing)
