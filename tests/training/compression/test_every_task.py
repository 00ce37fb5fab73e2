"""Compression and added texts for models of every task: pruning, 8 bits in training, narrower layers, augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datafiles import write
from taggers import conll
from tiny_families import TEXTS, config_of, names_of_labels, tiny_model, tokenizer_of

from distiltune.training.compression.config import QuantizationAwareConfig, pruning_config
from distiltune.training.compression.pruning.callback import PruningCallback
from distiltune.training.compression.pruning.state import encoder_matrices
from distiltune.training.compression.quantization_aware import FakeQuantized, QuantizationAwareTraining
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.config import data_config
from distiltune.training.data.text_data import load_data
from distiltune.training.data.tokenized import JoinedDataset, LabelledSplit, TokenizedDataset
from distiltune.training.data.transfer_set import extra_splits
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models.inference import compute_logits
from distiltune.training.models.structured_pruning import readers
from distiltune.training.ragged import flat
from distiltune.training.student.size_config import WidthConfig
from distiltune.training.student.width import narrow
from distiltune.training.tasks import MULTI_LABEL, REGRESSION, TASKS, TOKEN_CLASSIFICATION, Task

MAX_LENGTH = 24
TOKENIZER = tokenizer_of("bert")
PAIRS = list(zip(TEXTS, TEXTS[5:], strict=False))
EACH_TASK = pytest.mark.parametrize("task", list(TASKS), ids=lambda each: each.name)


def model_of(task: Task, num_layers: int = 2, names: list[str] | None = None) -> Any:
    return tiny_model(config_of("bert", task, names, num_hidden_layers=num_layers), task)


def logits_of(model: Any, split: Any) -> Any:
    return compute_logits(model, split, pad_token_id=TOKENIZER.pad_token_id, num_threads=1, use_gpu=False)


def split_of(task: Task) -> Any:
    texts: Any = PAIRS if task.of_windows else TEXTS
    return task.tokenize_texts(texts, TOKENIZER, MAX_LENGTH, task.num_outputs(names_of_labels(task)))


def trainer_of(path: Path, model: Any, data: Any, task: Task, *callbacks: Any, **given: Any) -> Any:
    options = {"learning_rate": 3e-3, "num_train_epochs": 4, "alpha": 0.0, **given}
    args = DistillationTrainingArguments(
        output_dir=str(path), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, save_strategy="no",
        logging_strategy="no", eval_with_teacher=True, per_device_train_batch_size=16, **options,
    )  # fmt: skip
    return DistillationTrainer(
        model, args, train_dataset=data, eval_dataset=data, task=task, compute_metrics=None,
        data_collator=DistillationCollator(TOKENIZER.pad_token_id), callbacks=list(callbacks),
    )  # fmt: skip


@EACH_TASK
def test_a_student_is_pruned_and_learns_with_8_bits(task: Task, tmp_path: Path) -> None:
    split, student = split_of(task), model_of(task)
    data = TokenizedDataset(split, logits_of(model_of(task, num_layers=1), split))
    pruning = PruningCallback(
        pruning_config(method="magnitude", sparsity=0.5, begin=0.1, end=0.6, update_every=2)
    )
    quantized = QuantizationAwareTraining(QuantizationAwareConfig(num_epochs=2), max_length=MAX_LENGTH)
    trainer = trainer_of(tmp_path, student, data, task, pruning, quantized)
    before = trainer.evaluate()["eval_distillation"]
    trainer.train()
    assert trainer.evaluate()["eval_distillation"] < 0.9 * before
    for name, matrix in encoder_matrices(student).items():
        assert float((matrix == 0).float().mean()) == pytest.approx(0.5, abs=0.01), name
    plain = flat(logits_of(student, split))
    with FakeQuantized(student, QuantizationAwareConfig(), max_length=MAX_LENGTH):
        rounded = flat(logits_of(student, split))
    difference = np.abs(rounded - plain)
    assert difference.max() > 0 and difference.mean() < 0.1 * plain.std(), "8 bits round the logits a little"
    np.testing.assert_array_equal(flat(logits_of(student, split)), plain)


def labels_of(task: Task) -> list[Any]:
    draw = np.random.default_rng(0)
    if task.has_label_sets:
        return draw.integers(0, 2, (len(TEXTS), 3)).tolist()
    return draw.normal(size=(len(TEXTS), 3)).tolist()


@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize("task", [MULTI_LABEL, REGRESSION], ids=lambda each: each.name)
def test_heads_and_rows_that_contribute_nothing_go_first(task: Task, with_labels: bool) -> None:
    model, split = model_of(task), split_of(task)
    with torch.no_grad():
        for heads, rows in readers(model):
            assert heads is not None and rows is not None
            heads.weight[:, 8:16] = 0  # the second of four heads
            rows.weight[:, 5:29] = 0
    expected, before = logits_of(model, split), model.num_parameters()
    width = WidthConfig(num_attention_heads=3, intermediate_size=40)
    narrow(model, TOKENIZER, width, TEXTS, labels_of(task) if with_labels else (), task=task)
    np.testing.assert_allclose(logits_of(model, split), expected, atol=1e-4)
    assert model.num_parameters() < before


def table_of(task: Task, path: Path) -> dict[str, Any]:
    """The section ``data`` of labelled texts."""
    if task.of_tokens:
        file = path / "data.conll"
        file.write_text(conll(60))
        return {"train": str(file)}
    labels = labels_of(task)
    names = ["air", "earth", "fire"]
    rows = [(text, *own) for text, own in zip(TEXTS, labels, strict=True)]
    return {"train": write(path / "data.jsonl", rows, ("text", *names)), "label_columns": names}


@pytest.mark.parametrize("task", [MULTI_LABEL, REGRESSION, TOKEN_CLASSIFICATION], ids=lambda each: each.name)
def test_added_texts_are_learned_from_the_teacher_alone(task: Task, tmp_path: Path) -> None:
    made = {"spliced": {"count": 20}, "dropped": {"count": 15, "share": 0.3}, "masked": {"count": 10}}
    if task.of_tokens:
        del made["masked"]  # which is rejected: masked pieces form no words
    config = data_config(source="files", **table_of(task, tmp_path), augmentation=made)
    data = load_data(config, task.label_kind)
    added = extra_splits(config, data, TOKENIZER, MAX_LENGTH, task)
    assert {kind: len(split) for kind, split in added.items()} == {
        kind: section["count"] for kind, section in made.items()
    }
    names = data.class_names
    teacher = model_of(task, 1, names)
    splits = [LabelledSplit(split, logits_of(teacher, split)) for split in added.values()]
    labels_alone, teacher_alone = (
        trainer_of(tmp_path, model_of(task, 2, names), JoinedDataset(splits), task, alpha=alpha)
        for alpha in (1.0, 0.0)
    )
    batch = next(iter(labels_alone.get_train_dataloader()))
    loss = labels_alone.compute_loss(labels_alone.model.train(), dict(batch))
    assert loss.detach() == 0, "they have no labels"
    before = teacher_alone.evaluate()["eval_distillation"]
    teacher_alone.train()
    assert teacher_alone.evaluate()["eval_distillation"] < 0.9 * before
    train = task.tokenize(data.splits["train"], TOKENIZER, MAX_LENGTH)
    both = JoinedDataset([LabelledSplit(train, logits_of(teacher, train)), *splits])
    joined = trainer_of(tmp_path, model_of(task, 2, names), both, task, alpha=0.5, max_steps=3)
    assert np.isfinite(joined.train().training_loss)
