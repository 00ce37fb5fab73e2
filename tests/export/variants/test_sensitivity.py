"""The part of a graph that is most sensitive to 8 bits, which static quantization leaves in 32 bits."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import onnx
import pytest
from models import tiny_classifier, tiny_data
from tokenizers import Tokenizer

from distiltune.cluster.remote import latency
from distiltune.cluster.remote.tasks import Task
from distiltune.cluster.specification.config import JobConfig
from distiltune.errors import ExportError
from distiltune.export.benchmark.measure_models import MeasurementSpec
from distiltune.export.config import ExportConfig
from distiltune.export.onnx.convert import export_onnx
from distiltune.export.variants import kinds
from distiltune.export.variants.build import build_variant
from distiltune.export.variants.dynamic import quantize_onnx
from distiltune.export.variants.sensitivity import ReferenceLogits, dynamic_sensitivity, logits_error, spread
from distiltune.export.variants.static import quantize_static_onnx
from distiltune.storage.store import Store
from distiltune.training.checkpoints.load import load_model

TEXTS = [text for text, _ in tiny_data()]
HARD = "layer 0 feed-forward in"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a classifier with one weight so large that in 8 bits the other weights of its matrix become zero."""
    directory = tiny_classifier(tmp_path_factory.mktemp("hard") / "student")
    model = load_model(directory)
    # The bias of the large weight's unit is so low that GELU gives zero for every text.
    dense = model.base_model.encoder.layer[0].intermediate.dense
    dense.weight.data[3] = 0.0
    dense.weight.data[3, 5] = 300 * dense.weight.data.abs().max()
    dense.bias.data[3] = -1e5
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def plain(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "model.onnx"
    export_onnx(load_model(student).eval(), path, max_length=32)
    return path


@pytest.fixture(scope="module")
def rows(student: Path) -> list[np.ndarray]:
    tokenizer = Tokenizer.from_file(str(student / "tokenizer.json"))
    tokenizer.no_padding()
    return [np.array(each.ids) for each in tokenizer.encode_batch(TEXTS)]


def test_the_error_is_the_noise_over_the_signal() -> None:
    expected = np.array([[0.0, 2.0], [4.0, 2.0]])
    assert logits_error(expected, expected) == 0
    assert logits_error(expected, expected + 1) == pytest.approx(1 / np.var(expected))
    assert logits_error(10 * expected, 10 * expected + 10) == pytest.approx(1 / np.var(expected))


def test_compared_texts_are_evenly_spaced() -> None:
    rows = [np.array([number]) for number in range(100)]
    assert [int(row[0]) for row in spread(rows, 4)] == [0, 33, 66, 99]
    assert len(spread(rows, 200)) == 100


def test_the_part_that_is_hard_to_quantize_comes_first(plain: Path, rows: list[np.ndarray]) -> None:
    ranking = dynamic_sensitivity(plain, rows)
    assert ranking[0].part == HARD
    assert ranking[0].error > 10 * ranking[1].error
    assert [each.error for each in ranking] == sorted((each.error for each in ranking), reverse=True)
    assert all(each.error > 0 for each in ranking)
    assert sorted(each.part for each in ranking if each.layer is None) == [
        "classifier",
        "other embeddings",
        "pooler",
        "word embeddings",
    ]
    assert {each.part for each in ranking if each.layer == 1} == {
        f"layer 1 {name}"
        for name in ("query, key, value", "attention output", "feed-forward in", "feed-forward out")
    }
    nodes = [node for each in ranking for node in each.nodes]
    assert len(nodes) == len(set(nodes)) == 16


def test_words_that_no_text_has_make_no_difference(
    plain: Path, rows: list[np.ndarray], tmp_path: Path
) -> None:
    errors = {each.part: each for each in dynamic_sensitivity(plain, rows)}
    for part in ("word embeddings", "layer 1 attention output"):
        quantize_onnx(plain, tmp_path / "part.onnx", nodes=errors[part].nodes)
        assert errors[part].error == pytest.approx(
            ReferenceLogits(plain, rows).error_of(tmp_path / "part.onnx")
        )


def test_static_quantization_leaves_the_hard_part_out(
    plain: Path, rows: list[np.ndarray], tmp_path: Path
) -> None:
    options = {"method": "minmax", "max_error": 1e-3}
    whole = quantize_static_onnx(plain, tmp_path / "whole.onnx", rows, max_excluded=0, **options)
    assert whole.excluded == []
    assert whole.ranking is None
    made = [
        quantize_static_onnx(plain, tmp_path / f"{name}.onnx", rows, max_excluded=1, **options)
        for name in ("one", "other")
    ]
    assert [each.part for each in made[0].excluded] == [HARD]
    assert made[0].error < 0.5 * whole.error
    assert made[0] == made[1]
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()
    reference = ReferenceLogits(plain, rows)
    assert reference.error_of(tmp_path / "one.onnx") == pytest.approx(made[0].error)
    assert reference.error_of(tmp_path / "whole.onnx") == pytest.approx(whole.error)
    for name, quantized in (("whole", True), ("one", False)):
        graph = onnx.load(str(tmp_path / f"{name}.onnx")).graph
        weights = {each.name: each.data_type for each in graph.initializer}
        hard = "model.bert.encoder.layer.0.intermediate.dense.weight"
        assert (f"{hard}_quantized" in weights) == quantized
        assert (weights.get(hard) == onnx.TensorProto.FLOAT) == (not quantized)
        # all others are in 8 bits in both
        assert "model.bert.encoder.layer.0.output.dense.weight_quantized" in weights
        assert "model.classifier.weight_quantized" in weights


def test_what_is_good_enough_is_left_alone(plain: Path, rows: list[np.ndarray], tmp_path: Path) -> None:
    made = quantize_static_onnx(plain, tmp_path / "x.onnx", rows, method="minmax", max_error=100.0)
    assert made.excluded == []
    assert made.ranking is None


def test_the_record_of_a_variant_has_what_was_left_out(student: Path, plain: Path, tmp_path: Path) -> None:
    config = ExportConfig.model_validate({"static": {"max_error": 1e-3, "max_excluded": 1}})
    made = build_variant(
        "onnx-static-minmax",
        student,
        tmp_path / "static",
        config=config,
        max_length=32,
        base_onnx=plain,
        training_texts=TEXTS,
    )
    record = json.loads(json.dumps(made.to_json()))["graph"]
    assert record["excluded"] == [HARD]
    [node] = record["excluded_nodes"]
    graph = onnx.load(str(tmp_path / "static" / "model.onnx")).graph
    [left] = [each for each in graph.node if each.name == node]
    assert left.op_type == "MatMul"
    assert left.input[1] == "model.bert.encoder.layer.0.intermediate.dense.weight"
    assert record["sensitivity"][0]["part"] == HARD
    assert 0 < record["logits_error"] < record["sensitivity"][0]["error"]


def test_training_texts_go_where_they_are_needed() -> None:
    taken = {
        asked: [each.name for each in kinds.variants() if each.takes_texts(sensitivity=asked)]
        for asked in (False, True)
    }
    fixed = ["onnx-integer", "onnx-integer-embeddings-4bit"]
    fixed += ["onnx-static-minmax", "onnx-static-percentile", "onnx-static-entropy", "onnx-tensorrt-int8"]
    assert taken == {False: fixed, True: ["onnx-int8", "onnx-int8-per-channel", *fixed]}


@pytest.mark.parametrize("name", ["onnx-fused-int8", "onnx-fused-int8-per-channel"])
@pytest.mark.slow  # slow: each exports a graph; that no texts are taken for a ranking is tested above
def test_fused_graphs_are_made_but_not_ranked(student: Path, tmp_path: Path, name: str) -> None:
    config = ExportConfig(sensitivity=True)
    made = build_variant(name, student, tmp_path / name, config=config, max_length=32)
    assert made.graph is not None
    assert made.graph.sensitivity is None
    assert (tmp_path / name / "model.onnx").is_file()


def test_without_texts_nothing_is_measured(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"export\.sensitivity: no training text"):
        dynamic_sensitivity(plain, [])
    with pytest.raises(ExportError, match=r"by entropy: no training text to measure ranges on"):
        quantize_static_onnx(plain, tmp_path / "x.onnx", [], method="entropy")
    assert not list(tmp_path.iterdir())


def test_a_searched_student_is_timed_without_it(student, tmp_path, monkeypatch) -> None:
    """For students that are compared by latency, no texts are available or needed."""
    job = JobConfig.model_validate(
        {"training": {"max_length": 16}, "export": {"sensitivity": True, "variants": ["onnx-int8"]}}
    )
    store, timed = Store(str(tmp_path)), []
    task = Task(store, job, "log", "told", num_threads=1, use_gpu=False, unfinished="unfinished")
    shutil.copytree(student, store.local("student"))
    store.publish("student")

    def measure(rows: list[MeasurementSpec], *_: object) -> list[SimpleNamespace]:
        timed.extend(path.name for row in rows for path in Path(row.directory).iterdir())
        return [SimpleNamespace(p50_ms=1.5, megabytes=2.5)]

    monkeypatch.setattr(latency, "measure_models", measure)
    texts = datasets.Dataset.from_dict({"text": TEXTS, "label": [0] * len(TEXTS)})
    for _ in range(2):  # the second one is read from the cache
        measured = latency.measure_student(task, "student", "teacher", texts, ["a"], None)
        assert measured == {"latency_ms": 1.5, "size_mb": 2.5}
        assert timed.count("model.onnx") == 1
