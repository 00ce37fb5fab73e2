"""Texts that only the teacher labels: read or generated, and kept apart from the evaluation splits."""

import json

import numpy as np
import pytest
import yaml
from models import tiny_data
from transformers import PreTrainedTokenizerFast

from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.errors import ConfigError, DataError
from distiltune.search.config import SearchConfig
from distiltune.search.space.students import ONLY_STUDENT, Student
from distiltune.search.space.validation import check_space
from distiltune.search.trial.inputs import TrialInputs
from distiltune.training.data.augmentation import drop_words, mask_pieces, splice
from distiltune.training.data.config import data_config
from distiltune.training.data.rows import normalised
from distiltune.training.data.text_data import load_data
from distiltune.training.data.tokenized import IGNORED_LABEL, JoinedDataset, LabelledSplit, tokenize_split
from distiltune.training.data.transfer_set import extra_splits, extra_texts
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.tasks import SINGLE_LABEL
from distiltune.training.teacher.from_scratch import train_tokenizer

TEXTS = [text for text, _ in tiny_data()]


@pytest.fixture
def files(tmp_path):
    """Keys of the ``data`` section for three files; validation and test each have a text that train lacks."""
    pairs = [*tiny_data(), ("held out to choose by", "label_0"), ("held out to measure on", "label_0")]
    for name, rows in (("train", pairs[:-2]), ("validation", pairs[-2:-1]), ("test", pairs[-1:])):
        labels = [f"label_{n}" for n in range(4)] if name != "train" else []
        lines = [*rows, *((f"{name} {label}", label) for label in labels)]
        (tmp_path / f"{name}.jsonl").write_text(
            "\n".join(json.dumps({"text": text, "label": label}) for text, label in lines)
        )
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "validation", "test")}
    return {"source": "files", **paths}


def data(files, **more):
    config = data_config(**{**files, **more})
    return config, load_data(config)


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "parquet", "hub"])
def test_duplicates_and_texts_of_a_split_are_not_read(files, tmp_path, kind):
    import datasets

    repeated = [
        "Some words",
        "  some   WORDS ",
        "Held out to CHOOSE by",
        "held out to measure on",
        TEXTS[0].upper(),
    ]
    lines = [*repeated, "other words", "and more"]
    path, column = tmp_path / f"more.{kind}", "sentence"
    table = datasets.Dataset.from_dict({column: lines})
    if kind == "txt":
        path.write_text("\n".join([*lines, "", "   "]))
    elif kind == "csv":
        table.to_csv(str(path))
    elif kind == "jsonl":
        table.to_json(str(path))
    elif kind == "parquet":
        table.to_parquet(str(path))
    else:
        datasets.DatasetDict(some=table).save_to_disk(str(path))
    named = {"dataset": str(path), "split": "some"} if kind == "hub" else {"path": str(path)}
    _, read = data(files, unlabelled={**named, "text_column": column})
    assert sorted(read.unlabelled) == ["Some words", "and more", "other words"]
    _, fewer = data(files, unlabelled={**named, "text_column": column, "count": 2})
    assert fewer.unlabelled == read.unlabelled[:2]
    orders = {
        tuple(data(files, unlabelled={**named, "text_column": column, "seed": seed})[1].unlabelled)
        for seed in range(8)
    }
    assert len(orders) > 1
    assert read.fingerprint == data(files)[1].fingerprint


