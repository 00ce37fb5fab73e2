import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from artifacts import LABELS, TEXTS, tiny_artifact

from distiltune.cluster.commands.evaluate import _evaluate_spans
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.training.data.label_kinds.tag_scheme import tag_names
from distiltune.training.data.label_kinds.tags import Entity


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return tiny_artifact(tmp_path / "model")


def test_labelled_texts_of_a_file_are_evaluated(here, artifact: Path, capsys) -> None:
    predicted = [answer["label"] for answer in TextClassifier.load(artifact)(TEXTS)]
    other = next(label for label in LABELS if label != predicted[0])
    rows = zip(TEXTS, [other, *predicted[1:]], strict=True)
    Path("data.csv").write_text("id,body,label\n" + "".join(f"1,{text},{label}\n" for text, label in rows))
    assert here("evaluate", "model", "data.csv", "--text-column", "body", "--output", "report.json") == 0
    out = capsys.readouterr().out
    assert "accuracy 0.6667 (95 % from 0.2077 to 0.9385) on 3 texts" in out
    assert f"1 of {other!r} predicted as {predicted[0]!r}" in out
    report = json.loads(Path("report.json").read_text())
    assert report["accuracy"] == pytest.approx(2 / 3)
    assert here("evaluate", "model", "data.csv", "--text-column", "body", "--json") == 0
    assert json.loads(capsys.readouterr().out) == report


def test_slices_are_shown_beside_the_labels(here, artifact: Path, capsys) -> None:
    predicted = [answer["label"] for answer in TextClassifier.load(artifact)(TEXTS)]
    other = next(label for label in LABELS if label != predicted[0])
    rows = zip(TEXTS, [other, *predicted[1:]], ["mail", "mail", ""], strict=True)
    Path("data.csv").write_text(
        "text,label,channel,shop\n"
        + "".join(f"{text},{label},{channel},x\n" for text, label, channel in rows)
    )
    options = ["--slice-column", "channel", "--slice-column", "shop"]
    assert here("evaluate", "model", "data.csv", *options) == 0
    out = capsys.readouterr().out
    assert re.search(r"channel: mail +0\.500 +2\n", out)
    assert re.search(r"channel: \(none\) +1\.000 +1\n", out)
    assert here("evaluate", "model", "data.csv", *options, "--json") == 0
    slices = json.loads(capsys.readouterr().out)["slices"]
    assert [(each["column"], each["value"], each["num_right"]) for each in slices] == [
        ("channel", "mail", 1),
        ("channel", "(none)", 1),
        ("shop", "x", 2),
    ]
    assert here("evaluate", "model", "data.csv", "--slice-column", "chanel") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "no column 'chanel' (--slice-column)" in err and "nearest: 'channel'" in err


@pytest.mark.parametrize(
    ("name", "content", "options", "parts"),
    [
        ("data.csv", "text,label\nopen,weather\n", [], ["DATA", "weather", LABELS[0]]),
        ("data.csv", "text,label\n ,first\n", [], ["line 2", "text"]),
        ("data.csv", "text,intent\nopen,first\n", [], ["label", "intent"]),
        ("data.txt", "open", [], ["DATA", ".txt", ".csv"]),
        ("other.csv", "", [], ["DATA", "data.csv"]),
        ("data.csv", "text,label\nopen,first\n", ["--output", "x.txt"], ["--output", "x.txt"]),
        ("data.csv", "text,label\nopen,first\n", ["--output", "no/x.json"], ["--output", "no/x.json"]),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    here, artifact: Path, capsys, name, content, options, parts
) -> None:
    Path(name).write_text(content)
    given = "data.csv" if name == "other.csv" else name
    assert here("evaluate", "model", given, *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_what_is_found_in_texts_can_be_written() -> None:
    class Finder:
        task, labels = "token_classification", tag_names(["city"])

        def __call__(self, texts: list[str], batch_size: int) -> list[list[dict[str, Any]]]:
            return [[{"start": 0, "end": 4, "label": "city", "score": 1.0}] for _ in texts]

    labels = [(Entity(0, 4, "city"),), ()]
    split: Any = SimpleNamespace(texts=["Oslo now", "here we are"], labels=labels, slices={"day": ["1", "2"]})
    found: Any = Finder()
    report = json.loads(json.dumps(_evaluate_spans(found, split, "data.conll")))
    assert report["metrics"]["entity_precision"] == 0.5
    assert report["metrics"]["entity_recall"] == 1.0
    assert [each["label"] for each in report["labels"]] == ["city"]
    assert "right" not in report and report["slices"]
