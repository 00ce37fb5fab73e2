"""`predict` reads files, writes files, opens runs, and needs no more than the runtime."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from artifacts import LABELS, TEXTS, tiny_artifact
from runfiles import Writer

from distiltune.cluster.app import app
from distiltune.cluster.store.runs import Storage
from distiltune.export.artifact.seal import seal_artifact
from distiltune.export.commands import COMMANDS
from distiltune.export.commands.tables import read_texts, write_answers
from distiltune.export.runtime.classifier import TextClassifier

ROWS = ["open early, red", "", 'say "close"\nlate']
FORBIDDEN = (
    "typer",
    "pydantic",
    "rich",
    "torch",
    "transformers",
    "onnx",
    "yaml",
    "huggingface_hub",
    "jinja2",
)
LEAN = f"""
import sys

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FORBIDDEN}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Forbid())
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {FORBIDDEN} else find_spec(name, *rest)
from distiltune.cluster.cli import main
"""


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    tiny_artifact(tmp_path / "made")
    return seal_artifact(tmp_path / "made", tmp_path / "model", made_from={}, measurements={})


def write_rows(path: Path) -> None:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["id", "text"], *enumerate(ROWS)])
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": row, "id": 1}) + "\n" for row in ROWS))
    else:
        path.write_text("\ufeff" + "\r\n".join(row.replace("\n", " ") for row in ROWS) + "\n")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt"])
def test_every_row_of_a_file_is_answered_in_order(here, artifact: Path, capsys, suffix: str) -> None:
    source = artifact.with_name(f"texts{suffix}")
    write_rows(source)
    expected = TextClassifier.load(artifact)([row.replace("\n", " ") for row in ROWS])
    assert here("predict", "model", "--input", str(source), "--output", "out.jsonl") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "1 of 3 texts are blank" in err
    answers = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [each["text"].replace("\n", " ") for each in answers] == [row.replace("\n", " ") for row in ROWS]
    assert [{**each, "text": None} for each in answers] == [{**each, "text": None} for each in expected]
    assert [each.get("blank", False) for each in answers] == [False, True, False]


def test_a_table_has_a_column_for_each_of_the_best_labels(here, artifact: Path) -> None:
    write_rows(artifact.with_name("texts.csv"))
    assert here("predict", "model", "--input", "texts.csv", "--top-k", "2", "--output", "out.csv") == 0
    with Path("out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ROWS
    assert [row["blank"] for row in rows] == ["false", "true", "false"]
    ranked = TextClassifier.load(artifact)(ROWS, top_k=2)
    for row, (first, second) in zip(rows, ranked, strict=True):
        assert (row["label"], float(row["score"])) == (first["label"], first["score"])
        assert (row["label_2"], float(row["score_2"])) == (second["label"], second["score"])


def test_the_best_labels_are_printed_and_in_json(here, artifact: Path, capsys) -> None:
    assert here("predict", "model", TEXTS[0], "--top-k", "2") == 0
    label, score, second, _, text = capsys.readouterr().out.rstrip("\n").split("\t")
    assert text == TEXTS[0]
    assert here("predict", "--json", "--top-k=9", "model", TEXTS[0]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert [each["label"] for each in answer["top"][:2]] == [label, second]
    assert sorted(each["label"] for each in answer["top"]) == sorted(LABELS)
    assert f"{answer['score']:.4f}" == score


def test_a_text_may_begin_with_a_dash(here, artifact: Path, capsys) -> None:
    assert here("predict", "model", "--json", "--", "--open", "-h") == 0
    assert [each["text"] for each in json.loads(capsys.readouterr().out)] == ["--open", "-h"]


@pytest.mark.parametrize(
    ("name", "content", "options", "parts"),
    [
        ("a.xlsx", "open", [], ["--input", ".xlsx", ".jsonl"]),
        ("a.csv", "id,body\n1,open\n", [], ["--input", "'text'", "id, body", "--column"]),
        ("a.csv", "id,text\n1,open,late\n", [], ["line 2", "3 fields"]),
        ("a.csv", "text,text\n1,open\n", [], ["'text'", "twice"]),
        ("a.csv", 'text\n"open\n', [], ["CSV"]),
        ("a.csv", "", [], ["'text'"]),
        ("a.csv", "text\n\n \n", [], ["no text"]),
        ("a.jsonl", '{"text": "open"}\n{', [], ["line 2", "JSON"]),
        ("a.jsonl", '{"text": 3}\n', [], ["line 1", "text is 3"]),
        ("a.jsonl", '{"text": "open"}\n', ["--column", "body"], ["line 1", "body is None"]),
        ("a.txt", b"open\n\xff", [], ["line 2", "0xff"]),
        ("a.txt", "open", ["--output", "out.txt"], ["--output", ".txt", ".csv"]),
        ("a.txt", "open", ["--output", "nowhere/out.csv"], ["--output", "nowhere"]),
        ("a.txt", "open", ["--top-k", "0"], ["--top-k", "0 given", "from 1 to"]),
        ("a.txt", "open", ["--top-k", "two"], ["--top-k", "'two'"]),
        ("a.txt", "open", ["late"], ["--input", "TEXT"]),
        ("a.txt", "open", ["--colunm", "x"], ["--colunm"]),
    ],
)
def test_a_mistake_is_one_line(here, artifact: Path, capsys, name, content, options, parts) -> None:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(Path().iterdir())
    assert here("predict", "model", "--input", name, *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert sorted(Path().iterdir()) == before


def test_a_run_is_named_where_a_folder_is_taken(here, artifact: Path, capsys) -> None:
    run = Writer(Storage("distiltune-runs")).state("finished").run
    assert here("predict", "a", "open") == 2
    assert "no artifact yet" in capsys.readouterr().err
    artifact.rename(run.store.local(run.artifact))
    for name in ("a", "latest"):
        assert here("predict", name, "open") == 0
        assert capsys.readouterr().out.split("\t")[0] in LABELS
    assert here("predict", "other", "open") == 2
    assert "'other': no such folder, and no run 'other'" in capsys.readouterr().err
    assert here("predict", "a", "open", "--storage", "elsewhere") == 2
    assert "elsewhere" in capsys.readouterr().err


def lean(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = f"{LEAN}\nsys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_the_commands_of_the_runtime_need_only_its_packages(artifact: Path) -> None:
    done = lean("predict", "model", "open", "--top-k", "1", cwd=artifact.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\t")[0] in LABELS
    done = lean("predict", "latest", "open", cwd=artifact.parent)
    assert done.returncode == 2
    assert "pip install 'distiltune[cpu]'" in done.stderr
    done = lean("verify", "model", cwd=artifact.parent)
    assert (done.returncode, done.stderr) == (0, "")
    done = lean("run", cwd=artifact.parent)
    assert done.returncode == 2
    assert "run: not in this installation" in done.stderr
    done = lean("predict", "--help", cwd=artifact.parent)
    assert "--top-k" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_application_shows_the_same_parameters(name: str) -> None:
    command = typer.main.get_command(app).commands[name]  # pyright: ignore[reportAttributeAccessIssue]
    shown = {each.name: each.opts for each in command.params if each.name != "help"}
    assert list(shown) == [each.name for each in COMMANDS[name].parameters]
    for each in COMMANDS[name].parameters:
        assert each.option is None or each.option in shown[each.name]


def test_the_application_runs_it_as_well(artifact: Path, capsys, monkeypatch) -> None:
    from distiltune.cluster.app import run_app

    monkeypatch.chdir(artifact.parent)
    assert run_app(["predict", "model", "open", "--top-k", "2", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert len(answer["top"]) == 2


def test_texts_of_written_answers_are_read_again(tmp_path: Path) -> None:
    texts = ["a\rb", "c\r\n", 'd\n"e", f', "g"]
    write_answers(
        tmp_path / "a.csv", [{"text": text, "label": "x", "score": 0.5, "blank": False} for text in texts], 1
    )
    assert read_texts(tmp_path / "a.csv", "text") == texts
    assert (tmp_path / "a.csv").read_bytes().endswith(b"g,x,0.5,false\n")