def test_lines_of_a_text_file_end_at_line_feeds_alone(files, tmp_path):
    lines = ["some\u2028words", "a\fform feed", "a\x85next line", "a\x1cseparator", "and a\rreturn"]
    (tmp_path / "more.txt").write_bytes("\r\n".join([*lines, "\f", ""]).encode())
    _, read = data(files, unlabelled={"path": str(tmp_path / "more.txt")})
    assert sorted(read.unlabelled) == sorted(lines)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, r"data\.unlabelled\.path does not exist"),
        ("empty.txt", " \n", "the file is empty"),
        ("known.txt", TEXTS[0], "no text that is not in train, validation or test"),
        ("binary.txt", "a\0b", "not text, it is a binary file"),
        ("other.csv", "words\na\n", "no column 'text'"),
    ],
)
def test_files_without_usable_texts_are_rejected(files, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        data(files, unlabelled={"path": str(tmp_path / name)})


@pytest.mark.parametrize("make", [splice, lambda *a, **k: drop_words(*a, share=0.3, **k)])
def test_generated_texts_are_new_and_a_smaller_count_is_a_prefix(make):
    known = {normalised(text) for text in TEXTS}
    made = make(TEXTS, 50, seed=1, known=known)
    assert len({normalised(text) for text in made}) == len(made) == 50
    assert not {normalised(text) for text in made} & known
    assert make(TEXTS, 20, seed=1, known=known) == made[:20]
    assert make(TEXTS, 50, seed=2, known=known) != made
    excluded = {normalised(text) for text in made[:10]}
    assert not excluded & {normalised(text) for text in make(TEXTS, 50, seed=1, known=known | excluded)}


def test_a_splice_is_a_beginning_and_an_end():
    texts = ["a b c d", "1 2 3"]
    for made in splice(texts, 12, seed=0, known=set()):
        assert any(
            made == " ".join([*first.split()[:i], *second.split()[j:]])
            for first in texts
            for second in texts
            for i in range(1, 5)
            for j in range(4)
        ), made
    assert len(splice(["a"], 5, seed=0, known=set())) == 1  # "a a", and no more


def test_words_are_dropped_with_the_given_probability():
    words = [f"w{n}" for n in range(40)]
    made = drop_words([" ".join(words)], 200, share=0.25, seed=0, known=set())
    kept = [text.split() for text in made]
    assert all(each == [word for word in words if word in set(each)] for each in kept)
    assert np.mean([len(each) for each in kept]) / 40 == pytest.approx(0.75, abs=0.02)
    assert drop_words(["a b"], 9, share=0.99, seed=0, known=set()) in (["a", "b"], ["b", "a"])
    assert drop_words(["word"], 9, share=0.5, seed=0, known=set()) == []


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocab_size=200)


def test_word_pieces_are_masked_with_the_given_probability(tokenizer):
    split = tokenize_split(TEXTS, [0] * len(TEXTS), tokenizer, 32)
    special = tokenizer.all_special_ids
    known = {int(example) for example in split.example_ids}

    def make(count, known=known):
        more = {"mask_token_id": tokenizer.mask_token_id, "special_ids": special, "known": known}
        return mask_pieces(split, count, share=0.3, seed=0, **more)

    made = make(60)
    assert len(made) == len(set(made.example_ids.tolist())) == 60
    assert set(made.labels) == {IGNORED_LABEL}
    masks, pieces = 0, 0
    for number in range(60):
        row = made.row(number)
        origins = [split.row(i) for i in range(len(split)) if len(split.row(i)) == len(row)]
        masked = row == tokenizer.mask_token_id
        assert masked.any()
        origins = [origin for origin in origins if (row[~masked] == origin[~masked]).all()]
        assert any(not np.isin(origin[masked], special).any() for origin in origins)
        masks, pieces = masks + masked.sum(), pieces + (~np.isin(row, special) | masked).sum()
    assert masks / pieces == pytest.approx(0.33, abs=0.06)
    np.testing.assert_array_equal(make(20).example_ids, made.example_ids[:20])
    excluded = set(made.example_ids[:5].tolist())
    assert not excluded & set(make(60, known | excluded).example_ids.tolist())


def test_added_texts_have_no_labels_and_are_in_no_split(files, tmp_path, tokenizer):
    (tmp_path / "more.txt").write_text("entirely other words\nand more of them")
    augmentation = {"spliced": {"count": 40}, "dropped": {"count": 30}, "masked": {"count": 20}}
    config, read = data(files, unlabelled={"path": str(tmp_path / "more.txt")}, augmentation=augmentation)
    texts = extra_texts(config, read)
    assert {kind: len(each) for kind, each in texts.items()} == {
        "unlabelled": 2,
        "spliced": 40,
        "dropped": 30,
    }
    every = [normalised(text) for each in texts.values() for text in each]
    assert len(set(every)) == len(every)
    held = {normalised(text) for split in read.splits.values() for text in split["text"][:]}
    assert not held & set(every)
    splits = extra_splits(config, read, tokenizer, 32, SINGLE_LABEL)
    assert {kind: len(each) for kind, each in splits.items()} == {
        **{kind: len(each) for kind, each in texts.items()},
        "masked": 20,
    }
    assert {label for split in splits.values() for label in split.labels} == {IGNORED_LABEL}
    rows = [each.row(number) for each in splits.values() for number in range(len(each))]
    whole = JoinedDataset(map(LabelledSplit, splits.values()))
    assert len(whole) == len(rows)
    for number, row in enumerate(rows):
        np.testing.assert_array_equal(whole[number]["input_ids"], row)
    assert list(extra_splits(*data(files), tokenizer, 32, SINGLE_LABEL)) == []


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"data": {"unlabelled": {}}}, r"data\.unlabelled.*exactly one of path and dataset"),
        ({"data": {"augmentation": {"dropped": {"count": 5, "share": 1}}}}, r"dropped\.share"),
        (
            {"data": {"augmentation": {"masked": {"count": 5}}}, "student": {"checkpoint": "./some"}},
            r"data\.augmentation\.masked: .*student\.checkpoint",
        ),
        (
            {"data": {"augmentation": {"spliced": {"count": 5}}}, "search": {"space": {"alpha": 1}}},
            r"data\.augmentation\.spliced: .*alpha 1",
        ),
    ],
)
def test_texts_that_nothing_can_be_learned_from_are_rejected(tmp_path, section, message):
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(section))
    with pytest.raises(ConfigError, match=message):
        load_config(str(tmp_path / "job.yaml"), [])


