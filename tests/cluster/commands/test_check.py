"""`distiltune check` shows what a job would do, or its faults, and leaves nothing behind."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from distiltune.cluster.cli import main
from distiltune.cluster.commands.check import _labels
from distiltune.cluster.commands.measure import read_given_texts
from distiltune.errors import InputError
from distiltune.training.data.label_kinds import NAME_SETS, NAMES, NUMBERS, TAGS
from distiltune.training.data.label_kinds.tag_scheme import tag_names


def test_a_sound_job_is_shown_and_leaves_nothing(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ["--set", "search.num_trials=7", "--set", "export.variants=[onnx]"]
    assert main(["check", "quickstart-scratch", "--no-forecast", *overrides]) == 0
    shown = capsys.readouterr()
    for part in (
        "17 intents + out-of-scope",
        "a small BERT trained from scratch",
        "7 trials over alpha 0 to 1",
        "export     onnx\n",
    ):
        assert part in shown.out
    assert "run quickstart-scratch --set search.num_trials=7 --set 'export.variants=[onnx]'" in shown.err
    assert list(tmp_path.iterdir()) == []
    assert main(["check", "quickstart-scratch", "--no-forecast", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) >= {"data", "teacher", "student", "search", "storage"}


def test_every_searched_kind_of_student_is_shown(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    kinds = 'search.space={"student.kind": {"type": "choice", "values": ["static", "layers"]}}'
    overrides = ["--set", kinds, "--set", "student.hidden_size=64"]
    assert main(["check", "quickstart-scratch", "--no-forecast", "--json", *overrides]) == 0
    shown = json.loads(capsys.readouterr().out)
    static, layers = shown["student"].split(" or ")
    assert static == "static: maximum and mean of word pieces of 64 dimensions"
    assert layers.startswith("layers ")
    assert "student.kind static, layers" in shown["search"]


@pytest.mark.parametrize(
    ("per_label", "rare", "line", "part"),
    [
        (10, 10, "data", "3 of 3 labels have fewer than 16 training texts (the median has 8): fine-tune"),
        (10, 10, "data", "data.unlabelled"),
        (60, 10, "labels", "1 of 3 labels has fewer than 16 training texts (the median has 48): rare ones"),
        (60, 60, None, "fewer than 16"),
    ],
)
def test_labels_with_few_texts_are_counted(
    per_label, rare, line, part, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    counts = {"refund": per_label, "delivery": per_label, "invoice": rare}
    rows = [
        f"please see to {label} number {n},{label}\n" for label, num in counts.items() for n in range(num)
    ]
    Path("data.csv").write_text("text,label\n" + "".join(rows))
    Path("job.yaml").write_text("data: {train: data.csv}\n")
    assert main(["check", "job.yaml", "--no-forecast", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [name for name, text in shown.items() if part in str(text)] == ([] if line is None else [line])


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("student.layers=[0, 99]", "student.layers"),
        ("search.space={alhpa: {type: float, low: 0, high: 1}}", "alhpa"),
        ("teacher={checkpoint: ./nowhere}", "teacher.checkpoint"),
        ("data={train: nowhere.csv}", "data.train"),
    ],
)
def test_a_fault_is_one_line_and_leaves_nothing(override, part, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", "quickstart-scratch", "--set", override]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert part in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_texts_to_time_are_lines_or_a_table(tmp_path) -> None:
    def file(name: str, content: str) -> Path:
        (tmp_path / name).write_text(content)
        return tmp_path / name

    expected = ["how much, please", "where is it"]
    lines = file("texts.txt", "how much, please\n\nwhere is it\n")
    table = file("texts.csv", 'id;question\n1;"how much, please"\n2; \n3;where is it\n')
    objects = file("texts.jsonl", "\n".join(json.dumps({"question": each}) for each in expected))
    assert (
        read_given_texts(lines, "text", None, "--texts")
        == read_given_texts(table, "question", None, "--texts")
        == read_given_texts(objects, "question", None, "--texts")
        == expected
    )
    with pytest.raises(InputError, match=r"--text-column.*'id', 'question'"):
        read_given_texts(table, "text", None, "--texts")
    with pytest.raises(InputError, match="--texts does not exist"):
        read_given_texts(tmp_path / "nowhere.csv", "text", None, "--texts")


@pytest.mark.parametrize(
    ("kind", "names", "stored", "line"),
    [
        (NAMES, ["cat", "dog"], [0, 1, 0], "at least 1 training texts each ('dog' has the fewest)"),
        (
            NAME_SETS,
            ["cat", "dog"],
            [[1, 1], [1, 0], [0, 0]],
            "at least 1 training texts each ('dog' has the fewest)",
        ),
        (
            TAGS,
            tag_names(["city", "name"]),
            [[[0, 3, 1]], [[0, 3, 0], [4, 6, 1]]],
            "at least 1 training texts each ('city'",
        ),
        (NUMBERS, ["price"], [[1.5], [-2.0]], "price from -2 to 1.5"),
    ],
)
def test_labels_of_every_kind_are_summed_up(kind, names, stored, line) -> None:
    data = SimpleNamespace(label_names=names, label_kind=kind, splits={"train": {"label": stored}})
    assert line in _labels(data)
