"""``distiltune label``: a file with the logits of a checkpoint or an artifact teaches the same as the model."""

import csv
import json

import numpy as np
import pytest
from artifacts import LABELS as OF_ARTIFACT
from artifacts import TEXTS, tiny_artifact
from pairs import LABELS, MAX_LENGTH, drawn_pairs, logits_of, pair_classifier

from distiltune.export.runtime.classifier import TextClassifier
from distiltune.training.checkpoints.heads import LabelMatch
from distiltune.training.checkpoints.load import load_classifier
from distiltune.training.tasks import SINGLE_LABEL
from distiltune.training.teacher.config import LogitsFileConfig
from distiltune.training.teacher.logits_file import read_logits

PAIRS = drawn_pairs(30, seed=3)


def joined(path, names, texts):
    config = LogitsFileConfig(path=str(path))
    has_pairs = isinstance(texts[0], tuple)
    return read_logits(config, SINGLE_LABEL, names, LabelMatch(), has_pairs=has_pairs).of(texts)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return pair_classifier(tmp_path_factory.mktemp("label") / "teacher")


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_file_of_logits_teaches_the_same_as_its_checkpoint(here, checkpoint, tmp_path, capsys, suffix):
    rows = [{"premise": a, "hypothesis": b} for a, b in [*PAIRS, PAIRS[0]]]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = f"teacher.{suffix}"
    columns = [
        "--text-column",
        "premise",
        "--text-pair-column",
        "hypothesis",
        "--max-length",
        str(MAX_LENGTH),
    ]
    assert here("label", "texts.jsonl", "--teacher", str(checkpoint), "--out", out, *columns) == 0
    assert (
        f"{out}: 30 texts with logits of 2 labels; use it: teacher.logits: {out}" in capsys.readouterr().out
    )
    model, tokenizer = load_classifier(checkpoint, SINGLE_LABEL)
    np.testing.assert_array_equal(joined(tmp_path / out, LABELS, PAIRS), logits_of(model, tokenizer, PAIRS))


def test_an_artifact_labels_as_it_serves(here, tmp_path, capsys):
    tiny_artifact(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    assert here("label", "texts.txt", "--teacher", "model", "--out", "teacher.jsonl") == 0
    assert "label: 3 of 3 texts" in capsys.readouterr().err
    expected = TextClassifier.load(tmp_path / "model").logits(TEXTS, batch_size=1)
    np.testing.assert_array_equal(joined(tmp_path / "teacher.jsonl", OF_ARTIFACT, TEXTS), expected)


def test_an_artifact_of_pairs_labels_lines_with_tabs(here, tmp_path):
    tiny_artifact(tmp_path / "model", takes_pairs=True)
    pairs = [("open early", "red"), ("close", "late blue")]
    (tmp_path / "texts.txt").write_text("".join(f"{a}\t{b}\n" for a, b in pairs))
    assert here("label", "texts.txt", "--teacher", "model", "--out", "teacher.csv") == 0
    with (tmp_path / "teacher.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["text"], row["text_pair"]) for row in rows] == pairs
    expected = TextClassifier.load(tmp_path / "model").logits(pairs, batch_size=1)
    np.testing.assert_array_equal(joined(tmp_path / "teacher.csv", OF_ARTIFACT, pairs), expected)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["texts.txt", "--teacher", "model", "--out", "teacher.npz"], ["--out", "teacher.npz", ".parquet"]),
        (["texts.txt", "--teacher", "model", "--out", "no/teacher.csv"], ["--out", "existing"]),
        (["none.txt", "--teacher", "model", "--out", "t.csv"], ["TEXTS", "none.txt"]),
        (["texts.txt", "--teacher", "./nothing", "--out", "t.csv"], ["'./nothing'", "no such checkpoint"]),
        (["texts.txt", "--teacher", "model", "--out", "t.csv", "--max-length", "9"], ["--max-length"]),
        (["texts.txt", "--teacher", "model", "--out", "t.csv", "--text-pair-column", "b"], ["--text-pair-column"]),
        (["texts.jsonl", "--teacher", "model", "--out", "t.csv", "--text-column", "c"], ["column 'c'"]),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_line_and_leave_nothing(here, tmp_path, capsys, arguments, parts):
    tiny_artifact(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("open\n")
    (tmp_path / "texts.jsonl").write_text('{"text": "open"}\n')
    assert here("label", *arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert all(part in err for part in parts), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "texts.jsonl", "texts.txt"]