MORE = {"unlabelled": {"path": "x.txt", "count": 9}, "augmentation": {"spliced": {"count": 40}}}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"data.unlabelled.count": {"type": "int", "low": 0, "high": 9}}, None),
        ({"data.augmentation.spliced.count": {"type": "choice", "values": [0, 40]}}, None),
        ({"data.unlabelled.count": 10}, "a whole number from 0 to data.unlabelled.count, 9"),
        ({"data.augmentation.spliced.count": {"type": "float", "low": 0, "high": 40}}, "0.0 is rejected"),
        (
            {"data.augmentation.masked.count": 4},
            "there are no such texts; configure them in data.augmentation.masked",
        ),
        ({"data.augmentation.splice.count": 4}, "did you mean 'data.augmentation.spliced.count'"),
    ],
)
def test_counts_of_texts_can_be_searched(space, message):
    values = {"space": {"num_train_epochs": 1, **space}}
    arguments = SearchConfig.model_validate(values), TrainingConfig(), None, data_config(**MORE)
    if message is None:
        check_space(*arguments)
        return
    with pytest.raises(ConfigError, match=message):
        check_space(*arguments)


def test_a_trial_takes_the_first_texts_of_each_kind(tokenizer):
    splits = [
        tokenize_split(texts, [0] * len(texts), tokenizer, 16)
        for texts in (TEXTS[:5], TEXTS[5:9], TEXTS[9:12])
    ]
    logits = np.arange(24, dtype=np.float32).reshape(12, 2)
    kinds = {"train": (0, 5), "unlabelled": (5, 9), "spliced": (9, 12)}
    train = {
        kind: LabelledSplit(split, logits[slice(*bounds)])
        for (kind, bounds), split in zip(kinds.items(), splits, strict=True)
    }
    inputs = TrialInputs({ONLY_STUDENT: Student("student")}, train, splits[0], None, ["a", "b"])
    assert inputs.trained_on({"alpha": 0.5}) == list(train.values())
    found = JoinedDataset(
        inputs.trained_on({"data.unlabelled.count": 1, "data.augmentation.spliced.count": 2})
    )
    whole = JoinedDataset(train.values())
    rows = [0, 1, 2, 3, 4, 5, 9, 10]
    assert len(found) == len(rows)
    assert found.lengths.tolist() == whole.lengths[rows].tolist()
    for number, row in enumerate(rows):
        assert found[number]["labels"] == whole[row]["labels"]
        np.testing.assert_array_equal(found[number]["input_ids"], whole[row]["input_ids"])
        np.testing.assert_array_equal(found[number]["teacher_logits"], logits[row])
    assert "teacher_logits" not in JoinedDataset(train.values(), with_teacher=False)[0]

    def num_texts(**counts):
        return len(JoinedDataset(inputs.trained_on({f"data.{name}": n for name, n in counts.items()})))

    assert num_texts(**{"unlabelled.count": 100}) == 12
    assert num_texts(**{"augmentation.spliced.count": 0}) == 9
    some = train["unlabelled"].first(2).tokens
    assert some.input_ids.tolist() == [*some.row(0), *some.row(1)]
    assert some.example_ids.tolist() == splits[1].example_ids[:2].tolist()


def test_no_texts_are_added_by_default():
    assert JobConfig().data.unlabelled is None
    assert not any(each for _, each in JobConfig().data.augmentation)
