"""Damaged data files of every format; the error names the file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distiltune.export.config import OutOfScopeConfig
from distiltune.training.data.added_texts_config import UnlabelledConfig
from distiltune.training.data.config import DataConfig
from distiltune.training.data.sources.base import ColumnsConfig

from .case import Case
from .damages import ABSENT, Damage, cut, edit_json, flip, write
from .goods import job
from .paths import write_job
from .schema import key, option

CSV = "text,label\nrain or shine,weather\nwake me,alarm\nsing,oos\n"


def _lines(*rows: Any) -> str:
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)


GOOD = {"text": "wake me", "label": "alarm"}
EVERY = [GOOD, {"text": "sun", "label": "weather"}, {"text": "sing", "label": "oos"}]
SURROGATE = '{"text": "a\\ud800", "label": "alarm"}'

CSV_FILES: dict[str, bytes | str] = {
    "empty": "",
    "blank": "\n \n",
    "header-only": "text,label\n",
    "no-label-column": "text,intent\nhi,alarm\n",
    "no-text-column": "Text,label\nhi,alarm\n",
    "semicolons": CSV.replace(",", ";").replace("label", "intent"),
    "tabs-fewer": CSV.replace(",", "\t") + "hi\n",
    "column-twice": "text,label,text\na,alarm,b\n",
    "blank-texts": "text,label\n ,oos\n,alarm\n",
    "blank-label": CSV + "hi, \n",
    "more-fields": CSV + "hi, you,alarm\n",
    "fewer-fields": CSV + "hi\n",
    "open-quote": CSV + '"never closed,alarm\n',
    "latin-1": CSV.encode() + b"caf\xe9,oos\n",
    "utf-16": (CSV + "hi, \n").encode("utf-16"),
    "utf-16-cut": CSV.encode("utf-16")[:-1],
    "utf-16-blank": " \n".encode("utf-16"),
    "utf-32": CSV.encode("utf-32"),
    "binary": bytes(range(256)) * 8,
    "nul": CSV + "a\0b,oos\n",
    "gzip": gzip.compress(CSV.encode()),
    "workbook": b"PK\x03\x04rest",
    "json": _lines(GOOD),
    "one-label": "text,label\na,alarm\nb,alarm\n",
    "label-in-capitals": CSV + "x,ALARM\n",
    "label-with-a-space": CSV + "x,alarm \n",
    "labels-of-no-other-split": "text,label\na,x\nb,y\nc,y\n",
    "long-labels": f"text,label\na,{'l' * 5000}\nb,{'m' * 5000}\n",
    "long-column": f"{'c' * 5000},label\nx,alarm\n",
    "many-faults": CSV + "a, \n" * 3000,
    "return-only": CSV.replace("\n", "\r").replace("text", "txt"),
}
JSONL_FILES: dict[str, bytes | str] = {
    "empty": "",
    "csv": CSV,
    "cut": _lines(GOOD) + '{"text": "hi',
    "array": json.dumps([GOOD]),
    "lists": _lines(["wake me", "alarm"]),
    "null-line": _lines(GOOD, "null"),
    "deep": "[" * 100_000,
    "huge-number": '{"text": "a", "label": ' + "9" * 5000 + "}",
    "no-label": _lines({"text": "a", "intent": "b"}),
    "one-lacks": _lines(GOOD, {"text": "hi"}),
    "null-texts": _lines({"text": None, "label": "oos"}, {"text": None, "label": "alarm"}),
    "null-label": _lines(GOOD, {"text": "a", "label": None}),
    "number": _lines(GOOD, {"text": 4, "label": "oos"}),
    "fraction": _lines({"text": "a", "label": 1.5}),
    "not-a-number": '{"text": "a", "label": NaN}\n',
    "list": _lines({"text": ["a"], "label": "alarm"}),
    "surrogate": _lines(SURROGATE),
    "key-twice": _lines(*EVERY, '{"text": "wake", "label": "alarm", "label": "oos"}'),
    "text-twice": _lines(*EVERY, '{"text": "wake", "text": "sleep", "label": "alarm"}'),
    "escaped-key-twice": _lines(*EVERY, '{"text": "wake", "label": "alarm", "lab\\u0065l": "oos"}'),
    "binary": bytes(range(256)),
    "latin-1": b'{"text": "caf\xe9", "label": "oos"}\n',
    "two-a-line": '{"text": "a", "label": "oos"} {"text": "b", "label": "oos"}\n',
    "long-value": _lines({"text": {"x": "v" * 5000}, "label": "oos"}),
}
JSON_FILES: dict[str, bytes | str] = {
    "empty": "",
    "blank": "[]",
    "object": json.dumps({"train": [GOOD]}, indent=1),
    "lists": json.dumps([["wake me", "alarm"]]),
    "cut": json.dumps(EVERY)[:-9],
    "null-label": json.dumps([*EVERY, {"text": "a", "label": None}]),
    "key-twice": '[{"text": "a", "text": "b", "label": "c"}]',
    "deep": "[" * 100_000,
    "csv": CSV,
    "lines-cut": _lines(GOOD) + '{"text": "hi',
    "gzip": gzip.compress(json.dumps(EVERY).encode()),
}
GZIP_FILES: dict[str, bytes | str] = {
    "csv": CSV,
    "empty": "",
    "cut": gzip.compress(CSV.encode())[:-9],
    "changed": gzip.compress(CSV.encode())[:-8] + bytes(8),
    "blank": gzip.compress(b"\n"),
    "blank-label": gzip.compress((CSV + "hi, \n").encode()),
}
ARROW_FILES: dict[str, bytes | str] = {
    "empty": "",
    "csv": CSV,
    "mark-only": b"ARROW1",
    "zeros": b"ARROW1\0\0" + bytes(1000),
    "stream-cut": b"\xff\xff\xff\xff\x80\0\0\0" + bytes(40),
    "stream-huge": b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(40),
}
SAVED_FILES: dict[str, str] = {
    "dataset_dict.json": "[",
    "train/state.json": "{}",
    "train/dataset_info.json": "[]",
    "train/data-00000-of-00001.arrow": "ARROW1",
}
PARQUET_FILES: dict[str, Damage] = {
    "empty": write("data/train.parquet", ""),
    "csv": write("data/train.parquet", CSV),
    "mark-only": write("data/train.parquet", b"PAR1"),
    "both-marks": write("data/train.parquet", b"PAR1" + b"x" * 50 + b"PAR1"),
    "cut": cut("data/train.parquet"),
    "cut-at-end": cut("data/train.parquet", 0.99),
    "footer-changed": flip("data/train.parquet", 0.9999),
    "page-changed": flip("data/train.parquet", 0.05),
    "zeros": write("data/train.parquet", b"PAR1" + bytes(1000) + b"PAR1"),
    "huge-footer": write("data/train.parquet", b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1"),
}


def _table(**columns: list[Any]) -> Damage:
    def damage() -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(columns), "data/train.parquet")

    return damage


PARQUET_FILES |= {
    "no-label": _table(text=["a"], intent=["b"]),
    "numbers": _table(text=[1, 2], label=["alarm", "oos"]),
    "lists": _table(text=[["a"], ["b"]], label=["alarm", "oos"]),
    "nulls": _table(text=["a", "b"], label=["alarm", None]),
    "null-texts": _table(text=[None, None], label=["alarm", "oos"]),
    "bytes": _table(text=[b"\xff\xfe", b"b"], label=["alarm", "oos"]),
    "no-rows": _table(text=[], label=[]),
}
CLINC = "data/clinc.json"
CLINC_FILES: dict[str, Damage] = {
    "empty": write(CLINC, ""),
    "list": write(CLINC, "[]"),
    "no-splits": write(CLINC, "{}"),
    "cut": cut(CLINC),
    "csv": write(CLINC, CSV),
    "lacks-a-split": edit_json(CLINC, "val", ABSENT),
    "split-is-a-word": edit_json(CLINC, "train", "word"),
    "split-is-null": edit_json(CLINC, "train", None),
    "split-is-empty": edit_json(CLINC, "train", []),
    "row-is-a-word": edit_json(CLINC, "train.0", "word"),
    "row-of-three": edit_json(CLINC, "train.0", ["a", "b", "c"]),
    "row-of-numbers": edit_json(CLINC, "train.0", [1, 2]),
    "row-is-blank": edit_json(CLINC, "train.0", ["alarm", " "]),
    "row-is-null": edit_json(CLINC, "oos_test.0", None),
    "deep": write(CLINC, "[" * 100_000),
    "binary": write(CLINC, bytes(range(256))),
    "split-twice": write(CLINC, '{"train": [], "train": [["a", "b"]]}'),
}
MORE = "data/more.txt"
MORE_FILES: dict[str, bytes | str] = {
    "empty": "",
    "blank": "\n\n",
    "binary": bytes(range(256)),
    "latin-1": b"caf\xe9\n",
    "utf-16": "text\n".encode("utf-16")[:-1],
    "nul": "a\0b\n",
    "gzip": gzip.compress(b"text\n"),
}
OTHER_NAMES = ("train", "train.gz", "train.xlsx", "train.csv.zip", "TRAIN.CSV ")


# Name -> the task, the content of the file, further keys of the section `data`, and what the error names.
TASK_FILES: dict[str, tuple[str, str, dict[str, Any], tuple[str, ...]]] = {
    "a-name": ("multi_label", CSV, {}, ("data/train.csv", "label_separator")),
    "a-number": ("multi_label", "text,label\na,3\nb,4\n", {}, ("data/train.csv", "label")),
    "half-a-list": ("multi_label", "text,label\na,\"['x'\"\n", {}, ("data/train.csv", "label")),
    "two": (
        "multi_label",
        "text,a,b\nx,2,0\ny,0,1\n",
        {"label_columns": ["a", "b"]},
        ("data/train.csv", "a is"),
    ),
    "blank": (
        "multi_label",
        "text,a,b\nx,1,\ny,0,1\n",
        {"label_columns": ["a", "b"]},
        ("data/train.csv", "b is"),
    ),
    "no-column": (
        "multi_label",
        "text,a\nx,1\ny,0\n",
        {"label_columns": ["a", "b"]},
        ("data.label_columns", "'b'"),
    ),
    "no-labels": (
        "multi_label",
        "text,a,b\nx,0,0\ny,0,0\n",
        {"label_columns": ["a", "b"]},
        ("data/train.csv",),
    ),
    "both-forms": (
        "multi_label",
        CSV,
        {"label_columns": ["label"], "label_separator": ";"},
        ("data.label_separator",),
    ),
    "words": ("regression", CSV, {}, ("data/train.csv", "label is")),
    "comma": ("regression", 'text,label\na,"3,5"\nb,2\n', {}, ("data/train.csv", "label is")),
    "nan": ("regression", "text,label\na,nan\nb,2\n", {}, ("data/train.csv", "label is")),
    "infinite": ("regression", "text,label\na,1e999\nb,2\n", {}, ("data/train.csv", "label is")),
    "blank-number": ("regression", "text,label\na,\nb,2\n", {}, ("data/train.csv", "label is")),
    "equal": ("regression", "text,label\na,2\nb,2\n", {}, ("data/train.csv", "label")),
    "separated": ("regression", CSV, {"label_separator": ";"}, ("data.label_separator",)),
    "unaligned": (
        "token_classification",
        "text,label\na b,B-x O\nc d,O\n",
        {},
        ("data/train.csv", "1 tags for 2 tokens"),
    ),
    "no-iob": ("token_classification", "text,label\na b,NN VB\n", {}, ("data/train.csv", "'NN'", "B-TYPE")),
    "span-outside": (
        "token_classification",
        'text,label\na b,"[[0, 9, ""x""]]"\n',
        {},
        ("data/train.csv", "0 to 9"),
    ),
    "spans-overlap": (
        "token_classification",
        'text,label\na b,"[[0, 3, ""x""], [2, 3, ""y""]]"\n',
        {},
        ("data/train.csv", "overlap"),
    ),
    "half-a-span": ("token_classification", 'text,label\na b,"[[0, 3"\n', {}, ("data/train.csv", "label is")),
    "no-entity": (
        "token_classification",
        "text,label\n" + "".join(f"a {word},O O\n" for word in "bcdefghijkl"),
        {},
        ("data/train.csv", "entity"),
    ),
    "one-name": ("token_classification", CSV, {}, ("data/train.csv",)),
    "tags-in-columns": (
        "token_classification",
        CSV,
        {"label_columns": ["text", "label"]},
        ("data.label_columns",),
    ),
    "answer-elsewhere": (
        "question_answering",
        'question,context,answers\nwho?,Ann and Bo,"{""text"": [""Bo""], ""answer_start"": [1]}"\n',
        {},
        ("data/train.csv", "answer 1 is 'Bo'", "'nn' at 1"),
    ),
    "answer-outside": (
        "question_answering",
        'question,context,answers\nwho?,Ann and Bo,"{""text"": [""Bo""], ""answer_start"": [80]}"\n',
        {},
        ("data/train.csv", "80", "10 characters"),
    ),
    "answers-of-names": (
        "question_answering",
        "question,context,answers\nwho?,Ann and Bo,Bo\n",
        {},
        ("data/train.csv", "answers is 'Bo'"),
    ),
    "no-context": (
        "question_answering",
        "question,answers\nwho?,[]\n",
        {},
        ("data.text_pair_column", "'context'"),
    ),
    "single-texts": (
        "question_answering",
        "question,answers\nwho?,[]\n",
        {"text_pair_column": None},
        ("data/train.csv", "data.text_pair_column"),
    ),
    "blank-contexts": (
        "question_answering",
        "question,context,answers\nwho?, ,[]\nwhy?,,[]\n",
        {},
        ("data/train.csv", "second text"),
    ),
    "never-answered": (
        "question_answering",
        "question,context,answers\n" + "".join(f"who?,Ann {number},[]\n" for number in range(12)),
        {},
        ("data/train.csv", "answer"),
    ),
    "three-columns-of-answers": (
        "question_answering",
        CSV,
        {"label_columns": ["text", "label", "other"]},
        ("data.label_columns", "two columns"),
    ),
    "tags": (
        "single_label",
        "text,label\na b,B-x O\nc d,O O\n",
        {},
        ("data/train.csv", "set task: token_classification"),
    ),
    "spans": (
        "single_label",
        'text,label\na b,"[{""start"": 0, ""end"": 1, ""label"": ""x""}]"\nc d,[]\n',
        {},
        ("data/train.csv", "set task: token_classification"),
    ),
    "answers": (
        "single_label",
        'text,label\na b,"{""text"": [""a""], ""answer_start"": [0]}"\n',
        {},
        ("data/train.csv", "set task: question_answering"),
    ),
    "tags-as-names": (
        "multi_label",
        "text,label\na b,B-x O\nc d,O O\n",
        {"label_separator": " "},
        ("data/train.csv", "set task: token_classification"),
    ),
    "one-of-several": ("single_label", CSV, {"label_columns": ["text", "label"]}, ("data.label_columns",)),
}


# Files of which the error names the label, and not the file.
LABEL_FAULTS = (
    "one-label",
    "label-in-capitals",
    "label-with-a-space",
    "labels-of-no-other-split",
    "long-labels",
)


def _saved(name: str, content: str) -> Damage:
    """Write a folder of ``save_to_disk`` with one damaged file."""

    def damage() -> None:
        import datasets

        datasets.disable_progress_bars()
        rows = datasets.Dataset.from_list(EVERY)
        datasets.DatasetDict({"train": rows}).save_to_disk("data/saved")
        Path("data/saved", name).write_text(content)

    return damage


def _case(
    what: str,
    how: str,
    names: tuple[Any, ...],
    damage: Damage,
    change: Callable[[dict[str, Any]], object],
    most: int = 400,
) -> Case:
    def prepare() -> None:
        document = job()
        change(document["data"])
        write_job(document)
        damage()

    return Case(
        f"data/{what}/{how}",
        ("run", "job.yaml"),
        names=names,
        needs=("data", "checkpoint"),
        damage=prepare,
        most=most,
    )


_OTHER_TEACHER = ("question_answering", "token_classification")  # tasks that the good checkpoint cannot teach


def _of_task(how: str, task: str, content: str, more: dict[str, Any], names: tuple[str, ...]) -> Case:
    def prepare() -> None:
        made = job(data={"source": "files", "train": "data/train.csv", **more})
        if task in _OTHER_TEACHER:
            made["teacher"] = {"scratch": {}}
        write_job({**made, "task": task})
        write("data/train.csv", content)()

    return Case(
        f"data/{task}/{how}", ("run", "job.yaml"), names=names, needs=("data", "checkpoint"), damage=prepare
    )


def _kind(name: str) -> str:
    return (
        "".join(Path(name).suffixes)
        if name.endswith(".gz") and name != "train.gz"
        else Path(name).suffix or "other"
    )


def _train(name: str, how: str, damage: Damage, named: str = "") -> Case:
    path = f"data/{name}"
    return _case(_kind(name), how, (named or path,), damage, lambda data: data.update(train=path))


def _cases() -> Iterator[Case]:
    for name, contents in (
        ("train.csv", CSV_FILES),
        ("train.jsonl", JSONL_FILES),
        ("train.json", JSON_FILES),
        ("train.csv.gz", GZIP_FILES),
        ("train.arrow", ARROW_FILES),
    ):
        for how, content in contents.items():
            named = "label" if how in LABEL_FAULTS else f"data/{name}"
            yield _train(name, how, write(f"data/{name}", content), named)
    for name, content in SAVED_FILES.items():
        yield _train("saved", f"damaged-{Path(name).name}", _saved(name, content))
    for how, damage in PARQUET_FILES.items():
        yield _train("train.parquet", how, damage)
    for name in OTHER_NAMES:
        yield _train(name, f"called-{name.strip()}", write(f"data/{name}", CSV))
    clinc = {"source": "clinc_json", "path": CLINC}
    for how, damage in CLINC_FILES.items():
        yield _case("clinc", how, (CLINC,), damage, lambda data: (data.clear(), data.update(clinc)))
    for how, content in MORE_FILES.items():
        named = (MORE, key(UnlabelledConfig, "path"))
        yield _case(
            "more", how, (named,), write(MORE, content), lambda data: data.update(unlabelled={"path": MORE})
        )
    for column in ("text_column", "label_column"):
        for how, value in {"unknown": "nonsense", "empty": "", "long": "c" * 5000}.items():
            named = (key(DataConfig, column),)
            # The error has one fault for each of the three files.
            yield _case(
                column, how, named, lambda: None, lambda data, c=column, v=value: data.update({c: v}), 700
            )
    yield _case(
        "out_of_scope_label",
        "unknown",
        (key(DataConfig, "out_of_scope_label"),),
        lambda: None,
        lambda data: data.update(out_of_scope_label="nonsense"),
    )
    score = key(OutOfScopeConfig, "score")
    yield Case(
        "data/out_of_scope_label/margin-without",
        ("run", "job.yaml", f"{option('run', 'overrides')}={score}=margin"),
        names=(score, "data.out_of_scope_label"),
        needs=("data", "checkpoint"),
        damage=lambda: write_job(job()),
    )
    other = write("data/test.csv", "text,label\nx,storm\n")
    yield _case("splits", "labels-only-in-test", ("data/test.csv",), other, lambda _: None)
    few = write("data/train.csv", "text,label\nx,weather\ny,alarm\n")
    yield _case(
        "splits", "too-few-to-hold-out", ("data.split.test",), few, lambda data: data.update(test=None)
    )
    for split in ({"validation": 0.5, "test": 0.5}, {"validation": 0}, {"test": 1}):
        how = "-".join(f"{name}-{value}" for name, value in split.items())
        yield _case("split", how, ("data.split",), lambda: None, lambda data, s=split: data.update(split=s))
    for how, (task, content, more, named) in TASK_FILES.items():
        yield _of_task(how, task, content, more, named)
    for how, value in {"unknown": "{nonsense}", "no-column": "text", "open": "{text"}.items():
        yield _case(
            "text_template",
            how,
            (key(ColumnsConfig, "text_template"),),
            lambda: None,
            lambda data, v=value: data.update(text_template=v),
            700,
        )
    yield _case(
        "group_column",
        "unknown",
        (key(ColumnsConfig, "group_column"),),
        lambda: None,
        lambda data: data.update(group_column="nonsense"),
        700,
    )


CASES: tuple[Case, ...] = tuple(_cases())
