"""Every task on every family: distilled, exported, quantized, and answered as transformers' pipeline does."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from askers import independent_answer
from family_probes import MAX_LENGTH
from tiny_families import TEXTS, config_of, names_of_labels, tiny_model, tokenizer_of
from transformers import pipeline

from distiltune.export.config import ExportConfig
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.variants.build import build_variant
from distiltune.training.checkpoints.heads import head_of
from distiltune.training.checkpoints.load import load_classifier, save_checkpoint
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.tokenized import TokenizedDataset
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models.families import families
from distiltune.training.models.inference import compute_logits
from distiltune.training.ragged import flat
from distiltune.training.student.pieces import piece_model
from distiltune.training.tasks import TASKS, Task

STEPS = 8
# `make test` has each family on one task in test_family_findings.py, and each task on BERT in tests/export/runtime.
pytestmark = pytest.mark.slow
CASES = [
    pytest.param(family.name, task, id=f"{family.name}-{task.name}")
    for family in families()
    for task in TASKS
]


def takes_pairs(task: Task) -> bool:
    return len(task.text_columns) > 1 or task.of_windows


def texts_of(task: Task) -> list[Any]:
    return list(zip(TEXTS, TEXTS[5:], strict=False)) if takes_pairs(task) else TEXTS


def distilled(family: str, task: Task, folder: Path) -> tuple[float, float]:
    """Write a student trained on another model's logits; returns its distillation loss before and after.

    The distance of the logits would be the wrong measure: the same number added to all logits of a softmax, which for
    question answering are those of a whole window, changes no probability, so training leaves it to chance.
    """
    tokenizer, texts = tokenizer_of(family), texts_of(task)
    names = names_of_labels(task)
    teacher = tiny_model(config_of(family, task, num_hidden_layers=1), task)
    student = tiny_model(config_of(family, task, num_hidden_layers=2), task)
    split = task.tokenize_texts(texts, tokenizer, MAX_LENGTH, task.num_outputs(names))
    kind: Any = {"pad_token_id": tokenizer.pad_token_id, "num_threads": 1, "use_gpu": False}
    data = TokenizedDataset(split, compute_logits(teacher, split, **kind))
    args = DistillationTrainingArguments(
        output_dir=str(folder / "work"), alpha=0.0, temperature=2.0, max_steps=STEPS, learning_rate=3e-3,
        per_device_train_batch_size=16, report_to="none", use_cpu=True, save_strategy="no", logging_strategy="no",
        disable_tqdm=True, eval_with_teacher=True,
    )  # fmt: skip
    trainer = DistillationTrainer(
        student, args, train_dataset=data, eval_dataset=data, task=task, compute_metrics=None,
        data_collator=DistillationCollator(tokenizer.pad_token_id),
    )  # fmt: skip
    before = trainer.evaluate()["eval_distillation"]
    trainer.train()
    after = trainer.evaluate()["eval_distillation"]
    if task.of_tokens and not task.of_windows:
        # Otherwise most words have the same tag, such as that of no entity.
        with torch.no_grad():
            means = flat(compute_logits(student, split, **kind)).mean(axis=0)
            head_of(student).bias -= torch.from_numpy(means)
    save_checkpoint(student.eval(), tokenizer, folder / "student")
    return before, after


def simple_texts(tokenizer: Any) -> list[str]:
    """Texts of words that are each one piece, in which pieces are words for transformers' pipeline too."""
    begins = [each[1:] for each in sorted(tokenizer.get_vocab()) if each[:1] in ("▁", "Ġ")]
    first = next(each for each in "ab" if len(tokenizer.tokenize(each)) == 1)
    words = [each for each in begins if each.isalpha() and len(tokenizer.tokenize(f"{first} {each}")) == 2]
    assert len(words) > 12
    draw = random.Random(0)
    texts = [" ".join([first, *draw.choices(words, k=draw.randint(2, 12))]) for _ in range(60)]
    assert all(len(tokenizer.tokenize(text)) == len(text.split()) for text in texts)
    return texts


