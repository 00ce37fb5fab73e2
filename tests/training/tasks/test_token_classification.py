"""Token classification: labels at the first piece of each word, losses over words, training, and what is measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, RobertaConfig

from distiltune.errors import InputError, ModelError
from distiltune.training.checkpoints.heads import head_of, match_labels
from distiltune.training.checkpoints.inspection import inspect_checkpoint
from distiltune.training.checkpoints.load import new_classifier, save_checkpoint
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.label_kinds.tag_scheme import tag_names
from distiltune.training.data.tokenized import (
    EXAMPLES,
    IGNORED_LABEL,
    JoinedDataset,
    LabelledSplit,
    TokenizedDataset,
)
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models.first_token import reads_first_token
from distiltune.training.models.inference import compute_logits
from distiltune.training.ragged import Ragged, flat
from distiltune.training.student.layers import student_from_layers
from distiltune.training.student.logit_change import compare_logits
from distiltune.training.student.vocabulary import pieces_to_keep, trim_vocabulary
from distiltune.training.student.width import WidthConfig, narrow
from distiltune.training.tasks import SINGLE_LABEL, TOKEN_CLASSIFICATION
from distiltune.training.tasks.token_classification import UNLABELLED
from distiltune.training.teacher.from_scratch import train_tokenizer
from distiltune.training.teacher.logits_cache import teacher_logits

TASK = TOKEN_CLASSIFICATION
CITIES, NAMES = ["berlin", "paris", "new york", "rome"], ["ann", "bo", "eve"]
TAGS = tag_names(["city", "name"])
SHAPES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def sentences() -> tuple[list[str], list[list[list[int]]]]:
    """Texts with their entities: cities are type 0, names type 1."""
    texts, entities = [], []
    for number in range(24):
        name, city = NAMES[number % 3], CITIES[number % 4]
        text = f"{name} goes to {city} now"
        start = text.index(city)
        texts.append(text)
        entities.append([[0, len(name), 1], [start, start + len(city), 0]])
    return texts, entities


TEXTS, ENTITIES = sentences()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    # "paris" is not in the vocabulary as a whole, so that a word has several pieces.
    return train_tokenizer([text.replace("paris", "pa ris") for text in TEXTS], vocab_size=90)


def new_model(tokenizer: Any, seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        **{**SHAPES, **more},
        **TASK.model_config(TAGS),
    )
    return new_classifier(config, TASK).eval()


@pytest.fixture(scope="module")
def split(tokenizer: Any) -> Any:
    return TASK.tokenize_labelled(TEXTS, ENTITIES, tokenizer, 32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.longdouble)
    wide = wide - wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def test_the_first_piece_of_each_word_has_its_tag(tokenizer, split):
    pieces = tokenizer.convert_ids_to_tokens(split.row(1).tolist())
    labels = split.labels[1].tolist()
    assert pieces[0] == "[CLS]" and pieces[-1] == "[SEP]"
    assert len(pieces) == len(labels) > len(TEXTS[1].split()) + 2, "a word has several pieces"
    tagged = [TAGS[label] for label in labels if label != IGNORED_LABEL]
    assert tagged == ["B-name", "O", "O", "B-city", "O"]
    ignored = [piece for piece, label in zip(pieces, labels, strict=True) if label == IGNORED_LABEL]
    assert all(piece.startswith(("##", "[")) for piece in ignored)
    assert [TAGS[label] for label in split.labels[2].tolist() if label >= 0][-3:] == ["B-city", "I-city", "O"]


def test_texts_of_a_teacher_alone_have_words_without_a_label(tokenizer, split):
    unlabelled = TASK.tokenize_texts(TEXTS, tokenizer, 32, len(TAGS))
    assert np.array_equal(unlabelled.input_ids, split.input_ids)
    assert np.array_equal(flat(unlabelled.labels) == UNLABELLED, flat(split.labels) >= 0)
    assert set(flat(unlabelled.labels).tolist()) == {UNLABELLED, IGNORED_LABEL}


def test_a_long_text_is_cut(tokenizer):
    cut = TASK.tokenize_labelled(TEXTS[:3], ENTITIES[:3], tokenizer, 5)
    assert cut.lengths.max() == 5 and [len(row) for row in cut.labels] == cut.lengths.tolist()


def test_a_batch_pads_labels_and_logits(split):
    random = np.random.default_rng(0)
    logits = split.labels.like(random.normal(size=(len(split.labels.values), len(TAGS))).astype(np.float32))
    dataset = JoinedDataset([LabelledSplit(split, logits), LabelledSplit(split, logits).first(2)])
    assert len(dataset) == 26 and len(dataset.labels) == 26
    batch = DistillationCollator(0, pad_to_multiple_of=8)([dataset[0], dataset[2], dataset[25]])
    shape = tuple(batch["input_ids"].shape)
    assert batch["labels"].shape == shape and batch["teacher_logits"].shape == (*shape, len(TAGS))
    padding = batch["attention_mask"] == 0
    assert padding.any() and (batch["labels"][padding] == IGNORED_LABEL).all()
    assert (batch["teacher_logits"][padding] == 0).all()
    assert np.array_equal(batch["labels"][2][: split.lengths[1]], split.labels[1])
    assert np.array_equal(batch["teacher_logits"][2][: split.lengths[1]], logits[1])


def test_a_batch_of_texts_with_several_numbers_is_not_padded():
    rows = [
        {"input_ids": [1, 2, 3], "labels": [0.0, 1.0, 0.0]},
        {"input_ids": [4], "labels": [1.0, 0.0, 0.0]},
    ]
    batch = DistillationCollator(0)(rows)
    assert batch["labels"].tolist() == [[0, 1, 0], [1, 0, 0]] and batch["labels"].dtype == torch.float32
    whole = DistillationCollator(0)([{"input_ids": [1, 2], "labels": 1}, {"input_ids": [1], "labels": 0}])
    assert whole["labels"].tolist() == [1, 0]
    rows = [
        {"input_ids": [1, 2, 3], "labels": np.array([0, 1, 0], dtype=np.int8)}
    ]  # as many labels as tokens
    assert DistillationCollator(0, 8, of_tokens=False)(rows)["labels"].tolist() == [[0, 1, 0]]
    assert DistillationCollator(0, 8)(rows)["labels"].shape == (1, 8)


@pytest.mark.parametrize("num_items", [None, 7])
def test_losses_are_means_over_words(num_items):
    random = np.random.default_rng(1)
    student, teacher = random.normal(size=(2, 4, 6, 5)).astype(np.float32)
    labels = random.integers(-1, 5, size=(4, 6))
    labels[:, 0] = labels[2, 3:] = IGNORED_LABEL
    batch = {"labels": torch.from_numpy(labels)}
    words = TASK.examples(batch)
    assert words is not None and np.array_equal(words.numpy(), np.flatnonzero(labels != IGNORED_LABEL))
    chosen = [torch.from_numpy(each).flatten(0, 1)[words] for each in (student, teacher)]
    logs, targets, known = log_softmax(student), log_softmax(teacher / 2.0), labels >= 0
    expected = -logs[known][np.arange(known.sum()), labels[known]].sum() / (num_items or known.sum())
    options: dict[str, Any] = {} if num_items is None else {"num_items": num_items}
    hard = TASK.hard_loss(chosen[0], batch["labels"].flatten()[words], **options)
    assert float(hard) == pytest.approx(float(expected), rel=1e-5)
    assert float(TASK.hard_loss(torch.from_numpy(student), batch["labels"], **options)) == pytest.approx(
        float(hard)
    )
    cut = labels != IGNORED_LABEL
    divergence = (np.exp(targets) * (targets - log_softmax(student / 2.0))).sum(axis=-1)[cut].sum()
    soft = TASK.soft_loss(*chosen, temperature=2.0, **options)
    assert float(soft) == pytest.approx(float(4 * divergence / (num_items or cut.sum())), rel=1e-5)
    with pytest.raises(ValueError, match="padding"):
        TASK.soft_loss(torch.from_numpy(student), torch.from_numpy(teacher), temperature=2.0)
    for given, found in (({"attention_mask": torch.tensor([[1, 0], [1, 1]])}, [0, 2, 3]), ({}, None)):
        examples = TASK.examples(given)
        assert (None if examples is None else examples.tolist()) == found
    known = torch.tensor([5])
    assert TASK.examples({**batch, EXAMPLES: known}) is known


def test_words_without_a_label_take_the_models_own():
    labels = torch.tensor([[IGNORED_LABEL, UNLABELLED, 2]])
    logits = torch.tensor([[[0.0, 1.0, 2.0]] * 3])
    assert TASK.with_own_labels(labels, logits).tolist() == [[IGNORED_LABEL, 2, 2]]


@pytest.mark.parametrize("text", ["a b", "ann goes to new york now"])
def test_words_of_a_text_are_measured_whatever_the_tokenizer(tokenizer, text):
    entities = [[0, 1, 1]] if text == "a b" else [[0, 3, 1], [12, 20, 0]]
    labels = TASK.measured_labels([text, "x"], [entities, []])
    assert labels.shape == (2, len(text.split()))
    assert labels[1].tolist() == [0, *[IGNORED_LABEL] * (len(text.split()) - 1)]
    spans, start = [], 0
    for word in text.split():
        spans.append([start, start + len(word)])
        start += len(word) + 1
    tags = [tag for tag in labels[0].tolist() if tag != IGNORED_LABEL]
    logits = Ragged.of([np.eye(len(TAGS))[tags], np.eye(len(TAGS))[[0]]], np.float32, (len(TAGS),))
    found = TASK.predictions_of_words([text, "x"], Ragged.of([spans, [[0, 1]]], np.int64, (2,)), logits)
    assert np.array_equal(found, labels)
    first = Ragged.of([spans[:1]], np.int64, (2,)), Ragged.of([logits[0][:1]], np.float32, (len(TAGS),))
    cut = TASK.predictions_of_words([text], *first)
    assert cut[0].tolist()[1:] == [0] * (len(tags) - 1), "words that were cut off are outside"
    assert TASK.metrics(found, labels)["entity_f1"] == 1


def test_padded_arrays_are_measured_as_rows_are():
    labels = np.array([[-100, 1, 2, -100], [-100, 0, 3, 4]])
    logits = np.eye(5)[np.array([[0, 1, 2, 0], [0, 0, 3, 0]])]
    found = TASK.compute_metrics(SimpleNamespace(predictions=logits, label_ids=labels))
    assert found == pytest.approx(
        {"entity_f1": 0.5, "entity_precision": 0.5, "entity_recall": 0.5, "token_accuracy": 0.8}
    )
    tags = logits.argmax(axis=-1)
    assert TASK.compute_metrics(SimpleNamespace(predictions=tags, label_ids=labels)) == found
    counts = TASK.label_counts(tags, labels, 2)
    assert (counts.texts.tolist(), counts.predicted.tolist(), counts.right.tolist()) == (
        [1, 1],
        [1, 1],
        [1, 0],
    )
    assert TASK.counted_names(TAGS) == ["city", "name"]


def test_the_head_reads_every_token(tokenizer):
    model = new_model(tokenizer)
    assert not reads_first_token(model)
    assert reads_first_token(new_classifier(BertConfig(**SHAPES), SINGLE_LABEL))
    assert TASK.of_tokens and not SINGLE_LABEL.of_tokens
    torch.manual_seed(0)
    roberta = new_classifier(RobertaConfig(**SHAPES, vocab_size=60, **TASK.model_config(TAGS)), TASK)
    assert head_of(roberta) is roberta.classifier and head_of(model) is model.classifier


def test_rows_of_the_head_are_matched_by_name(tokenizer):
    model = new_model(tokenizer)
    before = model.classifier.weight.detach().clone()
    order = [*tag_names(["name"]), *tag_names(["city"])[1:]]
    match_labels(model, order, "teacher", TASK)
    assert torch.equal(model.classifier.weight, before[[TAGS.index(name) for name in order]])
    with pytest.raises(ModelError, match="only the data has: B-place"):
        match_labels(model, tag_names(["place"]), "teacher", TASK)


def test_a_checkpoint_with_the_head_of_another_task_is_refused(tokenizer, tmp_path):
    save_checkpoint(new_model(tokenizer), tokenizer, tmp_path / "tags")
    assert inspect_checkpoint(tmp_path / "tags", complete=True, task=TASK).num_labels == len(TAGS)
    with pytest.raises(
        ModelError,
        match=r"architectures: BertForTokenC\w+ .*single_label needs BertForSeq.*set task: token_classification ",
    ):
        inspect_checkpoint(tmp_path / "tags", complete=True, task=SINGLE_LABEL)
    inspect_checkpoint(tmp_path / "tags", task=SINGLE_LABEL)  # an encoder to be fine-tuned


def test_logits_are_cached_by_content_in_any_order(tokenizer, split, tmp_path):
    model = new_model(tokenizer)
    save_checkpoint(model, tokenizer, tmp_path / "teacher")
    options: dict[str, Any] = {
        "max_length": 32,
        "cache_dir": tmp_path / "cache",
        "num_threads": 1,
        "task": TASK,
    }
    first = teacher_logits(tmp_path / "teacher", split, **options)
    assert first.computed and isinstance(first.logits, Ragged)
    direct = compute_logits(model, split, pad_token_id=tokenizer.pad_token_id, num_threads=1, batch_size=5)
    np.testing.assert_allclose(flat(first.logits), flat(direct), atol=1e-6)
    alone = model(input_ids=torch.from_numpy(split.row(2)).long()[None]).logits[0]
    np.testing.assert_allclose(first.logits[2], alone.detach().numpy(), atol=1e-5)
    order = np.random.default_rng(0).permutation(len(TEXTS)).tolist()
    shuffled = TASK.tokenize_labelled([TEXTS[n] for n in order], [ENTITIES[n] for n in order], tokenizer, 32)
    again = teacher_logits(tmp_path / "teacher", shuffled, **options)
    assert not again.computed and again.key == first.key
    for place, number in enumerate(order):
        assert np.array_equal(again.logits[place], first.logits[number])
    assert not flat(again.logits).flags.writeable
    (tmp_path / "cache" / first.key / "offsets.npy").unlink()
    assert teacher_logits(tmp_path / "teacher", split, **options).computed, (
        "damaged entries are computed again"
    )


def arguments(folder: Any, **more: Any) -> DistillationTrainingArguments:
    given = {"max_steps": 120, "learning_rate": 3e-3, "per_device_train_batch_size": 8, **more}
    return DistillationTrainingArguments(
        output_dir=str(folder), report_to="none", use_cpu=True, save_strategy="no", logging_strategy="no",
        disable_tqdm=True, **given,
    )  # fmt: skip


def test_entities_are_learned_from_labels_and_from_a_teacher(tokenizer, split, tmp_path):
    teacher = new_model(tokenizer)
    train = TokenizedDataset(split)
    trainer = DistillationTrainer(
        teacher, arguments(tmp_path, alpha=1.0), train_dataset=train, eval_dataset=train, task=TASK,
        data_collator=DistillationCollator(tokenizer.pad_token_id),
    )  # fmt: skip
    trainer.train()
    evaluated = trainer.evaluate()
    assert evaluated["eval_entity_f1"] > 0.95 and evaluated["eval_token_accuracy"] > 0.95
    logits = compute_logits(teacher, split, pad_token_id=tokenizer.pad_token_id, num_threads=1)
    student = student_from_layers(teacher, [1], "the teacher", TASK)
    unlabelled = TASK.tokenize_texts(TEXTS, tokenizer, 32, len(TAGS))
    texts = JoinedDataset([LabelledSplit(unlabelled, logits)])
    DistillationTrainer(
        student, arguments(tmp_path, alpha=0.0, temperature=2.0), train_dataset=texts, task=TASK,
        data_collator=DistillationCollator(tokenizer.pad_token_id),
    ).train()  # fmt: skip
    own = compute_logits(student, split, pad_token_id=tokenizer.pad_token_id, num_threads=1)
    assert TASK.metrics(TASK.predictions(own), split.labels)["entity_f1"] > 0.95, "no label was read"


def test_a_step_is_the_mean_over_all_its_words(tokenizer, split, tmp_path):
    losses = []
    for accumulation, batch in ((1, 8), (4, 2)):
        model = new_model(tokenizer)
        trainer = DistillationTrainer(
            model, arguments(tmp_path, alpha=1.0, max_steps=1, per_device_train_batch_size=batch,
                             gradient_accumulation_steps=accumulation, learning_rate=1e-2),
            train_dataset=TokenizedDataset(split), task=TASK,
            data_collator=DistillationCollator(tokenizer.pad_token_id),
        )  # fmt: skip
        losses.append(trainer.train().training_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_balance_is_refused(tokenizer, split, tmp_path):
    with pytest.raises(InputError, match=r"balance is 'sampler'.*token_classification; accepted: 'none'"):
        DistillationTrainer(
            new_model(tokenizer), arguments(tmp_path, alpha=1.0, balance="sampler"),
            train_dataset=TokenizedDataset(split), task=TASK,
        )  # fmt: skip


def test_a_students_own_pieces_get_the_teachers_logits_word_by_word(tokenizer, split):
    model = new_model(tokenizer)
    logits = compute_logits(model, split, pad_token_id=tokenizer.pad_token_id, num_threads=1)
    kept = pieces_to_keep(tokenizer, [], size=70)
    trimmed = trim_vocabulary(new_model(tokenizer), tokenizer, kept)
    own = TASK.tokenize_labelled(TEXTS, ENTITIES, trimmed, 32)
    assert len(own.input_ids) > len(split.input_ids), "words have more pieces"
    found = TASK.with_logits_of(LabelledSplit(own, logits), TEXTS, tokenizer, trimmed, 32)
    assert isinstance(found.teacher_logits, Ragged) and isinstance(found.tokens.labels, Ragged)
    for number in range(len(TEXTS)):
        theirs = logits[number][split.labels[number] != IGNORED_LABEL]
        ours = found.teacher_logits[number][found.tokens.labels[number] != IGNORED_LABEL]
        assert np.array_equal(ours, theirs)
    theirs, ours = (TASK.tokenize_labelled(TEXTS, ENTITIES, each, 6) for each in (trimmed, tokenizer))
    few = compute_logits(model, theirs, pad_token_id=tokenizer.pad_token_id, num_threads=1)
    cut = TASK.with_logits_of(LabelledSplit(ours, few), TEXTS, trimmed, tokenizer, 6)
    assert (flat(cut.tokens.labels) == IGNORED_LABEL).sum() > (flat(ours.labels) == IGNORED_LABEL).sum()
    assert TASK.with_logits_of(LabelledSplit(own), TEXTS, tokenizer, trimmed, 32).tokens is own


def test_heads_and_rows_are_pruned_by_the_loss_of_words(tokenizer):
    model = new_model(tokenizer)
    narrow(
        model, tokenizer, WidthConfig(num_attention_heads=1, intermediate_size=16), TEXTS, ENTITIES, task=TASK
    )
    assert model.bert.encoder.layer[0].intermediate.dense.out_features == 16
    unlabelled = new_model(tokenizer)
    narrow(unlabelled, tokenizer, WidthConfig(intermediate_size=8), TEXTS, task=TASK)
    assert unlabelled.bert.encoder.layer[1].output.dense.in_features == 8


def test_changes_of_logits_are_those_of_words():
    random = np.random.default_rng(0)
    before = Ragged.of([random.normal(size=(n, 5)) for n in (3, 2, 4)], np.float32, (5,))
    same = compare_logits(before, before, TASK)
    assert same == {"logits_rmse": 0, "predictions_changed": 0}
    other = Ragged.of([before[0], before[1], before[2][:3]], np.float32, (5,))
    assert compare_logits(before, other, TASK)["predictions_changed"] == pytest.approx(1 / 3)
    turned = before.like(-before.values)
    assert compare_logits(before, turned, TASK)["predictions_changed"] == 1


def test_entities_that_no_tag_marks_are_counted_with_an_example():
    texts = ["a NewYork trip", "it ends at 5pm", "ann and bo"]
    labels = [[[2, 5, 0], [5, 9, 1]], [[11, 12, 0], [12, 14, 0]], [[0, 3, 1], [8, 10, 1]]]
    [warning] = TASK.warnings(texts, labels, TAGS)
    assert warning.startswith("2 entities") and "'York' (name) in 'a NewYork trip'" in warning
    assert TASK.warnings(texts[2:], labels[2:], TAGS) == TASK.warnings([], [], TAGS) == []
    assert TASK.warnings(texts[1:], labels[1:], TAGS)[0].startswith("1 entity is")
    assert (TASK.measured_labels(texts[:1], labels[:1]) == [[0, 1, 0]]).all()
