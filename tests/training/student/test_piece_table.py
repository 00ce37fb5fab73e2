"""The table of a student without attention: the teacher's states of single pieces, their principal components."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import tiny_classifier, tiny_data
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from distiltune.errors import ModelError
from distiltune.progress import Progress
from distiltune.storage.store import Store
from distiltune.training.checkpoints.load import load_classifier, load_tokenizer
from distiltune.training.student import piece_states
from distiltune.training.student.build import build_student
from distiltune.training.student.config import student_config
from distiltune.training.student.piece_states import (
    StatesCache,
    compute_states,
    special_tokens,
    states_of_pieces,
)
from distiltune.training.student.piece_table import TABLE_STD, principal_components, table_of_states

TEXTS = [text for text, _ in tiny_data()]
LABELS = [f"label_{n}" for n in range(4)]
FAMILIES = ("bert", "distilbert", "roberta")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: tiny_classifier(tmp_path_factory.mktemp(name), family=name) for name in FAMILIES}


@pytest.fixture
def teacher(teachers) -> Path:
    return teachers["bert"]


def built(teacher: Path, folder: Path, **given: Any) -> tuple[Any, Any, dict[str, Any]]:
    cache = given.pop("states", None)
    own = {} if given.get("kind") == "static" else {"num_filters": 8}
    config = student_config(**{"kind": "convolution", "hidden_size": 6, **own, **given})
    texts = (TEXTS, ["more texts"])
    record = build_student(config, teacher, LABELS, folder, texts=texts, states=cache)
    return *load_classifier(folder), record


def test_components_are_those_of_a_singular_value_decomposition():
    states = np.random.default_rng(0).normal(size=(50, 7)) @ np.diag([5, 4, 3, 2, 1, 0.5, 0.1]) + 3
    found = principal_components(states.astype(np.float32), 4)
    left, values, _ = np.linalg.svd(states - states.mean(axis=0), full_matrices=False)
    expected = (left * values)[:, :4]
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=1e-4)
    assert found.dtype == np.float32
    assert np.all(np.diff(found.std(axis=0)) < 0)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)


def test_fewer_columns_are_the_first_of_more_and_signs_do_not_depend_on_chance():
    states = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    whole = principal_components(states, 6)
    np.testing.assert_array_equal(principal_components(states, 2), whole[:, :2])
    shuffled = np.random.default_rng(2).permutation(len(states))
    np.testing.assert_allclose(principal_components(states[shuffled], 6), whole[shuffled], atol=1e-5)


def test_a_table_has_a_fixed_spread_even_of_few_or_equal_states():
    states = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    for scale in (1e-3, 1.0, 1e3):
        assert table_of_states(states * np.float32(scale), 3).std() == pytest.approx(TABLE_STD, rel=1e-5)
    assert np.isfinite(table_of_states(states[:2], 6)).all()
    assert not table_of_states(np.ones((4, 3), dtype=np.float32), 2).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_state_is_that_of_the_piece_between_special_tokens(teachers, family):
    model, tokenizer = load_classifier(teachers[family])
    pieces = np.array([5, 0, 17, 60])
    states = compute_states(model, tokenizer, pieces, num_threads=1)
    for piece, state in zip(pieces, states, strict=True):
        ids = torch.tensor([[tokenizer.cls_token_id, piece, tokenizer.sep_token_id]])
        with torch.no_grad():
            last = model.base_model(input_ids=ids).last_hidden_state[0]
        np.testing.assert_allclose(state, last.mean(dim=0).numpy(), atol=1e-5)


def byte_level() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer without special tokens, as of GPT-2."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<pad>"]
    own = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=own, pad_token="<pad>")


def sentence_pieces() -> PreTrainedTokenizerFast:
    """A SentencePiece tokenizer that marks only the end of a text, as of T5."""
    scores = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), ("a", -2.0), ("▁a", -1.5)]
    own = Tokenizer(models.Unigram(scores, unk_id=2))
    own.pre_tokenizer = pre_tokenizers.Metaspace()
    own.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def test_special_tokens_are_those_of_any_tokenizer(teacher):
    tokenizer = load_tokenizer(teacher)
    assert special_tokens(tokenizer) == ([tokenizer.cls_token_id], [tokenizer.sep_token_id])
    assert special_tokens(byte_level()) == ([], [])
    assert special_tokens(sentence_pieces()) == ([], [1])


def test_rows_are_the_scaled_components_of_the_states(teacher, tmp_path):
    model, tokenizer, record = built(teacher, tmp_path / "s")
    rows = model.get_input_embeddings().weight.detach().numpy()
    states, name = states_of_pieces(teacher, range(len(tokenizer)))
    expected = table_of_states(states, 6)
    expected[tokenizer.pad_token_id] = 0
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert (record["num_embeddings"], record["pieces"]) == (len(tokenizer), name)


def test_the_weights_of_pieces_begin_equal_in_a_static_student(teacher, tmp_path):
    model, tokenizer, record = built(teacher, tmp_path / "s", kind="static")
    rows = model.get_input_embeddings().weight.detach()
    assert rows.shape == (len(tokenizer), 7)
    assert not rows[:, 6].any() and rows[:, :6].any()
    assert record["shape"] == "maximum and mean of word pieces of 6 dimensions"


def test_a_random_table_runs_no_teacher(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(piece_states, "load_classifier", None)
    model, tokenizer, record = built(teacher, tmp_path / "s", table="random")
    rows = model.get_input_embeddings().weight
    assert record["pieces"] is None
    assert not rows[tokenizer.pad_token_id].any() and rows.std() > 0


def test_several_sizes_run_the_teacher_once(teacher, tmp_path, monkeypatch):
    cache = StatesCache(Store(str(tmp_path / "store")), "cache/pieces")
    fresh, _, _ = built(teacher, tmp_path / "fresh", hidden_size=4)
    first, _, record = built(teacher, tmp_path / "a", states=cache)
    monkeypatch.setattr(piece_states, "load_classifier", None)
    second, _, again = built(teacher, tmp_path / "b", states=cache, hidden_size=4)
    assert record["pieces"] == again["pieces"]
    assert [path.name for path in (tmp_path / "store/cache/pieces").iterdir()] == [record["pieces"]]
    for name, value in fresh.state_dict().items():  # random weights do not depend on the cache
        assert torch.equal(value, second.state_dict()[name]), name
    assert first.config.hidden_size == 6


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY nonsense", None])
def test_damaged_states_are_computed_again(teacher, tmp_path, caplog, damage):
    cache = StatesCache(Store(str(tmp_path)), "cache/pieces")
    states, name = states_of_pieces(teacher, range(20), cache=cache)
    path = tmp_path / "cache/pieces" / name / "states.npy"
    if damage is None:
        np.save(path, states + 1)
    else:
        path.write_bytes(damage)
    with caplog.at_level(logging.WARNING, "distiltune"):
        again, _ = states_of_pieces(teacher, range(20), cache=cache)
    np.testing.assert_array_equal(again, states)
    assert name in caplog.text
    np.testing.assert_array_equal(np.load(path), states)


def test_other_pieces_and_another_teacher_have_states_of_their_own(teachers):
    names = {states_of_pieces(teachers["bert"], range(n))[1] for n in (5, 6)}
    names |= {states_of_pieces(teachers["distilbert"], range(5))[1]}
    assert len(names) == 3


def test_progress_counts_pieces(teacher, monkeypatch):
    monkeypatch.setattr(piece_states, "_REPORT_EVERY_S", -1.0)
    monkeypatch.setattr(piece_states, "_BATCH_SIZE", 8)
    reported: list[Progress] = []
    states_of_pieces(teacher, range(20), report=reported.append)
    assert [(each.values["done"], each.values["total"]) for each in reported] == [(8, 20), (16, 20), (20, 20)]


def test_states_that_are_not_finite_are_refused(teacher):
    model, tokenizer = load_classifier(teacher)
    with torch.no_grad():
        model.get_input_embeddings().weight[4] = float("inf")
    with pytest.raises(ModelError, match="not finite"):
        compute_states(model, tokenizer, np.arange(8), num_threads=1)


def test_a_trimmed_vocabulary_keeps_the_rows_of_its_pieces(teacher, tmp_path):
    model, tokenizer, record = built(teacher, tmp_path / "s", vocabulary={"min_count": 2})
    before = load_tokenizer(teacher)
    kept = before.convert_tokens_to_ids(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    assert len(tokenizer) < len(before)
    expected = table_of_states(states_of_pieces(teacher, kept)[0], 6)
    expected[tokenizer.pad_token_id] = 0
    np.testing.assert_allclose(model.get_input_embeddings().weight.detach().numpy(), expected, atol=1e-5)
    assert record["num_embeddings"] == model.config.vocab_size == len(tokenizer)


@pytest.mark.parametrize("kind", ["convolution", "static"])
def test_pieces_share_the_rows_of_the_nearest(teacher, tmp_path, kind):
    vocabulary = {"size": 20, "others": "nearest"}
    model, tokenizer, record = built(teacher, tmp_path / "s", kind=kind, vocabulary=vocabulary)
    assert len(tokenizer) == model.config.vocab_size == len(load_tokenizer(teacher))
    assert record["num_embeddings"] == 20
    assert len(model.get_input_embeddings().weight.unique(dim=0)) == 20


@pytest.mark.parametrize("vocabulary", [None, {"min_count": 2}, {"size": 20, "others": "nearest"}])
def test_rows_of_pairs_are_not_those_of_pieces(teacher, tmp_path, vocabulary):
    given = {"kind": "static", "hashed_bigrams": 11, "vocabulary": vocabulary}
    model, tokenizer, record = built(teacher, tmp_path / "s", **given)
    table = model.get_input_embeddings().weight
    num_pieces = model.config.vocab_size
    assert num_pieces == len(tokenizer)
    assert len(table) == num_pieces + 11
    assert len(table[num_pieces:].unique(dim=0)) == 11, "none is shared, and none is a piece's"
    assert record["num_embeddings"] == (20 if vocabulary and "size" in vocabulary else num_pieces)
    assert record["shape"] == "maximum and mean of word pieces and 11 hashed pairs of 6 dimensions"


def test_a_random_table_has_no_nearest_rows():
    with pytest.raises(
        ValidationError, match=r"vocabulary\.others: 'nearest' given, but with table 'random'"
    ):
        student_config(kind="static", table="random", vocabulary={"others": "nearest"})
