"""Question answering: windows, losses of both ends, decoding against brute force, SQuAD's scores, and training."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from askers import questions, tiny_asker
from transformers import AutoModelForQuestionAnswering, BertConfig, RobertaConfig

from distiltune.errors import InputError, ModelError
from distiltune.training.checkpoints.heads import has_labels, head_of, load_with_labels, match_labels
from distiltune.training.checkpoints.inspection import inspect_checkpoint
from distiltune.training.checkpoints.load import load_classifier, new_classifier, save_checkpoint
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.tokenized import IGNORED_LABEL, JoinedDataset, LabelledSplit, TokenizedDataset
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models.first_token import reads_first_token
from distiltune.training.models.inference import KeptBatches, compute_logits
from distiltune.training.ragged import Ragged, flat
from distiltune.training.student.layers import student_from_layers
from distiltune.training.student.logit_change import StepParity, compare_logits
from distiltune.training.student.vocabulary import pieces_to_keep, trim_vocabulary
from distiltune.training.student.width import WidthConfig, narrow
from distiltune.training.tasks import QUESTION_ANSWERING, SINGLE_LABEL
from distiltune.training.tasks.question_answering import UNLABELLED
from distiltune.training.tasks.spans import scoring
from distiltune.training.tasks.spans.decoding import (
    MOST_TOKENS,
    SpanLogits,
    answers_of,
    best_span,
    candidates,
    decode,
    is_unanswered,
    span_values,
    trimmed,
)
from distiltune.training.tasks.spans.head import LEAST_LOGIT
from distiltune.training.tasks.spans.windows import NO_CONTEXT, Windowing
from distiltune.training.teacher.from_scratch import train_tokenizer
from distiltune.training.teacher.logits_cache import teacher_logits

TASK = QUESTION_ANSWERING
ENDS = ["start", "end"]
ROWS = questions(48, unanswerable=True)
PAIRS, LABELS = [(row[0], row[1]) for row in ROWS], [row[2] for row in ROWS]
LONG = " ".join(context for _, context in dict.fromkeys(PAIRS))
SHAPES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 66, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer([part for pair in PAIRS for part in pair], vocab_size=110)


@pytest.fixture(scope="module")
def split(tokenizer: Any) -> Any:
    return TASK.tokenize_labelled(PAIRS, LABELS, tokenizer, 40)


def new_model(tokenizer: Any, seed: int = 0, kind: Any = BertConfig, **more: Any) -> Any:
    torch.manual_seed(seed)
    shapes = {**SHAPES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **more}
    return new_classifier(kind(**shapes, **TASK.model_config(ENDS)), TASK).eval()


# ---- Windows --------------------------------------------------------------------------------------------


def windows_of_transformers(tokenizer: Any, question: str, context: str, max_length: int) -> list[Any]:
    """The windows that transformers' own truncation makes, with the overlap of ours."""
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True) - len(
        tokenizer(question, add_special_tokens=False)["input_ids"]
    )  # fmt: skip
    found = tokenizer(
        question, context, truncation="only_second", max_length=max_length, stride=room // 3,
        return_overflowing_tokens=True, return_token_type_ids=True,
    )  # fmt: skip
    return list(found.encodings)


@pytest.mark.parametrize("max_length", [20, 33, 48, 400])
def test_windows_are_those_of_transformers_with_an_overlap_of_a_third(tokenizer, max_length):
    pairs = [("who was it?", LONG), ("where was it?", LONG[:60]), ("why was it?", "Ann.")]
    found = Windowing.of_transformers(tokenizer, max_length).windows(pairs)
    expected = [
        (number, each)
        for number, pair in enumerate(pairs)
        for each in windows_of_transformers(tokenizer, *pair, max_length)
    ]
    assert len(found) == len(expected)
    for window, (number, each) in zip(found, expected, strict=True):
        assert (window.ids, window.type_ids, window.question) == (each.ids, each.type_ids, number)
        places = [
            list(place) if sequence == 1 else [NO_CONTEXT] * 2
            for place, sequence in zip(each.offsets, each.sequence_ids, strict=True)
        ]
        assert window.spans.tolist() == places
    assert max(map(len, found)) <= max_length


