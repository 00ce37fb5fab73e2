"""The commands on an artifact of pairs: two arguments, two columns, two keys, and a tab."""

import csv
import io
import json

import pytest
from artifacts import LABELS, tiny_artifact

from distiltune.cluster.store.artifact_folder import predict_command
from distiltune.export.artifact.seal import seal_artifact
from distiltune.export.runtime.classifier import TextClassifier

PAIRS = [("open early", "red"), ("red, blue", "open early"), ("close late", "unable")]


@pytest.fixture
def artifact(tmp_path):
    made = tiny_artifact(tmp_path / "made", takes_pairs=True)
    return seal_artifact(made, tmp_path / "model", made_from={}, measurements={"query": list(PAIRS[0])})


@pytest.fixture
def labels(artifact):
    return [each["label"] for each in TextClassifier.load(artifact)(PAIRS)]


def table(path, names, rows=PAIRS):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])


def test_the_command_that_tries_an_artifact_has_as_many_texts_as_it_takes(artifact, tmp_path):
    made = tiny_artifact(tmp_path / "single")
    assert predict_command("distiltune", made, "my model") == "distiltune predict 'my model' 'a text'"
    pairs = predict_command("distiltune", artifact, "model")
    assert pairs == "distiltune predict model 'a text' 'its second text'"
    settings = artifact / "distiltune.json"
    changed = json.loads(settings.read_text()) | {"task": "question_answering", "labels": ["start", "end"]}
    settings.write_text(json.dumps(changed))
    assert predict_command("x", artifact, "model").endswith("'a question' 'the context that answers it'")
    settings.write_text("{")
    assert predict_command("x", artifact, "model") == "x predict model 'a text'"


def test_predict_takes_two_texts_for_each_pair(here, artifact, labels, capsys):
    assert here("predict", "model", *PAIRS[0], *PAIRS[1]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], *line[2:]) for line in lines] == [
        (label, *pair) for label, pair in zip(labels[:2], PAIRS[:2], strict=True)
    ]
    assert here("predict", "model", *PAIRS[0], "--json") == 0
    [answer] = json.loads(capsys.readouterr().out)
    assert (answer["text"], answer["text_pair"], answer["label"]) == (*PAIRS[0], labels[0])


def test_predict_reads_pairs_from_files_and_stdin(here, artifact, labels, tmp_path, monkeypatch, capsys):
    table(tmp_path / "a.csv", ["text", "text_pair"])
    table(tmp_path / "b.csv", ["premise", "hypothesis"])
    rows = [{"premise": a, "hypothesis": b} for a, b in PAIRS]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "d.txt").write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS))
    named = ["--column", "premise", "--pair-column", "hypothesis"]
    for name, options in (("a.csv", []), ("b.csv", named), ("c.jsonl", named), ("d.txt", [])):
        assert here("predict", "model", "--input", name, *options, "--output", "out.csv") == 0
        with (tmp_path / "out.csv").open(newline="") as file:
            found = list(csv.DictReader(file))
        assert [(each["text"], each["text_pair"], each["label"]) for each in found] == [
            (*pair, label) for pair, label in zip(PAIRS, labels, strict=True)
        ]
    assert here("predict", "model", "--input", "a.csv", "--output", "out.jsonl") == 0
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1])["text_pair"] == PAIRS[1][1]
    content = "".join(f"{a}\t{b}\n" for a, b in PAIRS).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    capsys.readouterr()
    assert here("predict", "model") == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == labels


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["predict", "model", "open"], ["TEXT: 1 given", "takes pairs"]),
        (["predict", "model", "a", "b", "c"], ["TEXT: 3 given"]),
        (["predict", "model", "--input", "one.csv"], ["'text_pair'", "--pair-column"]),
        (["predict", "model", "--input", "one.jsonl"], ["line 1", "text_pair", "--pair-column"]),
        (["predict", "model", "--input", "strings.jsonl"], ["line 1", "--column"]),
        (["predict", "model", "--input", "one.txt"], ["line 1", "0 tabs", "one tab"]),
        (["predict", "single", "a", "--pair-column", "b"], ["--pair-column", "single texts"]),
        (["evaluate", "model", "one.csv"], ["no column 'text_pair'", "--text-pair-column"]),
        (
            ["evaluate", "single", "one.csv", "--text-pair-column", "b"],
            ["--text-pair-column", "single texts"],
        ),
        (["benchmark", "model", "--texts", "one.txt"], ["--texts", "0 tabs"]),
        (["benchmark", "single", "--text-pair-column", "b"], ["--text-pair-column", "single texts"]),
    ],
)
def test_a_single_text_for_a_pair_is_one_clear_error(here, artifact, tmp_path, capsys, arguments, parts):
    single = tiny_artifact(tmp_path / "made-single")
    seal_artifact(single, tmp_path / "single", made_from={}, measurements={"query": "open"})
    table(tmp_path / "one.csv", ["text", "label"], [("open", LABELS[0])])
    (tmp_path / "one.jsonl").write_text('{"text": "open"}\n')
    (tmp_path / "strings.jsonl").write_text('"open"\n')
    (tmp_path / "one.txt").write_text("open\n")
    assert here(*arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert all(part in err for part in parts), err


def test_evaluate_reads_two_columns(here, artifact, labels, tmp_path, capsys):
    rows = [(*pair, label) for pair, label in zip(PAIRS, labels, strict=True)]
    table(tmp_path / "data.csv", ["text", "text_pair", "label"], rows)
    table(tmp_path / "named.csv", ["a", "b", "label"], rows)
    for name, options in (("data.csv", []), ("named.csv", ["--text-column", "a", "--text-pair-column", "b"])):
        assert here("evaluate", "model", name, *options, "--json") == 0
        assert json.loads(capsys.readouterr().out)["accuracy"] == 1.0


@pytest.mark.slow
def test_benchmark_times_the_pair_of_the_manifest_and_those_of_a_file(here, artifact, tmp_path, capsys):
    options = ["--runs", "3", "--warmups", "1", "--json"]
    assert here("benchmark", "model", *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["query"] == list(PAIRS[0]) and found["latency_ms"]["p50"] > 0
    table(tmp_path / "texts.csv", ["text", "text_pair"])
    assert here("benchmark", "model", "--texts", "texts.csv", "--thorough", "--seconds", "0.1", *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"sweep", "load", "startup", "session", "floors"} <= set(found)
    assert here("benchmark", "model", "--runs", "3") == 0


def test_the_card_shows_how_a_pair_is_given(artifact):
    card = (artifact / "README.md").read_text()
    assert 'classifier(("your text", "its second text"))' in card
    assert "Classifies a pair of texts as one of 3 labels" in card
