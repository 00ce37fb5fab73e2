"""Pairs of texts: reading, checks, held-out splits, added texts, and tokenization with types."""

import csv
import json
import logging

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from distiltune.cluster.specification.config import JobConfig
from distiltune.errors import DataError
from distiltune.texts import all_parts, texts_of
from distiltune.training.data.analysis.diagnostics import near_duplicates
from distiltune.training.data.analysis.guess import guess_columns
from distiltune.training.data.analysis.lengths import count_tokens
from distiltune.training.data.augmentation import drop_words, splice
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.config import data_config
from distiltune.training.data.rows import normalised
from distiltune.training.data.sources.table import open_table
from distiltune.training.data.text_data import load_data
from distiltune.training.data.tokenized import (
    LabelledSplit,
    TokenizedDataset,
    selected,
    tokenize_split,
)
from distiltune.training.data.transfer_set import extra_splits, extra_texts
from distiltune.training.tasks import SINGLE_LABEL
from distiltune.training.teacher.from_scratch import train_tokenizer

ROWS = [
    (
        f"{colour} boat number {n}",
        f"the {colour if n % 2 else 'grey'} boat {n} {'early' * (n % 3)}",
        "same" if n % 2 else "other",
    )
    for n in range(24)
    for colour in ("red", "blue")
]
MISSING = ["no column 'hypotesis'", "data.text_pair_column", "nearest: 'hypothesis'", "second text"]
BLANK = ["no row of the train split has a second text", "line 2", "text_pair is empty or blank"]
NAMES = ("premise", "hypothesis", "label")


def write(path, rows, names=NAMES):
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows([names, *rows])
        else:
            file.writelines(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    return path


def loaded(path, **options):
    given = {"text_column": "premise", "text_pair_column": "hypothesis", **options}
    return load_data(data_config(source="files", train=str(path), **given))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([row[:2] for row in ROWS], vocab_size=200)


# ---- Reading ----------------------------------------------------------------------------------------------------


def test_both_texts_are_read_from_every_format(tmp_path):
    found = [loaded(write(tmp_path / f"data{suffix}", ROWS)) for suffix in (".csv", ".jsonl")]
    for data in found:
        assert data.has_pairs
        assert data.splits["train"].column_names == ["text", "text_pair", "label"]
        every = [pair for split in data.splits.values() for pair in texts_of(split)]
        assert sorted(every) == sorted(row[:2] for row in ROWS)
    assert found[0].fingerprint == found[1].fingerprint
    single = load_data(data_config(source="files", train=str(tmp_path / "data.csv"), text_column="premise"))
    assert not single.has_pairs
    assert texts_of(single.splits["train"]) == single.splits["train"]["text"][:]
    changed = [(*ROWS[0][:1], f"{ROWS[0][1]} more", ROWS[0][2]), *ROWS[1:]]
    assert loaded(write(tmp_path / "changed.csv", changed)).fingerprint != found[0].fingerprint


def test_a_row_without_one_of_the_texts_is_dropped_and_counted(tmp_path, caplog):
    rows = [*ROWS, ("red boat", "", "same"), (" ", "a boat", "same"), ("red boat", "   ", "other")]
    with caplog.at_level(logging.WARNING):
        data = loaded(write(tmp_path / "data.csv", rows))
    assert sum(map(len, data.splits.values())) == len(ROWS)
    assert (
        "3 rows of 51 in the train split dropped, without one of the two texts; the first: line 50"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("rows", "options", "parts"),
    [
        (ROWS, {"text_pair_column": "hypotesis"}, MISSING),
        ([(a, "", c) for a, _, c in ROWS], {}, BLANK),
        ([("", b, c) for _, b, c in ROWS], {}, ["no row of the train split has a text", "line 2"]),
    ],
    ids=["missing", "all blank", "no first text"],
)  # fmt: skip
def test_invalid_pairs_are_one_clear_error(tmp_path, rows, options, parts):
    with pytest.raises(DataError) as caught:
        loaded(write(tmp_path / "data.csv", rows), **options)
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_an_invalid_second_text_is_reported_with_its_row(tmp_path):
    path = write(tmp_path / "data.jsonl", [*ROWS[:5], ("red", 7, "same"), ("red", ["x"], "same"), *ROWS[5:]])
    with pytest.raises(
        DataError, match=r"2 faults: line 6: text_pair is 7 \(int\), not text; line 7: text_pair is"
    ):
        loaded(path)


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ({"text_pair_column": "text"}, ["text_pair_column", "'text'", "column of the text"]),
        ({"text_pair_column": "label"}, ["text_pair_column", "'label'"]),
        ({"text_pair_column": "b", "text_template": "{a}"}, ["text_pair_column", "text_template"]),
        ({"text_pair_column": "b", "unlabelled": {"path": "u.csv"}}, ["unlabelled.text_pair_column"]),
        ({"unlabelled": {"path": "u.csv", "text_pair_column": "b"}}, ["unlabelled.text_pair_column", "'b'"]),
        ({"text_pair_column": "b", "unlabelled": {"path": "u.txt", "text_pair_column": "b"}}, ["u.txt"]),
    ],
)
def test_contradicting_keys_are_rejected(section, parts):
    with pytest.raises(ValueError, match="text_pair_column") as caught:
        data_config(source="files", train="x.csv", **section)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_query_for_pairs_is_refused():
    data = {"source": "files", "train": "x.csv", "text_pair_column": "b"}
    with pytest.raises(ValueError, match=r"benchmark\.query: 'a text' given, but texts are pairs"):
        JobConfig.model_validate({"data": data, "benchmark": {"query": "a text"}})
    assert JobConfig.model_validate({"data": data}).data.takes_pairs