def test_every_character_of_a_context_is_in_a_window_and_answers_are_whole_in_one(tokenizer):
    windows = Windowing.of_transformers(tokenizer, 40).windows([("who was it?", LONG)])
    covered = {place for each in windows for start, end in each.spans for place in range(start, end)}
    assert all(place in covered for place, character in enumerate(LONG) if not character.isspace())
    whole = Windowing.of_transformers(tokenizer, 4000).windows([("who was it?", LONG)])[0]
    tokens = [tuple(span) for span in whole.spans.tolist() if span[0] != NO_CONTEXT]
    for first in range(len(tokens) - 7):
        wanted = set(tokens[first : first + 7])
        assert any(wanted <= set(map(tuple, each.spans.tolist())) for each in windows)


def test_a_long_question_is_cut_to_half_of_the_room(tokenizer):
    (window, *_) = Windowing.of_transformers(tokenizer, 21).windows([("who was it? " * 20, "Ann was it.")])
    asked = [token for token, place in zip(window.ids, window.spans, strict=True) if place[0] == NO_CONTEXT]
    assert len(asked) == 3 + 9 and len(window) <= 21
    with pytest.raises(ValueError, match="max_length is 3, but the tokenizer adds 3 tokens"):
        Windowing.of_transformers(tokenizer, 3)


@pytest.mark.parametrize("context", ["", "   "])
def test_a_context_without_tokens_is_one_window(tokenizer, context):
    (window,) = Windowing.of_transformers(tokenizer, 30).windows([("who?", context)])
    assert (window.spans == NO_CONTEXT).all() and len(window) > 3


def test_labels_are_the_ends_of_the_first_answer_in_each_window(tokenizer, split):
    assert split.labels.shape == (len(split), 2) and split.labels.dtype == np.int64
    for row in range(len(split)):
        number = int(split.questions.numbers[row])
        spans = split.questions.spans[split.offsets[row] : split.offsets[row + 1]]
        first, last = split.labels[row]
        if not LABELS[number]:
            assert (first, last) == (0, 0)
            continue
        assert [spans[first, 0], spans[last, 1]] == LABELS[number][0]
    assert split.token_types is not None and split.token_types.max() == 1
    start = LONG.index("max")
    cut = TASK.tokenize_labelled([("who was it?", LONG)], [[[start, start + 3]]], tokenizer, 30)
    there = [row for row in range(len(cut)) if cut.labels[row].any()]
    assert 1 <= len(there) < len(cut), "the other windows have no answer"
    for row in there:
        spans = cut.questions.spans[cut.offsets[row] : cut.offsets[row + 1]]  # pyright: ignore[reportOptionalMemberAccess]
        assert (spans[cut.labels[row, 0], 0], spans[cut.labels[row, 1], 1]) == (start, start + 3)


def test_a_split_keeps_its_contexts_and_answers(tokenizer, split):
    assert len(split.questions.contexts) == len(PAIRS) and split.questions.answers.shape[0] == len(PAIRS)
    unlabelled = TASK.tokenize_texts(PAIRS, tokenizer, 18, 2)
    assert (unlabelled.labels == UNLABELLED).all() and unlabelled.questions is not None
    few = LabelledSplit(unlabelled).first(20)
    assert len(few) == (unlabelled.questions.numbers < 20).sum() > 20, "questions are counted, not windows"
    with pytest.raises(ValueError, match="'who\\?' given, without a context"):
        TASK.tokenize_texts(["who?"], tokenizer, 24, 2)


