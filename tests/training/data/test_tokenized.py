"""Tokenized splits: token ids, ids of examples, and datasets over read-only arrays."""

from pathlib import Path

import numpy as np
import pytest
from models import tiny_classifier, tiny_data

from distiltune.training.checkpoints.load import load_tokenizer
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.tokenized import TokenizedDataset, TokenizedSplit, tokenize_split

TEXTS = ["open early topic1", "red", "open early topic1", "slow fast big small old new warm cold left right"]
LABELS = [1, 0, 2, 3]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return load_tokenizer(tiny_classifier(tmp_path_factory.mktemp("model")))


@pytest.fixture
def split(tokenizer) -> TokenizedSplit:
    return tokenize_split(TEXTS, LABELS, tokenizer, 8)


def test_rows_match_the_tokenizer_and_are_cut_to_max_length(split, tokenizer) -> None:
    assert len(split) == len(TEXTS)
    for index, text in enumerate(TEXTS):
        expected = tokenizer(text, truncation=True, max_length=8)["input_ids"]
        assert split.row(index).tolist() == expected
        assert expected[0] == tokenizer.cls_token_id
        assert expected[-1] == tokenizer.sep_token_id
    assert split.lengths.tolist() == [len(split.row(index)) for index in range(len(split))]
    assert split.lengths.max() == 8
    assert (split.input_ids.dtype, split.offsets.dtype, split.labels.dtype) == (np.int32, np.int64, np.int64)


def test_example_ids_follow_content(split, tokenizer) -> None:
    first, other, same, _ = split.example_ids
    assert first == same != other
    assert tokenize_split(["red"], [3], tokenizer, 8).example_ids[0] == other
    assert tokenize_split(TEXTS[3:], [3], tokenizer, 9).example_ids[0] != split.example_ids[3]


def test_an_empty_list_of_texts_is_an_empty_split(tokenizer) -> None:
    empty = tokenize_split([], [], tokenizer, 8)
    assert len(empty) == 0
    assert empty.lengths.tolist() == []


def test_read_only_memory_mapped_arrays_are_copied_out(split, tmp_path: Path) -> None:
    logits = np.arange(16, dtype=np.float32).reshape(4, 4)
    np.save(tmp_path / "logits.npy", logits)
    np.save(tmp_path / "ids.npy", split.input_ids)
    mapped = TokenizedSplit(
        np.load(tmp_path / "ids.npy", mmap_mode="r"), split.offsets, split.labels, split.example_ids
    )
    dataset = TokenizedDataset(mapped, np.load(tmp_path / "logits.npy", mmap_mode="r"))
    batch = DistillationCollator(0)([dataset[index] for index in range(4)])
    batch["input_ids"][:] = 0
    batch["teacher_logits"][:] = 0
    assert dataset[1]["teacher_logits"].tolist() == [4, 5, 6, 7]
    assert dataset[1]["input_ids"].tolist() == split.row(1).tolist()
    assert dataset[1]["labels"] == 0
    assert dataset.lengths.tolist() == split.lengths.tolist()
    assert "teacher_logits" not in TokenizedDataset(split)[0]


def test_logits_for_another_number_of_texts_are_rejected(split) -> None:
    with pytest.raises(ValueError, match="3 rows for 4 texts"):
        TokenizedDataset(split, np.zeros((3, 4), np.float32))


def test_tiny_data_has_the_requested_size() -> None:
    rows = tiny_data(num_labels=3, per_label=5)
    assert len(rows) == 15
    assert {label for _, label in rows} == {"label_0", "label_1", "label_2"}