# ---- Division and analysis --------------------------------------------------------------------------------------


def test_equal_pairs_stay_together_and_equal_first_texts_do_not(tmp_path):
    rows = [row for row in ROWS[:20] for _ in range(3)]
    data = loaded(write(tmp_path / "equal.csv", rows))
    places = {}
    for name, split in data.splits.items():
        for pair in texts_of(split):
            places.setdefault(normalised(pair), set()).add(name)
    assert {len(each) for each in places.values()} == {1}
    assert normalised(("A  b", "c")) == normalised(("a b", "C")) != normalised(("a", "b c"))
    rows = [("one text", f"second {n}", "same" if n % 2 else "other") for n in range(30)]
    assert all(len(split) for split in loaded(write(tmp_path / "first.csv", rows)).splits.values())


def test_pairs_in_two_splits_are_counted_by_both_texts(tmp_path, caplog):
    train = write(tmp_path / "train.csv", ROWS)
    swapped = [(b, a, c) for a, b, c in ROWS[:10]]
    test = write(tmp_path / "test.csv", [*swapped, ROWS[3], ROWS[7]])
    with caplog.at_level(logging.WARNING):
        loaded(train, test=str(test), validation=str(write(tmp_path / "validation.csv", swapped[2:])))
    [line] = [each for each in caplog.messages if "more than one split" in each]
    assert "train and test: 2" in line and "train and validation" not in line
    assert str(min(ROWS[3][:2], ROWS[7][:2])) in line


def test_near_duplicates_compare_both_texts_in_their_order():
    a, b = "when is the next tram to the harbour", "a tram goes to the harbour every ten minutes today"
    found = near_duplicates(
        {"train": [(a, b)], "test": [(b, a), (a, f"{b} again"), (a, "something else entirely")]}
    )
    assert [(each.split, each.row) for each in found] == [("test", 1)]


def test_lengths_count_both_texts(tokenizer):
    pairs = [row[:2] for row in ROWS]
    expected = [len(tokenizer(a, b)["input_ids"]) for a, b in pairs]
    assert count_tokens(tokenizer, pairs).tolist() == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("sentence1", "sentence2", "label"), ("sentence1", "sentence2")),
        (("Premise", "hypothesis", "gold"), ("Premise", "hypothesis")),
        (("question", "context", "label"), ("question", "context")),
        (("Text A", "sentence_1", "Sentence-2", "y"), ("sentence_1", "Sentence-2")),
        (("text", "other", "label"), ("text", None)),
        (("sentence2", "body", "label"), ("body", None)),
    ],
)
def test_columns_of_pairs_are_found(tmp_path, names, expected):
    more = len(names) - 3
    rows = [(*[f"{row[0]} x"] * more, *row) for row in ROWS]
    guess = guess_columns(open_table(str(write(tmp_path / "data.csv", rows, names))))
    assert (guess.text, guess.pair, guess.label) == (*expected, names[-1])
    assert not {guess.text, guess.pair, guess.label} & set(guess.others)


# ---- Tokens -----------------------------------------------------------------------------------------------------


