"""Entities found by the torch-free runtime: the same as by the pipeline of transformers, sealed, and by command."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tokenizers
import torch
from taggers import TAGS, entities, sentences, tiny_tagger
from transformers import pipeline

from distiltune.errors import ArtifactError, ExportError, InputError
from distiltune.export.artifact.seal import seal_artifact
from distiltune.export.commands.predict import PREDICT
from distiltune.export.config import ExportConfig
from distiltune.export.out_of_scope.fit_scores import ValidationTexts, fit_scores, refit_scores
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.runtime.probes import run_probes
from distiltune.export.runtime.tasks import DECODERS, TokenDecoder, Tokens
from distiltune.export.runtime.tokenizer import Tokenizer
from distiltune.export.variants.build import build_variant
from distiltune.export.variants.parity import measure_parity
from distiltune.training.checkpoints.load import load_classifier
from distiltune.training.tasks import TOKEN_CLASSIFICATION

TEXTS = [
    "ann goes to berlin now",
    "is new york big?",
    "in paris, eve lee met max",
    "nobody is there",
    "   ",
    "call bo, please: bo goes to san juan",
    "oslo",
    " ".join(["ann goes to rome now"] * 12),  # longer than max_length
]
MAX_LENGTH = 24
DECODER = DECODERS["token_classification"]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_tagger(tmp_path_factory.mktemp("tagger") / "student")


@pytest.fixture(scope="module")
def variant(student: Path) -> Path:
    build_variant(
        "onnx", student, student.parent / "onnx", config=ExportConfig(), max_length=MAX_LENGTH,
        task="token_classification",
    )  # fmt: skip
    return student.parent / "onnx"


@pytest.fixture(scope="module")
def classifier(variant: Path) -> TextClassifier:
    return TextClassifier.load(variant)


def of_transformers(student: Path, strategy: str) -> Callable[[list[str]], list[list[dict[str, Any]]]]:
    model, tokenizer = load_classifier(student, TOKEN_CLASSIFICATION)
    tokenizer.model_max_length = MAX_LENGTH
    found: Any = pipeline(
        "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy=strategy
    )
    return lambda texts: [found(text) if text.strip() else [] for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_every_family_answers_as_the_pipeline_does(family, tmp_path):
    tagger = tiny_tagger(tmp_path / "student", family=family)
    build_variant(
        "onnx",
        tagger,
        tmp_path / "onnx",
        config=ExportConfig(),
        max_length=MAX_LENGTH,
        task="token_classification",
    )
    answers, expected = TextClassifier.load(tmp_path / "onnx")(TEXTS), of_transformers(tagger, "first")(TEXTS)
    assert list(map(spans, answers)) == list(map(spans, expected)) and any(answers)


def spans(answer: Any) -> list[tuple[int, int, str]]:
    return [(each["start"], each["end"], each.get("label") or each["entity_group"]) for each in answer]


def test_entities_are_those_of_the_pipeline_of_transformers(student, classifier):
    expected = of_transformers(student, "first")(TEXTS)
    for batch_size in (1, 3, 32):
        answers = classifier(TEXTS, batch_size=batch_size)
        assert list(map(spans, answers)) == list(map(spans, expected))
        for answer, other in zip(answers, expected, strict=True):
            assert [each["score"] for each in answer] == pytest.approx(
                [float(e["score"]) for e in other], abs=1e-5
            )
    assert [classifier(text) for text in TEXTS] == classifier(TEXTS, batch_size=1)
    words = [text.split() for text in TEXTS]
    assert sum(map(len, answers)) > 10 and any(len(each) > 3 for each in words)


def test_where_words_are_single_pieces_they_are_those_of_its_simple_aggregation(classifier, tmp_path):
    whole = tiny_tagger(tmp_path / "whole", vocab_size=400)
    model, tokenizer = load_classifier(whole, TOKEN_CLASSIFICATION)
    texts = [" ".join(tokens) for tokens, _ in sentences(12)]
    assert all(len(tokenizer(text)["input_ids"]) == len(text.split()) + 2 for text in texts)
    expected = of_transformers(whole, "simple")(texts)
    assert isinstance(DECODER, TokenDecoder)
    for text, other in zip(texts, expected, strict=True):
        encoding = tokenizer(text).encodings[0]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([encoding.ids])).logits[0].numpy()
        found = DECODER.decode_tokens(logits, Tokens(text, encoding.offsets, encoding.word_ids), TAGS)
        assert spans(found) == spans(other)
        assert [e["score"] for e in found] == pytest.approx([float(e["score"]) for e in other], abs=1e-5)


def test_what_was_learned_is_found(classifier):
    for tokens, tags in sentences(10):
        text = " ".join(tokens)
        found = [(text[each["start"] : each["end"]], each["label"]) for each in classifier(text)]
        expected: list[list[str]] = []
        for token, tag in zip(tokens, tags, strict=True):
            if tag.startswith("B-"):
                expected.append([token, tag[2:]])
            elif tag.startswith("I-"):
                expected[-1][0] += f" {token}"
        assert found == [tuple(each) for each in expected]


def test_an_answer_is_a_list_of_spans(classifier):
    assert classifier("nobody is there") == [] and classifier("") == [] and classifier("  ") == []
    assert classifier([]) == []
    (only,) = classifier("oslo")
    assert set(only) == {"start", "end", "label", "score"}
    assert [type(each) for each in only.values()] == [int, int, str, float]
    assert (only["start"], only["end"], only["label"]) == (0, 4, "city") and 0.2 < only["score"] <= 1
    long = classifier(TEXTS[-1])
    assert 0 < len(long) < 24 and long[-1]["end"] < len(TEXTS[-1]), "the rest is cut off"
    with pytest.raises(InputError, match="top_k is 3, but the task token_classification"):
        classifier("oslo", top_k=3)
    with pytest.raises(InputError, match="top_k"):
        classifier(["oslo"], top_k=3)


def tokens_of(words: list[str]) -> Tokens:
    """Return one token for each word, between two special ones."""
    text, offsets, at = " ".join(words), [(0, 0)], 0
    for word in words:
        offsets.append((at, at + len(word)))
        at += len(word) + 1
    return Tokens(text, [*offsets, (0, 0)], [None, *range(len(words)), None])


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-name I-name O", [("a bb", "name")]),
        ("B-name B-name O", [("a", "name"), ("bb", "name")]),
        ("I-name I-city I-city", [("a", "name"), ("bb ccc", "city")]),
        ("I-name O I-name", [("a", "name"), ("ccc", "name")]),
        ("O O O", []),
        ("B-city I-name I-name", [("a", "city"), ("bb ccc", "name")]),
    ],
)
def test_tags_are_grouped_as_the_pipeline_groups_them(tags, expected):
    tokens = tokens_of(["a", "bb", "ccc"])
    logits = 4 * np.eye(len(TAGS))[[0, *(TAGS.index(tag) for tag in tags.split()), 0]]
    assert isinstance(DECODER, TokenDecoder)
    found = DECODER.decode_tokens(logits.astype(np.float32), tokens, TAGS)
    assert [(tokens.text[each["start"] : each["end"]], each["label"]) for each in found] == expected
    probability = math.exp(4) / (math.exp(4) + len(TAGS) - 1)
    assert [each["score"] for each in found] == pytest.approx([probability] * len(found))
    cooler = DECODER.decode_tokens(logits.astype(np.float32), tokens, TAGS, temperature=2.0)
    assert all(one["score"] < other["score"] for one, other in zip(cooler, found, strict=True))


def test_the_score_is_the_mean_of_the_words():
    logits = np.zeros((4, len(TAGS)), dtype=np.float32)
    logits[1, 3], logits[2, 4] = 2.0, 1.0
    (found,) = DECODER.decode_tokens(logits, tokens_of(["a", "b"]), TAGS)  # pyright: ignore[reportAttributeAccessIssue]
    parts = [math.exp(z) / (math.exp(z) + len(TAGS) - 1) for z in (2, 1)]
    assert found["score"] == pytest.approx(sum(parts) / 2)


def test_logits_are_those_of_pytorch_at_every_token(student, classifier):
    model, tokenizer = load_classifier(student, TOKEN_CLASSIFICATION)
    logits = classifier.logits(TEXTS, batch_size=3)
    assert len(logits) == len(TEXTS) and logits.values.dtype == np.float32
    for row, text, tokens in zip(logits, TEXTS, classifier.tokens(TEXTS), strict=True):
        given = tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        with torch.inference_mode():
            expected = model(**given).logits[0].numpy()
        np.testing.assert_allclose(row, expected, atol=1e-4)
        assert len(tokens.offsets) == len(row) <= MAX_LENGTH


def test_the_graph_has_logits_for_each_token(variant):
    (output,) = onnx.load(variant / "model.onnx").graph.output
    sizes = [each.dim_param or each.dim_value for each in output.type.tensor_type.shape.dim]
    assert len(sizes) == 3 and sizes[-1] == len(TAGS) and all(isinstance(size, str) for size in sizes[:2])
    settings = json.loads((variant / "distiltune.json").read_text())
    assert settings["task"] == "token_classification" and settings["labels"] == TAGS
    config = json.loads((variant / "config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"] and config["problem_type"] is None


def test_padding_is_left_out_of_the_parity():
    def reference(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.repeat(ids[:, :, None] % 7, 3, axis=2).astype(np.float32)

    def candidate(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.where(mask[:, :, None] == 1, reference(ids, mask), np.nan)

    options = {"vocab_size": 50, "pad_token_id": 0, "max_length": 16}
    assert measure_parity(reference, candidate, **options).max_abs_diff == 0
    with pytest.raises(ExportError, match="finite: False"):
        measure_parity(reference, lambda ids, mask: np.full((*ids.shape, 3), np.nan, np.float32), **options)


def test_an_artifact_of_tokens_is_sealed_and_probed(variant, classifier, tmp_path):
    seal_artifact(
        variant, tmp_path / "sealed", made_from={"data": {}},
        measurements={"metric": {"name": "entity_f1", "test": 0.9}}, session=None, num_threads=1,
    )  # fmt: skip
    sealed = TextClassifier.load(tmp_path / "sealed")
    assert sealed(TEXTS) == classifier(TEXTS)
    found = run_probes(tmp_path / "sealed")
    assert found["num_changed"] == 0 and found["max_abs_diff"] < 1e-3
    card = (tmp_path / "sealed" / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card and "entity F1 0.9000" in card
    assert '"start": …, "end": …' in card and "B-city" in card
    probes = json.loads((tmp_path / "sealed" / "probes.json").read_text())["probes"]
    assert all(len(each["logits"]) == len(each["ids"]) * len(TAGS) for each in probes)


def test_scores_are_calibrated_on_the_words_of_the_validation_split(variant, classifier, tmp_path):
    copy = Path(shutil.copytree(variant, tmp_path / "copy"))
    rows = sentences(20)
    texts, labels = [" ".join(tokens) for tokens, _ in rows], [entities(*row) for row in rows]
    wrong = [[[0, len(texts[0].split()[0]), 0]], *labels[1:]]
    fitted = fit_scores(copy, ValidationTexts(texts, wrong))
    cooled = TextClassifier.load(copy)
    assert cooled.temperature == fitted["temperature"] > 0
    assert list(map(spans, cooled(texts))) == list(map(spans, classifier(texts)))
    certain = fit_scores(copy, ValidationTexts(texts, labels))["temperature"]
    assert certain < fitted["temperature"], "a wrong label makes the scores less certain"
    refit_scores(copy, ValidationTexts(texts, labels), num_threads=2)
    again = json.loads((copy / "distiltune.json").read_text())
    assert (again["temperature"], again["num_threads"], again["threshold"]) == (certain, 2, None)


def test_a_graph_of_texts_is_no_artifact_of_tokens(variant, tmp_path):
    from artifacts import tiny_artifact

    with pytest.raises(ArtifactError, match=r"model\.onnx outputs logits of shape"):
        TextClassifier.load(tiny_artifact(tmp_path / "texts", task="token_classification"))
    settings = variant / "distiltune.json"
    content = settings.read_text()
    try:
        settings.write_text(content.replace("token_classification", "single_label"))
        with pytest.raises(ArtifactError, match=r"model\.onnx outputs logits of shape"):
            TextClassifier.load(variant)
    finally:
        settings.write_text(content)


def test_eight_bits_find_the_same_entities(student, variant, classifier, tmp_path):
    record = build_variant(
        "onnx-int8", student, tmp_path / "int8", config=ExportConfig(), max_length=MAX_LENGTH,
        task="token_classification", base_onnx=variant / "model.onnx",
    )  # fmt: skip
    assert 0 < record.max_abs_diff < 1
    answers = TextClassifier.load(tmp_path / "int8")(TEXTS, batch_size=1)
    assert list(map(spans, answers)) == list(map(spans, classifier(TEXTS)))


def test_predictions_are_printed_and_written(variant, classifier, tmp_path, capsys):
    texts = ["ann goes to berlin now", "nobody is there"]

    def predict(**given: Any) -> str:
        values = dict.fromkeys(("source", "output", "pair_column", "top_k", "storage"))
        values |= {"directory": str(variant), "texts": [], "column": "text", "as_json": False, **given}
        assert PREDICT.run(values, lambda given, storage: Path(given)) == 0
        return capsys.readouterr().out

    printed = json.loads(predict(texts=texts, as_json=True))
    assert printed == [{"text": text, "spans": classifier(text)} for text in texts]
    lines = predict(texts=texts).splitlines()
    assert lines[0].split("\t")[::2] == ["name", "city", texts[0]] and lines[1] == texts[1]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    for name in ("out.jsonl", "out.csv"):
        predict(source=str(tmp_path / "texts.txt"), output=str(tmp_path / name))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows == printed
    table = (tmp_path / "out.csv").read_text().splitlines()
    assert table[0] == "text,spans,blank" and '""label"": ""city""' in table[1]


@pytest.mark.parametrize("side", ["left", "right"])
def test_places_in_a_very_long_text_are_those_in_the_whole_text(student: Path, side: str) -> None:
    library = tokenizers.Tokenizer.from_file(str(student / "tokenizer.json"))
    library.enable_truncation(MAX_LENGTH, direction=side)
    content = library.to_str().encode()
    own = Tokenizer(content, MAX_LENGTH, 0, student / "tokenizer.json", with_offsets=True)
    text = f"{'ann goes to rome. ' * 5000}eve lee met max"
    for encoding in (own.encode_one(text), own.encode([text, "ann"])[0]):
        places = encoding.offsets[1:-1]
        if side == "left":
            assert [text[start:end] for start, end in places[-4:]] == ["eve", "lee", "met", "max"]
        else:
            assert places[0][0] == 0 and places[-1][1] < 100