def answered_by_transformers(task: Task, student: Path, texts: list[str], strategy: str) -> list[Any]:
    """The answers of the pipeline of transformers, in the runtime's form."""
    model, tokenizer = load_classifier(student, task)
    if task.pipeline == "token-classification":
        tokenizer.model_max_length = MAX_LENGTH
        find: Any = pipeline(
            task.pipeline, model=model, tokenizer=tokenizer, device="cpu", aggregation_strategy=strategy
        )
        return [[_entity(each, text) for each in find(text)] for text in texts]
    classify: Any = pipeline(task.pipeline, model=model, tokenizer=tokenizer, device="cpu", top_k=None)
    rows = classify(texts, truncation=True, max_length=MAX_LENGTH)
    return [{each["label"]: each["score"] for each in row} for row in rows]


def _entity(found: dict[str, Any], text: str) -> dict[str, Any]:
    """An entity of the pipeline, without the blank before it, which some tokenizers count as a part of a word."""
    start, end = found["start"], found["end"]
    start += len(text[start:end]) - len(text[start:end].lstrip())
    return {"start": start, "end": end, "label": found["entity_group"], "score": float(found["score"])}


def check_answers(task: Task, found: list[Any], expected: list[Any]) -> None:
    """Compare the runtime's answers with those of the pipeline, or of an independent decoder."""
    for answer, other in zip(found, expected, strict=True):
        if task.of_tokens:
            own, others = ([each] if task.of_windows else each for each in (answer, other))
            assert [{**each, "score": 0} for each in own] == [{**each, "score": 0} for each in others]
            assert [each["score"] for each in own] == pytest.approx(
                [each["score"] for each in others], abs=1e-4
            )
        elif task.has_label_sets:
            scores = {each["label"]: each["score"] for each in answer["labels"]}
            assert scores == pytest.approx({n: s for n, s in other.items() if s > 0.5}, abs=1e-4)
        elif task.has_named_labels:
            assert answer["label"] == max(other, key=other.__getitem__)
            assert answer["score"] == pytest.approx(max(other.values()), abs=1e-4)
        else:
            assert answer["values"] == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize(("family", "task"), CASES)
def test_a_family_learns_a_task_and_answers_without_torch(family: str, task: Task, tmp_path: Path) -> None:
    before, after = distilled(family, task, tmp_path)
    assert after < 0.9 * before
    options: Any = {
        "config": ExportConfig(), "max_length": MAX_LENGTH, "task": task.name,
        "takes_pairs": takes_pairs(task),
    }  # fmt: skip
    student = tmp_path / "student"
    record = build_variant("onnx", student, tmp_path / "onnx", **options)
    assert record.max_abs_diff < 1e-4
    base = tmp_path / "onnx" / "model.onnx"
    record = build_variant("onnx-int8", student, tmp_path / "int8", base_onnx=base, **options)
    assert 0 < record.max_abs_diff < 1.0
    classifier, texts = TextClassifier.load(tmp_path / "onnx"), texts_of(task)
    if task.of_windows:
        texts = [*texts[:6], (TEXTS[3], " ".join(TEXTS[:20])), (" ".join(TEXTS[:9]), " ".join(TEXTS[9:20]))]
        assert len(classifier.windows(texts)) > len(texts)
        expected = [independent_answer(student, pair, MAX_LENGTH) for pair in texts]
    else:
        tokenizer, strategy = tokenizer_of(family), "first"
        if task.of_tokens and piece_model(tokenizer).type != "WordPiece":
            # The pipeline finds the words of WordPiece alone.
            texts, strategy = simple_texts(tokenizer), "simple"
        expected = answered_by_transformers(task, student, texts, strategy)
    found = classifier(texts)
    check_answers(task, found, expected)
    assert not task.of_tokens or any(found), "some texts have entities or answers"
    check_forms(TextClassifier.load(tmp_path / "int8")(texts), found)


def check_forms(found: list[Any], others: list[Any]) -> None:
    """Check that the answers of a quantized model have the form of the plain model's, and finite scores."""
    for answer, other in zip(found, others, strict=True):
        assert type(answer) is type(other)
        for each in answer if isinstance(answer, list) else [answer]:
            assert isinstance(other, list) or set(each) == set(other)
            assert math.isfinite(each.get("score", 0.0))
