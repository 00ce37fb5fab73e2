"""Answers of the torch-free runtime: against brute force over PyTorch's logits, sealed, measured, and by command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from askers import independent_answer, questions, tiny_asker, write_squad
from transformers import AutoConfig, AutoModelForQuestionAnswering

from distiltune.cluster.commands.evaluate import evaluate
from distiltune.errors import ArtifactError, InputError
from distiltune.export.artifact.seal import seal_artifact
from distiltune.export.benchmark.accuracy.judge import judge
from distiltune.export.benchmark.accuracy.predictions import unpack_answers
from distiltune.export.benchmark.measurements import PerformanceBenchmark, long_text
from distiltune.export.benchmark.targets import answers
from distiltune.export.benchmark.targets.base import OpenOptions
from distiltune.export.benchmark.targets.onnx import open_classifier
from distiltune.export.benchmark.targets.outputs import SPLITS, ScoredModel, outputs_of
from distiltune.export.benchmark.targets.pytorch import open_checkpoint
from distiltune.export.commands.predict import PREDICT
from distiltune.export.config import ExportConfig
from distiltune.export.out_of_scope.answers import fit_answers, probabilities
from distiltune.export.out_of_scope.fit_scores import ValidationTexts, fit_scores, refit_scores
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.runtime.probes import run_probes
from distiltune.export.runtime.session import feeds
from distiltune.export.runtime.tasks import DECODERS
from distiltune.export.variants.build import build_variant
from distiltune.training.ragged import Ragged
from distiltune.training.tasks import QUESTION_ANSWERING
from distiltune.training.tasks.spans import scoring
from distiltune.training.tasks.spans.decoding import SpanLogits

MAX_LENGTH = 40
ROWS = questions(36, unanswerable=True)
PAIRS, LABELS = [(row[0], row[1]) for row in ROWS], [row[2] for row in ROWS]
LONG = " ".join(dict.fromkeys(context for _, context in PAIRS))
ASKED = [
    *PAIRS[:6],
    ("who was it?", LONG),
    ("where was it?", LONG[40:200]),
    ("who was it? " * 12, LONG),  # a question that is truncated
    ("where was it?", "Oslo"),
    ("who was it?", "  Ann\tBo  "),
]
OPTIONS: dict[str, Any] = {
    "config": ExportConfig(), "max_length": MAX_LENGTH, "task": "question_answering", "takes_pairs": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_asker(tmp_path_factory.mktemp("asker") / "student", unanswerable=True)


@pytest.fixture(scope="module")
def variant(student: Path) -> Path:
    build_variant("onnx", student, student.parent / "onnx", **OPTIONS)
    return student.parent / "onnx"


@pytest.fixture(scope="module")
def classifier(variant: Path) -> TextClassifier:
    return TextClassifier.load(variant)


def expected_answer(student: Path, pair: tuple[str, str], *fitted: float | None) -> dict[str, Any]:
    return independent_answer(student, pair, MAX_LENGTH, *fitted)


def check(given: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for found, other in zip(given, expected, strict=True):
        assert list(found) == ["answer", "score", "start", "end"]
        assert {**found, "score": 0} == {**other, "score": 0}
        assert found["score"] == pytest.approx(other["score"], abs=1e-4)


def test_answers_are_those_of_brute_force_over_pytorchs_logits(student, classifier):
    expected = [expected_answer(student, pair) for pair in ASKED]
    for batch_size in (1, 3, 32):
        check(classifier(ASKED, batch_size=batch_size), expected)
    check([classifier(pair) for pair in ASKED], expected)
    for (_, context), answer in zip(ASKED, expected, strict=True):
        assert context[answer["start"] : answer["end"]] == answer["answer"] != ""
    assert len(classifier.windows([("who was it?", LONG)])) >= 5


def test_with_a_threshold_no_answer_may_be_given(student, variant, tmp_path):
    copy = Path(shutil.copytree(variant, tmp_path / "copy"))
    settings = json.loads((copy / "distiltune.json").read_text()) | {"threshold": 0.5, "temperature": 2.0}
    (copy / "distiltune.json").write_text(json.dumps(settings))
    found = TextClassifier.load(copy)
    check(found(PAIRS[:9]), [expected_answer(student, pair, 0.5, 2.0) for pair in PAIRS[:9]])
    assert [each["answer"] == "" for each in found(PAIRS[:9])] == [not own for own in LABELS[:9]]
    found.threshold, found.temperature = None, 1.0
    check(found(PAIRS[:9]), [expected_answer(student, pair) for pair in PAIRS[:9]])
    assert found(PAIRS[0])["answer"] != ""
    for wrong in ("high", True, [1], float("inf")):
        (copy / "distiltune.json").write_text(json.dumps({**settings, "threshold": wrong}))
        with pytest.raises(ArtifactError, match=r"threshold"):
            TextClassifier.load(copy)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_other_families_answer_as_pytorch_does(family, tmp_path):
    asker = tiny_asker(tmp_path / "student", family=family)
    build_variant("onnx", asker, tmp_path / "onnx", **OPTIONS)
    check(TextClassifier.load(tmp_path / "onnx")(ASKED), [expected_answer(asker, pair) for pair in ASKED])


def test_blank_questions_and_contexts_are_marked(classifier):
    for pair in (("", "Ann was it."), ("who?", "  "), ("who?", "")):
        answer, (other,) = classifier(pair), classifier([pair])
        assert answer == other and answer["blank"]
        assert pair[1][answer["start"] : answer["end"]] == answer["answer"]
    assert classifier(("who?", "")) == {"answer": "", "score": 0.0, "start": 0, "end": 0, "blank": True}
    assert classifier([]) == []
    with pytest.raises(InputError, match="top_k is 2"):
        classifier(PAIRS[:2], top_k=2)
    with pytest.raises(InputError, match="takes pairs of texts"):
        classifier("who was it?")


def test_time_is_measured_from_question_to_answer(classifier):
    found = classifier.profile(("who was it?", LONG), num_runs=3, num_warmups=1, seconds=0.2)
    assert found["total"] > 0 and set(found) >= {"tokenize", "feed", "run", "decode", "session_alone"}


def test_the_graph_has_logits_for_each_token_and_a_config_that_transformers_opens(variant, classifier):
    (output,) = onnx.load(variant / "model.onnx").graph.output
    sizes = [each.dim_param or each.dim_value for each in output.type.tensor_type.shape.dim]
    assert len(sizes) == 3 and sizes[-1] == 2 and all(isinstance(size, str) for size in sizes[:2])
    settings = json.loads((variant / "distiltune.json").read_text())
    assert settings["task"] == "question_answering" and settings["labels"] == ["start", "end"]
    assert settings["takes_pairs"] is True and settings["threshold"] is None
    config = AutoConfig.from_pretrained(str(variant))
    assert config.architectures == ["BertForQuestionAnswering"]
    assert type(AutoModelForQuestionAnswering.from_config(config)).__name__ == "BertForQuestionAnswering"
    assert classifier.reads_token_types and classifier.of_windows


def test_an_artifact_of_questions_is_sealed_and_probed(variant, classifier, tmp_path):
    seal_artifact(
        variant, tmp_path / "sealed", made_from={"data": {}},
        measurements={"metric": {"name": "f1", "test": 0.9}}, session=None, num_threads=1,
    )  # fmt: skip
    sealed = TextClassifier.load(tmp_path / "sealed")
    assert sealed(ASKED) == classifier(ASKED)
    found = run_probes(tmp_path / "sealed")
    assert found["num_changed"] == 0 and found["max_abs_diff"] < 1e-3
    card = (tmp_path / "sealed" / "README.md").read_text()
    assert "pipeline_tag: question-answering" in card and "F1 0.9000" in card and '{"answer": …' in card
    assert "## Labels" not in card and "## Numbers" not in card
    assert 'classifier(("your question", "the context that answers it"))' in card


def test_a_probe_shows_another_answer(classifier):
    decoder = DECODERS["question_answering"]
    logits = np.zeros((6, 2), dtype=np.float32)
    logits[2, 0], logits[4, 1] = 3.0, 2.0
    assert classifier.answers(logits) == [{"start": 2, "end": 4}]
    assert decoder.margin(logits) == pytest.approx(2.0)
    assert classifier.answers(logits + 1) == classifier.answers(logits) != classifier.answers(logits[::-1])


def outputs(classifier: TextClassifier, pairs: list[tuple[str, str]]) -> SpanLogits:
    return SpanLogits.of_windows(classifier.windows(pairs), classifier.logits(pairs, batch_size=1))


def test_the_threshold_has_the_best_f1_and_the_temperature_the_likeliest_scores(classifier):
    given, contexts = outputs(classifier, PAIRS), [context for _, context in PAIRS]
    labels = QUESTION_ANSWERING.measured_labels(PAIRS, LABELS)
    fitted = fit_answers(given, contexts, labels)
    assert fitted.threshold is not None

    def f1(threshold: float) -> float:
        from distiltune.training.tasks.spans.decoding import answers_of

        words = scoring.words_of_answers(answers_of(contexts, given, threshold))
        return QUESTION_ANSWERING.metrics(words, labels)["f1"] or 0.0

    assert f1(fitted.threshold) == pytest.approx(
        max(f1(each) for each in np.linspace(-30, 30, 301)), abs=1e-9
    )
    answered = [row for row, own in enumerate(LABELS) if own]
    only = fit_answers(given.select(answered), [contexts[row] for row in answered], labels[answered])
    assert only.threshold is None, "every question has an answer"
    wrong = np.roll(labels, 1, axis=0)
    assert fit_answers(given, contexts, wrong).temperature > fitted.temperature, "less certain"
    scores = probabilities(given, fitted.threshold, fitted.temperature)
    assert scores.shape == (len(PAIRS),) and ((scores > 0) & (scores <= 1)).all()


def test_scores_are_fitted_on_the_validation_split(variant, tmp_path):
    copy = Path(shutil.copytree(variant, tmp_path / "copy"))
    fitted = fit_scores(copy, ValidationTexts(PAIRS, LABELS))
    found = TextClassifier.load(copy)
    assert (found.temperature, found.threshold) == (fitted["temperature"], fitted["threshold"])
    silent = [row for row, own in enumerate(LABELS) if not own]
    assert all(found(PAIRS[row])["answer"] == "" for row in silent)
    refit_scores(copy, ValidationTexts(PAIRS, LABELS), num_threads=2)
    again = json.loads((copy / "distiltune.json").read_text())
    assert (again["temperature"], again["threshold"]) == (found.temperature, found.threshold)
    assert again["num_threads"] == 2


def test_eight_bits_find_the_same_answers(student, variant, classifier, tmp_path):
    record = build_variant(
        "onnx-int8", student, tmp_path / "int8", base_onnx=variant / "model.onnx", **OPTIONS
    )
    assert 0 < record.max_abs_diff < 1
    own = TextClassifier.load(tmp_path / "int8")(PAIRS, batch_size=1)
    same = [one["answer"] == other["answer"] for one, other in zip(own, classifier(PAIRS), strict=True)]
    assert np.mean(same) > 0.9


def test_a_graph_of_texts_is_no_artifact_of_questions(tmp_path):
    from artifacts import tiny_artifact

    with pytest.raises(
        ArtifactError, match=r"takes_pairs is False; it must be true for the task question_answering"
    ):
        TextClassifier.load(tiny_artifact(tmp_path / "texts", task="question_answering"))
    with pytest.raises(ArtifactError, match=r"model\.onnx outputs logits of shape"):
        TextClassifier.load(tiny_artifact(tmp_path / "pairs", task="question_answering", takes_pairs=True))


def test_every_runtime_is_judged_by_the_same_answers(student, variant, classifier, tmp_path):
    options = OpenOptions(str(student), MAX_LENGTH, None, 1, None, task="question_answering")
    theirs = open_checkpoint(options)
    ours = open_classifier(OpenOptions(str(variant), MAX_LENGTH, None, 1, None, task="question_answering"))
    expected = classifier(ASKED)
    for batch_size in (1, 4):
        for found, other in zip(theirs.pipeline(ASKED, batch_size=batch_size), expected, strict=True):
            assert found["answer"] == other["answer"] and found["score"] == pytest.approx(
                other["score"], abs=1e-4
            )
    assert theirs.pipeline(ASKED[0])["answer"] == expected[0]["answer"]
    texts: dict[str, Any] = {
        "task": "question_answering", "label_names": ["start", "end"], "out_of_scope_label": None,
        "label_thresholds": None,
        **{f"{split}_texts": PAIRS for split in SPLITS}, **{f"{split}_labels": LABELS for split in SPLITS},
    }  # fmt: skip
    judged = []
    for opened in (theirs, ours):
        scored = ScoredModel(opened.labels, {split: outputs_of(opened, PAIRS) for split in SPLITS})
        scored.save(tmp_path / "logits.npz")
        again = ScoredModel.load(tmp_path / "logits.npz", None, None)
        assert isinstance(again.logits["test"], SpanLogits)
        judged.append(judge(again, texts, None))
    first, second = judged
    assert first["metrics"] == second["metrics"] and first["metrics"]["f1"]["test"] > 0.9
    assert first["calibration"]["temperature"] == pytest.approx(
        second["calibration"]["temperature"], rel=0.05
    )
    unpacked = unpack_answers(first["answers"]["test"]["without_threshold"])
    metric = QUESTION_ANSWERING.metric("f1", ["start", "end"])
    assert unpacked.right is not None and metric.measure(
        unpacked.predictions, unpacked.labels
    ) == pytest.approx(  # pyright: ignore[reportArgumentType]
        first["metrics"]["f1"]["test"]
    )
    assert isinstance(outputs_of(ours, PAIRS).logits, Ragged)


def test_a_length_is_that_of_a_question_with_its_context(student, variant, classifier, monkeypatch):
    monkeypatch.setattr("distiltune.export.benchmark.targets.pytorch.set_threads", lambda _: None)
    opened = open_checkpoint(OpenOptions(str(student), MAX_LENGTH, None, 1, None, task="question_answering"))
    ours = open_classifier(OpenOptions(str(variant), MAX_LENGTH, None, 1, None, task="question_answering"))
    assert opened.at_length is not None and ours.at_length is not None
    for num_tokens in (16, MAX_LENGTH, 150):
        pair = long_text(PAIRS, num_tokens)
        cut = ours.at_length(num_tokens)
        assert isinstance(pair, tuple) and isinstance(cut, TextClassifier)
        windows = cut.windows([pair])
        assert max(map(len, windows)) == min(num_tokens, MAX_LENGTH)
        read = {tuple(span) for each in windows for span in each.spans.tolist() if span[0] >= 0}
        num_others = sum(span[0] < 0 for span in windows[0].spans.tolist())
        assert len(read) + num_others == num_tokens
        assert cut(pair)["answer"] == opened.at_length(num_tokens)(pair)["answer"] != ""
    assert len(cut.windows([pair])) > 3
    assert classifier.windows(ASKED)[0].ids == ours.windows(ASKED)[0].ids, "the first one has not changed"
    times = PerformanceBenchmark(ours.pipeline, PAIRS, num_runs=2).time_lengths(ours.at_length, [16, 99], 0.1)
    assert list(times) == ["16", "99"]


def test_windows_of_a_long_context_are_run_in_several_batches(student, monkeypatch):
    sizes, inputs = [], answers.window_inputs

    def counted(model, windows, pad_token_id):
        sizes.append((len(windows), max(map(len, windows))))
        return inputs(model, windows, pad_token_id)

    monkeypatch.setattr(answers, "window_inputs", counted)
    monkeypatch.setattr("distiltune.export.benchmark.targets.pytorch.set_threads", lambda _: None)
    opened = open_checkpoint(OpenOptions(str(student), MAX_LENGTH, None, 1, None, task="question_answering"))
    whole = opened.pipeline(ASKED, batch_size=len(ASKED))
    assert len(sizes) == 1 and sizes[0][0] > len(ASKED)
    monkeypatch.setattr(feeds, "_MOST_PAIRS", 4 * MAX_LENGTH**2)
    sizes.clear()
    check(opened.pipeline(ASKED, batch_size=len(ASKED)), whole)
    assert len(sizes) > 2 and all(num * length**2 <= 4 * MAX_LENGTH**2 for num, length in sizes)


def predict(variant: Path, capsys: Any, **given: Any) -> str:
    values = dict.fromkeys(("source", "output", "column", "pair_column", "top_k", "storage"))
    values |= {"directory": str(variant), "texts": [], "as_json": False, **given}
    assert PREDICT.run(values, lambda given, storage: Path(given)) == 0
    return capsys.readouterr().out


def test_predictions_are_printed_and_written(variant, classifier, tmp_path, capsys):
    pairs = PAIRS[:2]
    printed = json.loads(
        predict(variant, capsys, texts=[part for pair in pairs for part in pair], as_json=True)
    )
    assert printed == [
        {"text": question, "text_pair": context, **classifier((question, context))}
        for question, context in pairs
    ]
    line = predict(variant, capsys, texts=list(pairs[0])).rstrip("\n").split("\t")
    assert line[0] == classifier(pairs[0])["answer"] and line[2:] == list(pairs[0])
    (tmp_path / "in.csv").write_text(
        "question,context\n" + "\n".join(f'"{question}","{context}"' for question, context in pairs)
    )
    (tmp_path / "in.jsonl").write_text(
        "\n".join(json.dumps({"question": question, "context": context}) for question, context in pairs)
    )
    for name in ("in.csv", "in.jsonl"):
        for out in ("out.jsonl", "out.csv"):
            predict(variant, capsys, source=str(tmp_path / name), output=str(tmp_path / out))
        rows = [json.loads(each) for each in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert rows == printed
        table = (tmp_path / "out.csv").read_text().splitlines()
        assert table[0] == "text,text_pair,answer,score,start,end,blank" and len(table) == 3


def test_an_artifact_is_evaluated_on_a_file_of_squad(variant, tmp_path, capsys):
    evaluate(str(variant), str(write_squad(tmp_path / "test.json", ROWS)), as_json=True)
    evaluated = json.loads(capsys.readouterr().out)
    assert (
        evaluated["num_texts"] == len(ROWS)
        and 0 < evaluated["metrics"]["exact_match"] <= evaluated["metrics"]["f1"] < 1
    )