# ---- Losses ---------------------------------------------------------------------------------------------


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.longdouble)
    wide = wide - wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def padded_batch() -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, torch.Tensor, torch.Tensor]:
    """Logits of a student and of a teacher with three lengths, labels, and both padded as they are in training."""
    random = np.random.default_rng(0)
    own, theirs = ([random.normal(size=(n, 2)).astype(np.float32) for n in (5, 8, 3)] for _ in range(2))
    labels = np.array([[1, 3], [0, 0], [UNLABELLED, UNLABELLED]])
    student = Ragged.of(own, np.float32, (2,)).padded(np.float32(LEAST_LOGIT))
    teacher = Ragged.of(theirs, np.float32, (2,)).padded(np.float32(0))  # as the collator pads
    return own, theirs, labels, torch.from_numpy(student), torch.from_numpy(teacher)


@pytest.mark.parametrize("num_items", [None, 7])
def test_losses_are_means_over_both_ends_and_the_windows(num_items):
    own, theirs, labels, student, teacher = padded_batch()
    total = sum(
        float(-log_softmax(own[row][:, end])[labels[row, end]]) for row in range(2) for end in range(2)
    )
    loss = TASK.hard_loss(student, torch.from_numpy(labels), num_items=num_items)
    assert float(loss) == pytest.approx(total / 2 / (num_items or 2), rel=1e-5)
    smooth = sum(
        float(-0.9 * logs[labels[row, end]] - 0.1 * logs.mean())
        for row, end in itertools.product(range(2), range(2))
        for logs in [log_softmax(own[row][:, end])]
    )
    loss = TASK.hard_loss(student, torch.from_numpy(labels), num_items=num_items, label_smoothing=0.1)
    assert float(loss) == pytest.approx(smooth / 2 / (num_items or 2), rel=1e-5), "padding has no share"
    for temperature in (1.0, 4.0, 20.0):
        total = 0.0
        for row, end in itertools.product(range(3), range(2)):
            p, q = (log_softmax(each[row][:, end] / temperature) for each in (theirs, own))
            total += float(temperature**2 * (np.exp(p) * (p - q)).sum())
        student = student.requires_grad_()
        soft = TASK.soft_loss(student, teacher, temperature=temperature, num_items=num_items)
        assert float(soft.detach()) == pytest.approx(total / 2 / (num_items or 3), rel=1e-4)
        (gradient,) = torch.autograd.grad(soft, student)
        assert not gradient[0, 5:].any() and gradient[0, :5].any(), "padding is in no loss"


def test_windows_without_a_label_take_the_models_own():
    _, _, labels, student, _ = padded_batch()
    found = TASK.with_own_labels(torch.from_numpy(labels), student).numpy()
    assert found[:2].tolist() == labels[:2].tolist()
    assert found[2].tolist() == student[2].argmax(0).tolist()
    own = Ragged.of([row[:n].numpy() for row, n in zip(student, (5, 8, 3), strict=True)], np.float32, (2,))
    loss = TASK.validation_loss(own, labels)
    assert loss == pytest.approx(float(TASK.hard_loss(student, torch.from_numpy(labels))))
    ignored = np.full_like(labels, IGNORED_LABEL)
    assert TASK.validation_loss(own, ignored) == 0


# ---- Decoding -------------------------------------------------------------------------------------------


def drawn(
    seed: int, counts: list[int], questions: list[int]
) -> tuple[SpanLogits, list[list[tuple[Any, ...]]]]:
    """Windows with random logits; and every possible answer of each question: value, first character, and last."""
    random = np.random.default_rng(seed)
    logits = [random.normal(size=(n, 2)).astype(np.float32) for n in counts]
    firsts = [random.integers(0, 9) + np.arange(count) for count in counts]
    spans = [np.stack([3 * each, 3 * each + 2], axis=1) for each in firsts]
    null = random.normal(size=len(counts)).astype(np.float32)
    given = SpanLogits(
        Ragged.of(logits, np.float32, (2,)), Ragged.of(spans, np.int64, (2,)), null, np.array(questions)
    )
    every: list[list[tuple[Any, ...]]] = [[] for _ in range(questions[-1] + 1)]
    for number, z, places in zip(questions, logits, spans, strict=True):
        for i in range(len(z)):
            for j in range(i, min(len(z), i + MOST_TOKENS)):
                every[number].append((float(z[i, 0]) + float(z[j, 1]), places[i, 0], places[j, 1]))
    return given, every


