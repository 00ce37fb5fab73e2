"""`predict` and `benchmark` answer odd texts, streams and files with one line each."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from artifacts import LABELS, TEXTS, tiny_artifact

from distiltune.cluster.cli import main
from distiltune.errors import InputError
from distiltune.export.artifact.seal import seal_artifact
from distiltune.export.commands.lines import lines_of_stream

COMMAND = [sys.executable, "-c", "import sys; from distiltune.cluster.cli import main; sys.exit(main())"]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    made = tiny_artifact(tmp_path / "made")
    return seal_artifact(made, tmp_path / "model", made_from={}, measurements={"query": TEXTS[0]})


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch):
    def give(content: bytes | None) -> None:
        stream = None if content is None else io.TextIOWrapper(io.BytesIO(content))
        monkeypatch.setattr("sys.stdin", stream)

    return give


def one_line(err: str, *names: str) -> None:
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert len(err) < 500
    for name in names:
        assert name in err


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"", ["TEXT", "stdin"]),
        (b" \n\r\n\t\n", ["TEXT", "stdin"]),
        (b"open\n\xff\n", ["TEXT", "line 2", "0xff"]),
        (b"open\xc3", ["TEXT", "line 1", "0xc3"]),
        ("open\nlate".encode("utf-16"), ["TEXT", "line 1", "0xff"]),
        ("open\nlate".encode("utf-16-le"), ["TEXT", "line 1", "NUL"]),
        (b"\xed\xa0\x80", ["TEXT", "line 1", "0xed"]),
        (None, ["TEXT"]),
    ],
)
def test_stdin_that_is_not_text_is_refused(
    artifact: Path, capsys: pytest.CaptureFixture[str], stdin, content: bytes | None, names: list[str]
) -> None:
    stdin(content)
    assert main(["predict", str(artifact)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    one_line(err, *names)


def test_lines_of_stdin_are_texts(artifact: Path, capsys: pytest.CaptureFixture[str], stdin) -> None:
    stdin("\ufeffopen early\r\n\n  \nclose\x1b[2J\u2028x\ty\nred".encode())
    assert main(["predict", str(artifact)]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[2:] for row in rows] == [["open early"], ["close\\x1b[2J\\u2028x\\ty"], ["red"]]
    assert all(row[0] in LABELS for row in rows)


def test_a_line_of_ten_megabytes_is_a_text(artifact: Path, capsys: pytest.CaptureFixture[str], stdin) -> None:
    stdin(b"open early red " * 700_000)
    assert main(["predict", str(artifact)]) == 0
    label, _, text = capsys.readouterr().out.split("\t")
    assert label in LABELS
    assert len(text) == 15 * 700_000 + 1


def test_a_stream_that_cannot_be_read_is_named() -> None:
    class Torn(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(InputError, match=r"stdin .*\(Input/output error\)"):
        lines_of_stream(Torn(), "stdin")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("texts", [["open", "\udcff"], ["\udcff"]])
def test_an_argument_that_is_not_text_is_refused(
    artifact: Path, capsys: pytest.CaptureFixture[str], texts: list[str]
) -> None:
    assert main(["predict", str(artifact), *texts]) == 2
    one_line(capsys.readouterr().err, f"text {len(texts) - 1}")


@pytest.mark.parametrize("arguments", [["predict", "model", "open"], ["config", "--schema"]])
def test_a_full_stdout_is_one_line(artifact: Path, arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [*COMMAND, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=artifact.parent,
            check=False,
        )
    assert done.returncode == 1
    one_line(done.stderr, "stdout", "No space left")


@pytest.mark.parametrize("redirect", [">&-", "| true", "| head -1"])
def test_a_stdout_that_goes_away_is_no_error(artifact: Path, redirect: str) -> None:
    (artifact.parent / "texts").write_text("open\n" * 3000)
    code = COMMAND[2]
    script = f"set -o pipefail; {sys.executable} -c '{code}' predict model < texts {redirect}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=artifact.parent, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_label_that_stdout_cannot_encode_is_escaped(tmp_path: Path) -> None:
    tiny_artifact(tmp_path / "model", labels=["東", "京", "都"])
    done = subprocess.run(
        [*COMMAND, "predict", "model", "open"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\t")[0] in ("\\u6771", "\\u4eac", "\\u90fd")


def test_a_panic_is_reported_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    artifact = tiny_artifact(tmp_path / "model")
    path = artifact / "tokenizer.json"
    broken = '"normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAA"}'
    path.write_text(
        path.read_text().replace('"normalizer": null', broken).replace('"normalizer":null', broken)
    )
    assert main(["predict", str(artifact), "open"]) == 2
    one_line(capfd.readouterr().err, "tokenizer.json", "precompiled_charsmap")


def test_other_output_on_stderr_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from distiltune.export.runtime.classifier import TextClassifier

    load = TextClassifier.load

    def load_with_warning(directory: Path) -> TextClassifier:
        os.write(2, b"a library warns\n")
        return load(directory)

    monkeypatch.setattr(TextClassifier, "load", load_with_warning)
    assert main(["predict", str(tiny_artifact(tmp_path / "model")), "open"]) == 0
    assert capfd.readouterr().err == "a library warns\n"
    assert main(["predict", str(tmp_path / "none"), "open"]) == 2
    assert capfd.readouterr().err.splitlines()[0] == "a library warns"


def fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file"),
        (Path.mkdir, "directory"),
        (fifo, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to(path), "links"),
        (lambda path: path.write_bytes(b""), "no text"),
        (lambda path: path.write_bytes(b"\n \n"), "no text"),
        (lambda path: path.write_bytes(b"open\n\x80abc"), "line 2"),
        (lambda path: path.write_bytes(bytes(1000)), "NUL"),
        (lambda path: path.write_bytes("open".encode("utf-16")), "line 1"),
        (lambda path: (path.touch(), os.truncate(path, 2**40)), "larger than"),
    ],
)
def test_an_unreadable_file_of_texts_is_refused(
    artifact: Path, capsys: pytest.CaptureFixture[str], make, message: str
) -> None:
    file = artifact.parent / "texts"
    make(file)
    assert main(["benchmark", str(artifact), "--texts", str(file)]) == 2
    one_line(capsys.readouterr().err, "--texts", "texts", message)


@pytest.mark.parametrize(
    "damage", ["distiltune.json", "model.onnx", "tokenizer.json", "manifest.json", "README.md"]
)
def test_a_changed_artifact_is_not_measured(
    artifact: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    with (artifact / damage).open("ab") as file:
        file.write(b"x")
    for arguments in (["benchmark", str(artifact)], ["predict", str(artifact), "open"]):
        assert main(arguments) == 2
        one_line(capsys.readouterr().err, damage)


@pytest.mark.parametrize("query", [None, "", 3, ["open"]])
def test_an_artifact_without_a_text_to_time_asks_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], query: object
) -> None:
    made = tiny_artifact(tmp_path / "made")
    seal_artifact(made, tmp_path / "model", made_from={}, measurements={"query": query})
    assert main(["benchmark", str(tmp_path / "model")]) == 2
    one_line(capsys.readouterr().err, "measurements.query", "--texts")


@pytest.mark.parametrize("to", ["", "~nobody-of-that-name/x"])
def test_an_unusable_target_is_refused_before_the_run_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str
) -> None:
    assert main(["pull", "latest", "--to", to, "--storage", str(tmp_path / "runs")]) == 2
    one_line(capsys.readouterr().err, "--to", repr(to))
    assert not (tmp_path / "runs").exists()
