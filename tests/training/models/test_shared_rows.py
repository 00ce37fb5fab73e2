"""Word pieces that share a row of the embedding: found, kept equal by training, stored once in a graph."""

import numpy as np
import onnx
import pytest
import torch
from models import tiny_classifier, tiny_data

from distiltune.cluster.pipeline.checks.models import check_models
from distiltune.cluster.specification.config import JobConfig
from distiltune.errors import ModelError
from distiltune.export.config import ExportConfig
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.variants.build import build_variant
from distiltune.training.checkpoints.load import load_classifier, load_tokenizer
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.tokenized import TokenizedDataset, tokenize_split
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models.tied_embedding_rows import first_equal_rows, share_rows
from distiltune.training.models.trainable_embedding_rows import train_used_rows
from distiltune.training.student.build import build_student
from distiltune.training.student.config import student_config

TRAIN = [text for text, _ in tiny_data()]
OTHERS = ["unhappiness zebra crossing colours"] * 3
LABELS = [f"label_{n}" for n in range(4)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    return tiny_classifier(folder, texts=[*TRAIN, *OTHERS] * 2, label_names=LABELS)


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    """A student that keeps the pieces of the training texts, and its record."""
    config = student_config(layers=[0], vocabulary={"others": "nearest"})
    folder = tmp_path_factory.mktemp("student") / "student"
    return folder, build_student(config, teacher, LABELS, folder, texts=(TRAIN, []))


def test_equal_rows_are_found_by_their_bits():
    table = torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 2.0], [0.0, 1.0], [1.0, 2.0000002]])
    assert first_equal_rows(table).tolist() == [0, 1, 0, 1, 4]


def test_each_other_piece_gets_the_row_of_the_most_similar_one(teacher):
    model, _ = load_classifier(teacher)
    before = model.get_input_embeddings().weight.detach().numpy().copy()
    kept = [0, 3, 5, 17, 40]
    assert share_rows(model, kept) == len(kept)
    after = model.get_input_embeddings().weight.detach().numpy()
    unit = before / np.linalg.norm(before, axis=1, keepdims=True).clip(1e-12)
    others = [piece for piece in kept if before[piece].any()]  # the row of padding is zero
    for piece, row in enumerate(after):
        nearest = piece if piece in kept else others[int((unit[others] @ unit[piece]).argmax())]
        np.testing.assert_array_equal(row, before[nearest])


def test_a_student_keeps_its_tokenizer_and_the_rows_of_training_texts(teacher, student):
    folder, record = student
    tokenizer, before = load_tokenizer(folder), load_tokenizer(teacher)
    assert tokenizer.get_vocab() == before.get_vocab()
    used = {piece for row in before(TRAIN)["input_ids"] for piece in row} | set(before.all_special_ids)
    table = load_classifier(folder)[0].get_input_embeddings().weight
    assert record["num_embeddings"] == len(used) == len(first_equal_rows(table).unique()) < len(table)
    torch.testing.assert_close(
        table[sorted(used)], load_classifier(teacher)[0].get_input_embeddings().weight[sorted(used)]
    )


def trained(folder, tmp_path, steps=4):
    model, tokenizer = load_classifier(folder)
    texts = [*TRAIN[:60], *OTHERS]
    split = tokenize_split(texts, [number % 4 for number in range(len(texts))], tokenizer, 16)
    train_used_rows(model, split.input_ids)
    trainer = DistillationTrainer(
        model=model,
        args=DistillationTrainingArguments(
            output_dir=str(tmp_path), alpha=1.0, max_steps=steps, learning_rate=0.01, save_strategy="no",
            report_to="none", disable_tqdm=True, bf16=False,
        ),
        train_dataset=TokenizedDataset(split),
        data_collator=DistillationCollator(tokenizer.pad_token_id),
    )  # fmt: skip
    trainer.train()
    return model, tokenizer


def test_training_moves_shared_rows_together(student, tmp_path):
    before = load_classifier(student[0])[0].get_input_embeddings().weight.detach()
    model, tokenizer = trained(student[0], tmp_path)
    after = next(value for name, value in model.state_dict().items() if "word_embeddings" in name)
    assert torch.equal(first_equal_rows(after), first_equal_rows(before))
    moved = (after != before).any(dim=1)
    zebra = tokenizer.convert_tokens_to_ids("zebra")  # not a piece of train, so it shares the row of one
    assert moved[zebra]
    assert moved[first_equal_rows(before)[zebra]]


@pytest.mark.parametrize("variant", ["onnx", "onnx-int8-embeddings-4bit"])
def test_a_graph_stores_equal_rows_once(student, tmp_path, variant, plain_graph):
    folder, record = student
    options = {"config": ExportConfig(), "max_length": 16, "base_onnx": plain_graph(folder, 16)}
    made = build_variant(variant, folder, tmp_path / variant, **options)
    assert variant != "onnx" or made.max_abs_diff < 1e-5
    graph = onnx.load(tmp_path / variant / "model.onnx").graph
    rows = {each.dims[0] for each in graph.initializer if len(each.dims) > 1}
    assert record["num_embeddings"] in rows
    assert len(load_tokenizer(folder)) not in rows
    classifier = TextClassifier.load(tmp_path / variant)
    model, tokenizer = load_classifier(folder)
    texts = ["zebra crossing", TRAIN[0]]
    with torch.no_grad():
        expected = [model(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in texts]
    np.testing.assert_allclose(
        classifier.logits(texts), np.stack(expected), atol=1e-5 if variant == "onnx" else 0.2
    )


def test_too_few_rows_are_refused_before_the_job_begins(teacher):
    wanted = {"checkpoint": str(teacher), "vocabulary": {"others": "nearest", "size": 3}}
    with pytest.raises(ModelError, match=r"vocabulary\.size: 3 given; the special tokens are \d+ pieces of"):
        check_models(JobConfig.model_validate({"student": wanted}))


def test_a_zero_row_is_never_the_nearest(teacher):
    """A piece that is dissimilar to all kept ones does not get the row of padding, which is never trained."""
    model, _ = load_classifier(teacher)
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        table[0] = 0
        table[7] = -table[5]
        table[6] = table[5] + 0.1 * table[8]
    share_rows(model, [0, 5, 6])
    assert torch.equal(table[7], table[6]) or torch.equal(table[7], table[5])
    assert table[7].any()
