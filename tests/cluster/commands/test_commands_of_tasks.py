"""`predict`, `evaluate` and `init` with several labels for each text, and with numbers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from artifacts import LABELS, TEXTS, tiny_artifact

from distiltune.cluster.specification.config import load_config
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.training.data.text_data import load_data
from distiltune.training.tasks import TASKS

THRESHOLDS = {"labels": {"first": 0.01, "second": 0.5, "third": 0.99}}


def csv_rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


OUTPUTS = ["first", "second", "third"]
"""Names of the outputs of the artifact ``numbers``."""


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    return tiny_artifact(tmp_path / "sets", task="multi_label", threshold=THRESHOLDS, temperature=2.0)


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    return tiny_artifact(tmp_path / "numbers", task="regression")


def test_predict_prints_and_writes_every_label(here, sets, capsys) -> None:
    answers = TextClassifier.load(sets)(TEXTS)
    assert here("predict", "sets", *TEXTS) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, answer, text in zip(lines, answers, TEXTS, strict=True):
        cells = [c for each in answer["labels"] for c in (each["label"], f"{each['score']:.4f}")]
        assert line == "\t".join([*cells, text])
    assert here("predict", "sets", *TEXTS, "--output", "answers.csv") == 0
    rows = csv_rows("answers.csv")
    assert list(rows[0]) == ["text", "labels", "scores", "blank"]
    assert [row["labels"] for row in rows] == [";".join(e["label"] for e in a["labels"]) for a in answers]
    assert here("predict", "sets", *TEXTS, "--top-k", "2", "--output", "top.csv") == 0
    first = csv_rows("top.csv")[0]
    assert list(first)[3:] == ["blank", "label_1", "score_1", "label_2", "score_2"]
    assert float(first["score_1"]) >= float(first["score_2"])
    assert here("predict", "sets", TEXTS[0], "--top-k", "3", "--json") == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["labels"] == TextClassifier.load(sets)(TEXTS[0])["labels"] and len(answer["top"]) == 3


def test_predict_prints_and_writes_numbers(here, numbers, capsys) -> None:
    values = TextClassifier.load(numbers)(TEXTS[0])["values"]
    assert here("predict", "numbers", TEXTS[0]) == 0
    cells = [cell for name, value in values.items() for cell in (name, f"{value:.4f}")]
    assert capsys.readouterr().out == "\t".join([*cells, TEXTS[0]]) + "\n"
    assert here("predict", "numbers", *TEXTS, "--output", "answers.csv") == 0
    rows = csv_rows("answers.csv")
    assert list(rows[0]) == ["text", *LABELS, "blank"]
    assert float(rows[0]["first"]) == pytest.approx(TextClassifier.load(numbers)(TEXTS)[0]["values"]["first"])
    assert here("predict", "numbers", TEXTS[0], "--top-k", "2") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "top_k is 2" in err


def test_evaluate_measures_sets_by_their_thresholds(here, sets, capsys) -> None:
    answers = TextClassifier.load(sets)(TEXTS)
    own = [[each["label"] for each in answer["labels"]] for answer in answers]
    lines = [
        {"text": text, "label": names, "channel": "mail"} for text, names in zip(TEXTS, own, strict=True)
    ]
    lines[0]["label"] = [*own[0], "never"]
    Path("data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["evaluate", "sets", "data.jsonl", "--slice-column", "channel"]
    assert here(*arguments) == 0
    out = capsys.readouterr().out
    assert "macro F1 1.000" in out and "subset accuracy 1.000" in out and "on 3 texts" in out
    assert "the artifact never predicts never" in out
    assert here(*arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["macro_f1"] == 1 and found["slices"][0]["accuracy"] == 1
    columns = [",".join(["text", *LABELS])] + [
        ",".join([text, *(str(int(name in names)) for name in LABELS)])
        for text, names in zip(TEXTS, own, strict=True)
    ]
    Path("columns.csv").write_text("\n".join(columns) + "\n")
    several = [part for name in LABELS for part in ("--label-column", name)]
    assert here("evaluate", "sets", "columns.csv", *several, "--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == found["metrics"]
    Path("strings.csv").write_text(
        "text,label\n"
        + "".join(f"{text},{'|'.join(names)}\n" for text, names in zip(TEXTS, own, strict=True))
    )
    assert here("evaluate", "sets", "strings.csv", "--label-separator", "|", "--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == found["metrics"]


def test_evaluate_measures_numbers(here, numbers, capsys) -> None:
    logits = TextClassifier.load(numbers).logits(TEXTS, batch_size=1)
    lines = [
        {"text": text, **dict(zip(OUTPUTS, map(float, row + 1), strict=True))}
        for text, row in zip(TEXTS, logits, strict=True)
    ]
    Path("data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for order in (OUTPUTS, OUTPUTS[::-1]):
        several = [part for name in order for part in ("--label-column", name)]
        assert here("evaluate", "numbers", "data.jsonl", *several) == 0
        assert "Pearson 1.000, Spearman 1.000, RMSE 1.000 on 3 texts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["numbers", "data.jsonl"], ["--label-column: 'label' given", "predicts 'first', 'second', 'third'"]),
        (["numbers", "data.jsonl", "--label-column", "a"], ["--label-column: 'a' given", "'third'"]),
        (
            [
                "numbers",
                "data.jsonl",
                *(part for name in (*OUTPUTS[:2], "text") for part in ("--label-column", name)),
            ],
            ["--label-column: 'first', 'second', 'text' given", "predicts 'first', 'second', 'third'"],
        ),
        (["sets", "data.jsonl", "--label-column", "names"], ["has the labels x", "none of which"]),
        (["sets", "data.jsonl", "--label-column", "a"], ["not a list"]),
        (
            ["one", "data.jsonl", "--label-column", "a", "--label-column", "b"],
            ["--label-column", "one label"],
        ),
        (["one", "data.jsonl", "--label-separator", ";"], ["--label-separator", "one label"]),
    ],
)
def test_data_of_another_task_is_one_line(here, sets, numbers, tmp_path, capsys, arguments, parts) -> None:
    tiny_artifact(tmp_path / "one")
    rows = [{"text": text, "a": n, "b": n, "names": ["x"]} for n, text in enumerate(TEXTS)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert here("evaluate", *arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert all(part in err for part in parts), err


def own_topics(number: int) -> list[str]:
    return [name for name, every in (("sports", 2), ("politics", 3), ("weather", 5)) if number % every == 0]


def table(path: str, columns: dict[str, list]) -> None:
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


MESSAGES = [f"please tell me more about item number {n} of today" for n in range(120)]
NUMBERS = np.round(np.random.default_rng(0).normal(3, 1, 120), 3).tolist()
FOUND = {
    "a list": (
        {"message": MESSAGES, "topics": [json.dumps(own_topics(n)) for n in range(120)]},
        "multi_label",
        3,
    ),
    "a separator": (
        {"message": MESSAGES, "tags": [";".join(own_topics(n)) for n in range(120)]},
        "multi_label",
        3,
    ),
    "columns": (
        {
            "id": list(range(120)),
            "message": MESSAGES,
            **{
                name: [int(name in own_topics(n)) for n in range(120)]
                for name in ("sports", "politics", "weather")
            },
        },
        "multi_label",
        3,
    ),
    "spans": (
        {"message": MESSAGES, "entities": ['[{"start": 0, "end": 6, "label": "x"}]'] * 120},
        "token_classification",
        3,
    ),
    "tags": (
        {"message": MESSAGES, "slots": [f"O B-x I-x {'O ' * 7}".strip() for _ in MESSAGES]},
        "token_classification",
        3,
    ),
    "answers": (
        {
            "question": [f"which number has item {n}?" for n in range(120)],
            "context": MESSAGES,
            "answer": [str(n) for n in range(120)],
            "start": [MESSAGES[n].index(str(n)) for n in range(120)],
        },
        "question_answering",
        2,
    ),
    "a number": ({"id": list(range(120)), "message": MESSAGES, "similarity_score": NUMBERS}, "regression", 1),
}


@pytest.mark.parametrize("form", list(FOUND))
def test_init_recognises_the_labels_and_the_task(form, here, capsys) -> None:
    columns, task, num_outputs = FOUND[form]
    table("data.csv", columns)
    assert here("init", "data.csv") == 0
    config = load_config("job.yaml", [])
    assert config.task == task and f"task: {task}" in Path("job.yaml").read_text()
    data = load_data(config.data, TASKS[task].label_kind)
    assert len(data.label_names) == num_outputs
    assert config.metric == TASKS[task].goal[0]
    assert f"task: {task}" in capsys.readouterr().err or "column" in Path("job.yaml").read_text()


@pytest.mark.parametrize(
    "columns",
    [
        {"text": MESSAGES, "label": ["a, b", "c, d"] * 60},
        {"text": MESSAGES, "label": ["a", "b"] * 60, "is_new": [0, 1] * 60, "is_paid": [1, 0] * 60},
        {"text": MESSAGES, "rating": [1, 2, 3, 4] * 30},
    ],
    ids=["a name with a comma", "flags beside a label", "stars"],
)
def test_init_takes_no_single_label_for_something_else(columns, here) -> None:
    table("data.csv", columns)
    assert here("init", "data.csv") == 0
    assert load_config("job.yaml", []).task == "single_label"
