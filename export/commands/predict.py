"""``distiltune predict``: classify texts of the command line, of a file or of stdin with an artifact."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...texts import PAIR_COLUMN, TextOrPair, as_columns
from .arguments import Command, OpenArtifact, Parameter
from .lines import lines_of_stream
from .streams import echo, quiet_panics
from .tables import check_output, pair_of_line, read_texts, write_answers

if TYPE_CHECKING:
    from ..runtime.classifier import TextClassifier

_CONTROLS = {number: ascii(chr(number))[1:-1] for number in (*range(32), *range(127, 160), 0x2028, 0x2029)}


def _run(values: dict[str, Any], open_artifact: OpenArtifact) -> int:
    """Classify the texts, and print or write the answers."""
    source, output = values["source"], values["output"]
    if source is not None and values["texts"]:
        raise InputError("--input and TEXT given; give one of them")
    if output is not None:
        check_output(Path(output))
    directory = open_artifact(values["directory"], values["storage"])
    from ..runtime.classifier import TextClassifier

    top_k = values["top_k"]
    with quiet_panics():
        classifier = TextClassifier.load(directory)
    texts = _texts(values["texts"], source, values, classifier)
    with quiet_panics():
        ranked: list[Any] | None = None if top_k is None else classifier(texts, top_k=top_k)
        best: list[Any] = (
            classifier(texts)
            if ranked is None or not classifier.decoder.names_one
            else [each[0] for each in ranked]
        )
    answers = [
        {
            **as_columns(text),
            **classifier.decoder.fields(answer),
            **({} if ranked is None else {"top": ranked[row]}),
        }
        for row, (text, answer) in enumerate(zip(texts, best, strict=True))
    ]
    _warn_of_blanks(answers)
    if output is not None:
        write_answers(Path(output), answers, top_k or 1)
    elif values["as_json"]:
        echo(json.dumps(answers, indent=2, allow_nan=False))
    else:
        for answer in answers:
            echo(_line(answer, classifier))
    return 0


def _texts(
    given: Sequence[str], source: str | None, values: dict[str, Any], classifier: TextClassifier
) -> list[TextOrPair]:
    """Return the texts of the file, of the command line or of stdin; pairs where the artifact takes those."""
    takes_pairs = classifier.takes_pairs
    if not takes_pairs and values["pair_column"] is not None:
        raise InputError(
            f"--pair-column: {values['pair_column']!r:.60} given, but this artifact takes single texts; remove it"
        )
    if source is not None:
        first, second = classifier.decoder.columns
        pair_column = (values["pair_column"] or second) if takes_pairs else None
        return read_texts(Path(source), values["column"] or first, pair_column)
    if not given and (sys.stdin is None or sys.stdin.isatty()):
        raise InputError("TEXT: none given; give one or more texts, --input FILE, or pipe lines to stdin")
    lines = list(given) or lines_of_stream(sys.stdin.buffer, "TEXT: stdin")
    if not takes_pairs:
        return [*lines]
    if not given:
        return [pair_of_line(line, f"TEXT: stdin, text {number}") for number, line in enumerate(lines, 1)]
    if len(lines) % 2:
        raise InputError(
            f"TEXT: {len(lines)} given, but this artifact takes pairs of texts; give two for each pair"
        )
    return list(zip(lines[::2], lines[1::2], strict=True))


def _warn_of_blanks(answers: Sequence[dict[str, Any]]) -> None:
    blank = [number for number, answer in enumerate(answers, 1) if answer.get("blank")]
    if blank and sys.stderr is not None:
        sys.stderr.write(
            f"warning: {len(blank)} of {len(answers)} texts are blank (the first is text {blank[0]}); "
            "their answers are meaningless\n"
        )


def _line(answer: dict[str, Any], classifier: TextClassifier) -> str:
    """Return one line: each predicted label or number with its score or value, then the text."""
    pairs = (
        [(each["label"], each["score"]) for each in answer["top"]]
        if "top" in answer
        else classifier.decoder.cells(answer)
    )
    cells = [cell for name, value in pairs for cell in (_printed(name), f"{value:.4f}")]
    texts = [answer[name] for name in ("text", PAIR_COLUMN) if name in answer]
    return "\t".join([*cells, *map(_printed, texts)])


def _printed(text: str) -> str:
    """Escape a text's line breaks and control characters, which a terminal would interpret."""
    return text.translate(_CONTROLS)


DIRECTORY = Parameter("directory", "Directory of an artifact, or a run's id or `latest`.", "DIR")
STORAGE = Parameter(
    "storage", "Directory or URL (s3://, gs://) of the runs, where DIR is a run.", "DIR|URL", "--storage"
)
AS_JSON = Parameter(
    "as_json", "Print one JSON value on stdout and nothing else.", option="--json", kind=bool, default=False
)
PREDICT = Command(
    "predict",
    "Classify texts with an artifact.",
    (
        DIRECTORY,
        Parameter(
            "texts",
            "Texts, or two for each pair; without any, lines are read from stdin, a tab between the texts of a pair.",
            "TEXT",
            default=None,
            is_many=True,
        ),
        Parameter(
            "source", "Texts of a .csv, .jsonl or .txt file, one answer for each row.", "FILE", "--input"
        ),
        Parameter(
            "column",
            "Column or key of the texts in --input; default: text, or question where the artifact answers questions.",
            "NAME",
            "--column",
        ),
        Parameter(
            "pair_column",
            "Column or key of the second texts, where the artifact takes pairs; default: text_pair, or context.",
            "NAME",
            "--pair-column",
        ),
        Parameter("output", "File to write, .csv or .jsonl, instead of stdout.", "FILE", "--output"),
        Parameter(
            "top_k",
            "Number of labels for each text, the best first.",
            "K",
            "--top-k",
            int,
            None,
            1,
            1_000_000,
        ),
        AS_JSON,
        STORAGE,
    ),
    _run,
)
