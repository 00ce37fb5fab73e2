"""Exported models of pairs: token types where the model reads them, and the same answers as transformers."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from pairs import LABELS, MAX_LENGTH, drawn_pairs, logits_of, pair_classifier
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from distiltune.export.benchmark.targets.base import OpenOptions
from distiltune.export.benchmark.targets.pytorch import open_checkpoint
from distiltune.export.config import ExportConfig
from distiltune.export.onnx.convert import export_onnx
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.variants.build import build_variant
from distiltune.texts import as_columns
from distiltune.training.checkpoints.load import load_classifier, load_model, save_checkpoint
from distiltune.training.models.first_token import first_token_in_last_layer, reads_first_token
from distiltune.training.models.token_types import reads_token_types
from distiltune.training.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL

PAIRS = [*drawn_pairs(12, seed=5), ("red " * 40, "blue grey"), ("green", "white black " * 30)]
READS = {"bert": True, "distilbert": False, "roberta": False}


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("students")
    return {family: pair_classifier(root / family, family) for family in READS}


@pytest.fixture(scope="module")
def bert(students, tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("bert") / "onnx"
    record = build("onnx", students["bert"], made)
    assert record.max_abs_diff < 5e-4
    return made


def build(name: str, student: Path, out_dir: Path, **options):
    given = {"config": ExportConfig(), "max_length": MAX_LENGTH, "takes_pairs": True, **options}
    return build_variant(name, student, out_dir, **given)


def torch_logits_of(student: Path, *, with_types: bool = True) -> np.ndarray:
    """Compute logits with transformers only, one pair at a time."""
    tokenizer = AutoTokenizer.from_pretrained(student)
    model = AutoModelForSequenceClassification.from_pretrained(student).eval()
    rows = []
    for a, b in PAIRS:
        batch = tokenizer(
            a, b, truncation=True, max_length=MAX_LENGTH, return_tensors="pt", return_token_type_ids=True
        )
        types = {"token_type_ids": batch["token_type_ids"]} if with_types else {}
        rows.append(
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **types).logits
        )
    return np.concatenate([row.detach().numpy() for row in rows])


@pytest.mark.parametrize("family", READS)
def test_models_are_given_the_types_that_they_read(students, family):
    model, tokenizer = load_classifier(students[family], SINGLE_LABEL)
    assert reads_token_types(model) is READS[family]
    expected = torch_logits_of(students[family], with_types=READS[family])
    np.testing.assert_allclose(logits_of(model, tokenizer, PAIRS), expected, atol=1e-4)
    without = logits_of(model, tokenizer, PAIRS, with_types=False)
    changed = (without.argmax(axis=1) != expected.argmax(axis=1)).mean()
    assert changed > 0.2 if READS[family] else changed == 0


def test_the_last_layer_of_a_pair_is_computed_for_the_first_token_alone(students):
    model, tokenizer = load_classifier(students["bert"], SINGLE_LABEL)
    assert reads_first_token(model)
    expected = torch_logits_of(students["bert"])
    with first_token_in_last_layer(model):
        np.testing.assert_allclose(logits_of(model, tokenizer, PAIRS), expected, atol=1e-4)


def test_the_graph_of_a_model_that_reads_types_has_them_as_an_input(students, bert):
    graph = onnx.load(str(bert / "model.onnx"))
    assert [each.name for each in graph.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    classifier, expected = TextClassifier.load(bert), torch_logits_of(students["bert"])
    assert classifier.takes_pairs and classifier.reads_token_types
    np.testing.assert_allclose(classifier.logits(PAIRS), expected, atol=5e-4)
    for pair, row in zip(PAIRS, expected, strict=True):
        assert classifier(pair)["label"] == LABELS[row.argmax()]
    without = torch_logits_of(students["bert"], with_types=False)
    assert (without.argmax(axis=1) != expected.argmax(axis=1)).any()


def test_the_artifact_says_what_it_takes_to_other_libraries(bert, students):
    settings = json.loads((bert / "distiltune.json").read_text())
    assert settings["takes_pairs"] is True
    names = json.loads((bert / "tokenizer_config.json").read_text())["model_input_names"]
    assert names == ["input_ids", "attention_mask", "token_type_ids"]
    tokenizer = AutoTokenizer.from_pretrained(bert)
    model = AutoModelForSequenceClassification.from_pretrained(students["bert"])
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    expected = classify([as_columns(pair) for pair in PAIRS], truncation=True, max_length=MAX_LENGTH)
    answers = TextClassifier.load(bert)(PAIRS)
    assert [each["label"] for each in answers] == [each["label"] for each in expected]
    np.testing.assert_allclose(
        [each["score"] for each in answers], [each["score"] for each in expected], atol=1e-4
    )


@pytest.mark.parametrize("task", [MULTI_LABEL, REGRESSION], ids=lambda task: task.name)
def test_other_tasks_answer_pairs_as_the_pipeline_of_transformers(task, bert, students, tmp_path):
    model, tokenizer = load_classifier(students["bert"])
    model.config.problem_type = task.problem_type
    save_checkpoint(model, tokenizer, tmp_path / "student")
    build("onnx", tmp_path / "student", tmp_path / "onnx", task=task.name, base_onnx=bert / "model.onnx")
    classifier = TextClassifier.load(tmp_path / "onnx")
    assert classifier.takes_pairs and classifier.reads_token_types and classifier.task == task.name
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu", top_k=None)
    rows = classify([as_columns(pair) for pair in PAIRS], truncation=True, max_length=MAX_LENGTH)
    expected = [{each["label"]: each["score"] for each in row} for row in rows]
    for answers in (classifier(PAIRS), [classifier(pair) for pair in PAIRS]):
        for answer, scores in zip(answers, expected, strict=True):
            if task is REGRESSION:
                assert answer["values"] == pytest.approx(scores, abs=5e-4)
            else:
                found = {each["label"]: each["score"] for each in answer["labels"]}
                assert found == pytest.approx({n: s for n, s in scores.items() if s > 0.5}, abs=5e-4)
    swapped = classifier.logits([(second, first) for first, second in PAIRS])
    assert np.abs(swapped - classifier.logits(PAIRS)).max() > 0.1, "the order of the texts matters"


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_the_pipeline_that_is_measured_gives_the_same_answers(students, family, monkeypatch):
    # PyTorch accepts the number only once in a process.
    monkeypatch.setattr(torch, "set_num_interop_threads", lambda count: None)
    opened = open_checkpoint(OpenOptions(str(students[family]), MAX_LENGTH, None, 1, None))
    expected = torch_logits_of(students[family], with_types=READS[family])
    np.testing.assert_allclose(opened.logits(PAIRS), expected, atol=1e-4)
    labels = [LABELS[row.argmax()] for row in expected]
    assert [each["label"] for each in opened.pipeline(PAIRS, batch_size=4)] == labels
    answer = opened.pipeline(PAIRS[0])
    assert (answer[0] if isinstance(answer, list) else answer)["label"] == labels[0]


@pytest.mark.parametrize("family", ["distilbert", pytest.param("roberta", marks=pytest.mark.slow)])
def test_a_family_without_types_takes_pairs_as_well(students, tmp_path, family):
    build("onnx", students[family], tmp_path / "onnx")
    graph = onnx.load(str(tmp_path / "onnx" / "model.onnx"))
    assert [each.name for each in graph.graph.input] == ["input_ids", "attention_mask"]
    classifier = TextClassifier.load(tmp_path / "onnx")
    assert classifier.takes_pairs and not classifier.reads_token_types
    np.testing.assert_allclose(
        classifier.logits(PAIRS), torch_logits_of(students[family], with_types=False), atol=5e-4
    )


@pytest.mark.slow
def test_graphs_of_single_texts_do_not_change(students, tmp_path):
    for number, options in enumerate(({}, {"takes_pairs": False})):
        export_onnx(
            load_model(students["bert"]).eval(), tmp_path / f"{number}.onnx", max_length=MAX_LENGTH, **options
        )
    export_onnx(load_model(students["roberta"]).eval(), tmp_path / "2.onnx", max_length=MAX_LENGTH)
    export_onnx(
        load_model(students["roberta"]).eval(), tmp_path / "3.onnx", max_length=MAX_LENGTH, takes_pairs=True
    )
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()
    assert (tmp_path / "2.onnx").read_bytes() == (tmp_path / "3.onnx").read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "onnx-int8",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "onnx-static-minmax",
                "onnx-static-entropy",
                "onnx-fused-int8",
                "student-pytorch-int8",
            )
        ),
    ],
)
def test_quantized_graphs_read_types_and_leave_their_table(students, bert, tmp_path, name):
    texts = drawn_pairs(60, seed=7)
    options = {"base_onnx": bert / "model.onnx", "training_texts": texts if "static" in name else ()}
    build(name, students["bert"], tmp_path / name, **options)
    if name == "student-pytorch-int8":
        from distiltune.export.benchmark.targets import get

        found = (
            get("pytorch-int8")
            .open(OpenOptions(str(tmp_path / name), MAX_LENGTH, None, 1, None))
            .logits(PAIRS)
        )
    else:
        classifier = TextClassifier.load(tmp_path / name)
        assert classifier.reads_token_types
        found = classifier.logits(PAIRS, batch_size=1)
        graph = onnx.load(str(tmp_path / name / "model.onnx")).graph
        [lookup] = [
            node for node in graph.node if node.op_type == "Gather" and "token_type_ids" in node.input
        ]
        [table] = [each for each in graph.initializer if each.name == lookup.input[0]]
        assert table.data_type == onnx.TensorProto.FLOAT
    expected = torch_logits_of(students["bert"])
    gaps = [logits[:, 0] - logits[:, 1] for logits in (found, expected)]
    assert np.corrcoef(gaps)[0, 1] > 0.9
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.8


def test_sensitivity_of_pairs_keeps_their_types(students, bert):
    from distiltune.export.variants.sensitivity import ReferenceLogits, dynamic_sensitivity
    from distiltune.training.data.tokenized import tokenize_rows

    _, tokenizer = load_classifier(students["bert"], SINGLE_LABEL)
    rows = [np.stack([row.ids, row.types]) for row in tokenize_rows(PAIRS[:8], tokenizer, MAX_LENGTH)]
    plain = bert / "model.onnx"
    assert ReferenceLogits(plain, rows).error_of(plain) == 0.0
    without = [np.stack([row[0], np.zeros_like(row[1])]) for row in rows]
    assert not np.allclose(ReferenceLogits(plain, rows)._expected, ReferenceLogits(plain, without)._expected)
    ranked = dynamic_sensitivity(plain, rows)
    assert ranked and all(np.isfinite(each.error) for each in ranked)