@pytest.mark.parametrize("seed", range(4))
def test_the_best_span_is_that_of_brute_force(seed):
    numbers = [0, 0, 1, 2, 2, 2]
    given, every = drawn(seed, [7, 50, 1, 12, 4, 40], numbers)
    decoded = decode(given)
    for threshold in (None, 0.0, 1.5):
        unanswered = is_unanswered(decoded, threshold)
        for number, own in enumerate(candidates(given, decoded, threshold)):
            best, first, last = max(every[number], key=lambda each: each[0])
            null = min(float(each) for each, n in zip(given.null, numbers, strict=True) if n == number)
            assert decoded.best[number] == pytest.approx(best) and decoded.null[number] == pytest.approx(null)
            assert decoded.spans[number].tolist() == [first, last]
            assert unanswered[number] == (threshold is not None and null - best > threshold)
            for temperature in (0.5, 1.0, 3.0):
                weights = [np.exp(each[0] / temperature) for each in every[number]]
                of_null = 0.0 if threshold is None else np.exp(null / temperature)
                same = [
                    w for w, each in zip(weights, every[number], strict=True) if each[1:] == (first, last)
                ]
                right = of_null if unanswered[number] else sum(same)
                assert own.probability(temperature) == pytest.approx(right / (sum(weights) + of_null))


def test_a_span_has_a_maximum_of_tokens_and_does_not_end_before_it_begins():
    logits = np.zeros((60, 2), dtype=np.float32)
    logits[50, 0] = logits[1, 1] = 9.0  # ends before it begins
    logits[2, 0], logits[2 + MOST_TOKENS, 1] = 5.0, 5.0  # one token too long
    first, last, value = best_span(logits)
    assert 0 <= last - first < MOST_TOKENS and value == 9.0
    assert np.isinf(span_values(logits)[59, 1:]).all()
    assert best_span(np.zeros((3, 2), dtype=np.float32))[:2] == (0, 0), "of equal ones, the first"


def test_a_context_without_tokens_has_no_answer():
    given, _ = drawn(0, [0, 3], [0, 1])
    decoded = decode(given)
    assert decoded.spans[0].tolist() == [0, 0] and np.isneginf(decoded.best[0])
    assert is_unanswered(decoded, 5.0)[0] and not is_unanswered(decoded, None)[0]
    assert candidates(given, decoded, None)[0].probability(1.0) == 0
    assert candidates(given, decoded, 0.0)[0].probability(1.0) == 1
    assert answers_of(["", "abc def ghi" * 9], given, None)[0] == ""


def test_blanks_at_the_ends_of_tokens_are_not_part_of_an_answer():
    assert trimmed("a  new york b", (1, 11)) == (3, 11)
    assert trimmed("a b", (1, 2)) == (1, 1)


def test_logits_are_stored_and_selected():
    given, _ = drawn(1, [7, 5, 1], [0, 0, 1])
    again = SpanLogits.of_arrays(given.arrays("test"), "test")
    assert np.array_equal(again.logits.values, given.logits.values) and len(again) == 2
    chosen = given.select([1])
    assert len(chosen) == 1 and np.array_equal(chosen.logits.values, given.logits[2])
    turned = given.with_columns([1, 0])
    assert np.array_equal(turned.logits.values, given.logits.values[:, ::-1])
    broken = {**given.arrays("test"), "test_spans": np.zeros((2, 2))}
    with pytest.raises(ValueError, match="13 logits for 2 tokens"):
        SpanLogits.of_arrays(broken, "test")


# ---- Scores ---------------------------------------------------------------------------------------------


def test_answers_are_compared_as_words_without_punctuation_and_articles():
    assert scoring.normalised_words("The Eiffel-Tower's,  a view!") == ["eiffeltowers", "view"]
    assert scoring.normalised_words("An A the") == []
    assert scoring.normalised_words("theatre another") == ["theatre", "another"]