def test_pairs_have_the_tokenizers_own_encoding_and_types(tokenizer):
    pairs = [
        *(row[:2] for row in ROWS[:6]),
        ("red " * 30, "blue boat"),
        ("blue", "boat " * 40),
        ("red " * 20, "boat " * 21),
    ]
    split = tokenize_split(pairs, None, tokenizer, 24)
    for number, (a, b) in enumerate(pairs):
        own = tokenizer(a, b, truncation="longest_first", max_length=24)
        assert split.row(number).tolist() == own["input_ids"]
        assert split.types(number).tolist() == own["token_type_ids"]
    assert split.token_types.dtype == np.int8
    single = tokenize_split(all_parts(pairs), None, tokenizer, 24)
    assert single.token_types is None and single.types(0) is None


def test_ids_of_examples_cover_both_texts_and_types(tokenizer):
    first, second = ("red boat", "blue boat"), ("red", "boat blue boat")
    split = tokenize_split([first, first[::-1], second, first], None, tokenizer, 24)
    assert len(set(split.example_ids.tolist())) == 3
    assert split.example_ids[0] == split.example_ids[3]
    alike = tokenize_split([first], None, _without_types(tokenizer), 24)
    assert alike.row(0).tolist() == split.row(0).tolist()
    assert alike.token_types is None and alike.example_ids[0] != split.example_ids[0]


def _without_types(tokenizer):
    """Return the tokenizer as one that gives every token the type 0, like RoBERTa's."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=special
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokenizer.special_tokens_map)


def test_types_stay_with_their_rows(tokenizer):
    pairs = [row[:2] for row in ROWS[:8]]
    split = tokenize_split(pairs, None, tokenizer, 24)
    for part, rows in ((LabelledSplit(split).first(3).tokens, [0, 1, 2]), (selected(split, [5, 2]), [5, 2])):
        for place, row in enumerate(rows):
            np.testing.assert_array_equal(part.types(place), split.types(row))
            assert part.example_ids[place] == split.example_ids[row]
    items = [TokenizedDataset(split)[row] for row in range(3)]
    batch = DistillationCollator(tokenizer.pad_token_id)(items)
    assert batch["token_type_ids"].shape == batch["input_ids"].shape
    for row in range(3):
        assert batch["token_type_ids"][row, : split.lengths[row]].tolist() == split.types(row).tolist()
        assert not batch["token_type_ids"][row, split.lengths[row] :].any()


# ---- Added texts ------------------------------------------------------------------------------------------------


def test_spliced_and_shortened_pairs_keep_two_texts(tokenizer):
    pairs = [row[:2] for row in ROWS]
    known = {normalised(pair) for pair in pairs}
    spliced = splice(pairs, 20, seed=0, known=known)
    dropped = drop_words(pairs, 20, share=0.4, seed=0, known=known)
    words = [{word for pair in pairs for word in pair[place].split()} for place in (0, 1)]
    for made in (spliced, dropped):
        assert len(made) == 20
        for pair in made:
            assert isinstance(pair, tuple) and all(part.strip() for part in pair)
            assert [set(part.split()) <= words[place] for place, part in enumerate(pair)] == [True, True]
            assert normalised(pair) not in known
    assert splice(pairs, 5, seed=0, known=known) == spliced[:5]


def test_unlabelled_and_masked_pairs_are_added(tmp_path, tokenizer):
    data_file = write(tmp_path / "data.csv", ROWS)
    others = [("green boat", "a green boat goes"), ROWS[0][:2], ("green boat", "")]
    unlabelled = write(tmp_path / "more.jsonl", others, ("text", "second"))
    options = {
        "unlabelled": {"path": str(unlabelled), "text_pair_column": "second"},
        "augmentation": {"masked": {"count": 12}, "spliced": {"count": 3}},
    }
    data = loaded(data_file, **options)
    assert data.unlabelled == [("green boat", "a green boat goes")]
    config = data_config(
        source="files", train=str(data_file), text_column="premise", text_pair_column="hypothesis", **options
    )
    assert {kind: len(found) for kind, found in extra_texts(config, data).items()} == {
        "unlabelled": 1,
        "spliced": 3,
    }
    masked = extra_splits(config, data, tokenizer, 24, SINGLE_LABEL)["masked"]
    train = SINGLE_LABEL.tokenize(data.splits["train"], tokenizer, 24)
    shapes = {(tuple(train.types(row)), train.row(row)[-1]) for row in range(len(train))}
    for row in range(len(masked)):
        assert (masked.row(row) == tokenizer.mask_token_id).any()
        assert (tuple(masked.types(row)), masked.row(row)[-1]) in shapes