@pytest.mark.parametrize(
    ("predicted", "answers", "f1", "exact"),
    [
        ("the big apple", ["big apple pie"], 0.8, 0),  # 2 of 2 and 2 of 3 words
        ("New York.", ["new york"], 1, 1),
        ("york new", ["new york"], 1, 0),  # the same words in another order
        ("a b b", ["b c"], 0.5, 0),  # one b of two is common, and `a` is an article
        ("b b c", ["b b d"], 2 / 3, 0),
        ("paris", ["rome", "the city of paris", "paris"], 1, 1),  # the best of several
        ("city of paris", ["paris", "paris france"], 0.5, 0),  # 1/3 and 1: 0.5; 1/3 and 1/2: 0.4
        ("rome", ["paris"], 0, 0),
        ("", [], 1, 1),
        ("rome", [], 0, 0),
        ("", ["rome"], 0, 0),
        ("the", ["an"], 1, 1),  # neither has a word
        ("", ["A", "-"], 1, 1),
        ("", ["A", "rome"], 0, 0),  # answers without words count if there is no other
    ],
)
def test_scores_are_those_worked_by_hand(predicted, answers, f1, exact):
    words, labels = scoring.words_of_answers([predicted]), scoring.words_of_labels([answers])
    assert scoring.scores(words, labels).tolist() == [[pytest.approx(f1), exact]]
    # With other padding.
    others = scoring.words_of_labels([["x y z", "some other words that are many"], answers])
    both = scoring.scores(scoring.words_of_answers(["", predicted]), others)
    assert both[1].tolist() == [pytest.approx(f1), exact]
    assert scoring.is_unanswerable(labels).tolist() == [not answers]
    assert scoring.scores(labels, labels).tolist() == [[1, 1]]


def test_metrics_are_means_and_follow_from_sums_over_questions():
    predictions = scoring.words_of_answers(["big apple", "rome", ""])
    labels = scoring.words_of_labels([["the big apple pie"], ["rome", "italy"], []])
    assert TASK.metrics(predictions, labels) == {
        "f1": pytest.approx(2.8 / 3),
        "exact_match": pytest.approx(2 / 3),
    }
    assert TASK.correct(predictions, labels).tolist() == [False, True, True]
    assert TASK.goal == ("f1", "max") and TASK.metric("exact_match", ENDS).is_accuracy
    for name in TASK.metric_modes:
        metric = TASK.metric(name, ENDS)
        assert metric.statistics is not None and metric.of_statistics is not None
        sums = metric.statistics(predictions, labels)[[0, 0, 1]].sum(axis=0)
        again = metric.measure(predictions[[0, 0, 1]], labels[[0, 0, 1]])
        assert float(metric.of_statistics(sums)) == pytest.approx(again)
        assert metric.measure(labels, labels) == 1, "right answers are right"
    wider = scoring.words_of_answers(["apple big", "rome", "x y z a b c d e f"])
    assert TASK.changed(predictions, wider).tolist() == [True, False, True]
    for given in (predictions[:1], predictions[:0]):
        with pytest.raises(ValueError, match=r"for \d labels"):
            TASK.metrics(given, labels[:0] if not len(given) else labels)
    with pytest.raises(InputError, match=r"metric: 'accuracy' is not a metric"):
        TASK.metric("accuracy", ENDS)


def test_right_answers_are_read_from_the_context():
    labels = TASK.measured_labels(PAIRS, LABELS)
    right = [
        context[own[0][0] : own[0][1]] if own else "" for (_, context), own in zip(PAIRS, LABELS, strict=True)
    ]
    assert TASK.metrics(scoring.words_of_answers(right), labels) == {"f1": 1, "exact_match": 1}


# ---- Models ---------------------------------------------------------------------------------------------


def test_the_model_is_that_of_transformers_with_joined_logits(tokenizer, tmp_path):
    model = new_model(tokenizer)
    save_checkpoint(model, tokenizer, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architectures"] == ["BertForQuestionAnswering"] and config.get("problem_type") is None
    theirs = AutoModelForQuestionAnswering.from_pretrained(str(tmp_path / "model")).eval()
    ids, mask = torch.randint(5, 60, (3, 12)), torch.ones(3, 12, dtype=torch.long)
    mask[1, 7:] = 0
    with torch.inference_mode():
        found = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        expected = theirs(input_ids=ids, attention_mask=mask)
        wide = mask.bool()[:, None, None, :].expand(-1, 1, 12, -1)
        again = model(input_ids=ids, attention_mask=wide).logits
        alone = model(input_ids=ids).logits
    both = torch.stack([expected.start_logits, expected.end_logits], dim=-1)
    assert torch.equal(found.logits[mask == 1], both[mask == 1]) and len(found.hidden_states) == 3
    assert (found.logits[mask == 0] == LEAST_LOGIT).all() and (again[mask == 0] == LEAST_LOGIT).all()
    torch.testing.assert_close(again[mask == 1], both[mask == 1])
    assert (alone > LEAST_LOGIT / 2).all()
    loaded, _ = load_classifier(tmp_path / "model", TASK)
    assert type(loaded).__name__ == "BertForQuestionAnswering" and not reads_first_token(loaded)
    assert head_of(loaded).out_features == 2


def test_a_head_of_transformers_keeps_its_weights_whatever_its_outputs_are_called(tokenizer, tmp_path):
    model = new_model(tokenizer)
    model.config.id2label, model.config.label2id = {0: "LABEL_0", 1: "LABEL_1"}, {"LABEL_0": 0, "LABEL_1": 1}
    save_checkpoint(model, tokenizer, tmp_path / "theirs")
    assert has_labels(tmp_path / "theirs", ENDS, TASK)
    found = load_with_labels(tmp_path / "theirs", ENDS, TASK)
    assert torch.equal(head_of(found).weight, head_of(model).weight)
    match_labels(found, ENDS, task=TASK)
    assert found.config.id2label == {0: "start", 1: "end"}
    torch.manual_seed(0)
    new = new_classifier(
        BertConfig(**SHAPES, vocab_size=len(tokenizer), **SINGLE_LABEL.model_config(["a", "b"]))
    )
    save_checkpoint(new, tokenizer, tmp_path / "labels")
    assert not has_labels(tmp_path / "labels", ENDS, TASK)
    assert load_with_labels(tmp_path / "labels", ENDS, TASK).config.id2label == {0: "start", 1: "end"}


def test_a_checkpoint_with_the_head_of_another_task_is_refused(tokenizer, tmp_path):
    save_checkpoint(new_model(tokenizer), tokenizer, tmp_path / "spans")
    inspect_checkpoint(tmp_path / "spans", complete=True, task=TASK)
    with pytest.raises(
        ModelError,
        match=r"architectures: BertForQuestionAnswering.*single_label needs BertForSeq.*set task: question_answering ",
    ):
        inspect_checkpoint(tmp_path / "spans", complete=True, task=SINGLE_LABEL)
    fields = SINGLE_LABEL.model_config(["a", "b"])
    for problem_type, expected in (
        (
            None,
            r"architectures: BertForSequenceC\w+ .*task question_answering needs BertForQuestionAnswering; use a",
        ),
        (
            "single_label_classification",
            r"problem_type: single_label_c\w+ .*task question_answering needs none.*; set task: single_label ",
        ),
    ):
        config = BertConfig(**SHAPES, vocab_size=len(tokenizer), **{**fields, "problem_type": problem_type})
        save_checkpoint(new_classifier(config), tokenizer, tmp_path / "labels")
        with pytest.raises(ModelError, match=expected):
            inspect_checkpoint(tmp_path / "labels", complete=True, task=TASK)


def test_logits_are_cached_by_content(tokenizer, split, tmp_path):
    model = new_model(tokenizer)
    save_checkpoint(model, tokenizer, tmp_path / "teacher")
    options: dict[str, Any] = {
        "max_length": 40, "cache_dir": tmp_path / "cache", "num_threads": 1, "task": TASK,
    }  # fmt: skip
    first = teacher_logits(tmp_path / "teacher", split, **options)
    again = teacher_logits(tmp_path / "teacher", split, **options)
    assert first.computed and not again.computed and isinstance(again.logits, Ragged)
    kept = KeptBatches(split, 5, tokenizer.pad_token_id).logits(model)
    np.testing.assert_allclose(flat(again.logits), flat(kept), atol=1e-5)
    assert flat(kept).min() > LEAST_LOGIT / 2, "no padding is left"
    alone = model(
        input_ids=torch.from_numpy(split.row(2)).long()[None],
        token_type_ids=torch.from_numpy(split.types(2)).long()[None],
    ).logits[0]
    np.testing.assert_allclose(again.logits[2], alone.detach().numpy(), atol=1e-5)


def arguments(folder: Any, **more: Any) -> DistillationTrainingArguments:
    given = {"max_steps": 150, "learning_rate": 3e-3, "per_device_train_batch_size": 16, **more}
    return DistillationTrainingArguments(
        output_dir=str(folder), report_to="none", use_cpu=True, save_strategy="no", logging_strategy="no",
        disable_tqdm=True, **given,
    )  # fmt: skip


def test_answers_are_learned_from_labels_and_from_a_teacher(tokenizer, split, tmp_path):
    teacher = new_model(tokenizer)
    train = TokenizedDataset(split)
    trainer = DistillationTrainer(
        teacher, arguments(tmp_path, alpha=1.0), train_dataset=train, eval_dataset=train, task=TASK,
        data_collator=DistillationCollator(tokenizer.pad_token_id),
    )  # fmt: skip
    trainer.train()
    assert trainer.evaluate()["eval_both_ends"] > 0.9
    logits = compute_logits(teacher, split, pad_token_id=tokenizer.pad_token_id, num_threads=1)
    measured = TASK.measured_on(split, logits)
    assert measured["f1"] > 0.9 and measured["exact_match"] > 0.9  # pyright: ignore[reportOptionalOperand]
    student = student_from_layers(teacher, [1], "the teacher", TASK)
    unlabelled = TASK.tokenize_texts(PAIRS, tokenizer, 40, 2)
    DistillationTrainer(
        student, arguments(tmp_path, alpha=0.0, temperature=2.0), task=TASK,
        train_dataset=JoinedDataset([LabelledSplit(unlabelled, logits)]),
        data_collator=DistillationCollator(tokenizer.pad_token_id),
    ).train()  # fmt: skip
    own = compute_logits(student, split, pad_token_id=tokenizer.pad_token_id, num_threads=1)
    assert TASK.measured_on(split, own)["f1"] > 0.9, "no label was read"  # pyright: ignore[reportOptionalOperand]


def test_a_step_is_the_mean_over_all_its_windows(tokenizer, split, tmp_path):
    losses = []
    for accumulation, batch in ((1, 8), (4, 2)):
        trainer = DistillationTrainer(
            new_model(tokenizer),
            arguments(tmp_path, alpha=1.0, max_steps=1, per_device_train_batch_size=batch,
                      gradient_accumulation_steps=accumulation, learning_rate=1e-2),
            train_dataset=TokenizedDataset(split), task=TASK,
            data_collator=DistillationCollator(tokenizer.pad_token_id),
        )  # fmt: skip
        losses.append(trainer.train().training_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_students_own_pieces_get_the_teachers_logits_by_their_characters(tokenizer, split):
    model = new_model(tokenizer)
    logits = compute_logits(model, split, pad_token_id=tokenizer.pad_token_id, num_threads=1)
    same = TASK.with_logits_of(LabelledSplit(split, logits), PAIRS, tokenizer, tokenizer, 40)
    inside = split.questions.spans[:, 0] != NO_CONTEXT
    firsts = split.offsets[:-1]
    assert isinstance(same.teacher_logits, Ragged)
    np.testing.assert_allclose(same.teacher_logits.values[inside], flat(logits)[inside], atol=1e-5)
    np.testing.assert_allclose(same.teacher_logits.values[firsts], flat(logits)[firsts], atol=1e-5)
    trimmed_pieces = trim_vocabulary(new_model(tokenizer), tokenizer, pieces_to_keep(tokenizer, [], size=70))
    own = TASK.tokenize_labelled(PAIRS, LABELS, trimmed_pieces, 40)
    assert len(own.input_ids) > len(split.input_ids), "words have more pieces"
    found = TASK.with_logits_of(LabelledSplit(own, logits), PAIRS, tokenizer, trimmed_pieces, 40)
    assert isinstance(found.teacher_logits, Ragged) and found.tokens.questions is not None
    assert np.array_equal(found.teacher_logits.lengths, own.lengths)
    theirs = SpanLogits.of(logits, Ragged(split.questions.spans, split.offsets), split.questions.numbers)
    ours = SpanLogits.of(
        found.teacher_logits,
        Ragged(found.tokens.questions.spans, own.offsets),
        found.tokens.questions.numbers,
    )
    one_window = [n for n in range(len(PAIRS)) if (found.tokens.questions.numbers == n).sum() == 1]
    same_spans = (decode(theirs).spans[one_window] == decode(ours).spans[one_window]).all(axis=1)
    assert len(one_window) > 10 and same_spans.mean() > 0.9, "the best span has the same characters"
    assert TASK.with_logits_of(LabelledSplit(own), PAIRS, tokenizer, trimmed_pieces, 40).tokens is own


def test_heads_and_rows_are_pruned_by_the_loss_of_both_ends(tokenizer):
    model = new_model(tokenizer)
    narrow(
        model, tokenizer, WidthConfig(num_attention_heads=1, intermediate_size=16), PAIRS, LABELS, task=TASK
    )
    assert model.bert.encoder.layer[0].intermediate.dense.out_features == 16
    unlabelled = new_model(tokenizer)
    narrow(unlabelled, tokenizer, WidthConfig(intermediate_size=8), PAIRS, task=TASK)
    assert unlabelled.bert.encoder.layer[1].output.dense.in_features == 8


def test_changes_of_logits_are_those_of_windows(tokenizer):
    random = np.random.default_rng(0)
    before = Ragged.of([random.normal(size=(n, 2)) for n in (9, 8, 12)], np.float32, (2,))
    assert compare_logits(before, before, TASK) == {"logits_rmse": 0, "predictions_changed": 0}
    assert compare_logits(before, before.like(-before.values), TASK)["predictions_changed"] == 1
    assert compare_logits(before, before[:2], TASK)["logits_rmse"] is None, "there are fewer windows"
    parity = StepParity(PAIRS, max_length=40, num_threads=1, use_gpu=False, task=TASK)
    model = new_model(tokenizer)
    parity.before(model, tokenizer)
    parity.after("nothing", model, tokenizer)
    assert parity.steps == [{"step": "nothing", "logits_rmse": 0, "predictions_changed": 0}]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_other_families_learn_answers_as_well(family, tmp_path):
    model, tokenizer = load_classifier(tiny_asker(tmp_path / family, family=family, steps=300), TASK)
    rows = questions(96)
    split = TASK.tokenize_labelled([row[:2] for row in rows], [row[2] for row in rows], tokenizer, 40)
    logits = compute_logits(model, split, pad_token_id=tokenizer.pad_token_id, num_threads=1)
    assert TASK.measured_on(split, logits)["f1"] > 0.9  # pyright: ignore[reportOptionalOperand]


def test_a_family_without_token_types_is_run_without_them(tokenizer):
    model = new_model(tokenizer, kind=RobertaConfig, type_vocab_size=1)
    split = TASK.tokenize_labelled(PAIRS[:4], LABELS[:4], tokenizer, 40)
    logits = compute_logits(model, split, pad_token_id=tokenizer.pad_token_id, num_threads=1)
    assert isinstance(logits, Ragged) and logits.values.shape[1] == 2
