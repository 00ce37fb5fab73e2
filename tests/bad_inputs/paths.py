"""Keys with the path of a file or a folder, and paths that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from distiltune.training.data.added_texts_config import UnlabelledConfig
from distiltune.training.data.config import DataConfig
from distiltune.training.pretraining.config import PretrainingConfig
from distiltune.training.student.config import StudentConfig
from distiltune.training.teacher.config import FineTuneConfig, LogitsFileConfig, TeacherConfig

from .case import SECRET, Case
from .damages import Damage, fifo, folder, link, write
from .goods import job
from .schema import Field, field

Place = Callable[[str], dict[str, Any]]


def _clinc(path: str) -> dict[str, Any]:
    return job(data={"source": "clinc_json", "path": path})


def _split(split: str, path: str) -> dict[str, Any]:
    made = job()
    made["data"][split] = path
    return made


def _hub(path: str) -> dict[str, Any]:
    return job(data={"source": "hub", "dataset": path})


def _more(path: str) -> dict[str, Any]:
    made = job()
    made["data"]["unlabelled"] = {"path": path}
    return made


def _logits(path: str) -> dict[str, Any]:
    return job(teacher={"logits": path}, student={"kind": "static"})


def _pretraining(path: str) -> dict[str, Any]:
    return job(student={"layers": [0], "pretraining": {"checkpoint": path}})


FILES: tuple[tuple[Field, str, Place], ...] = (
    (field(DataConfig, "path"), "bad.json", _clinc),
    (field(DataConfig, "train"), "bad.csv", partial(_split, "train")),
    (field(DataConfig, "validation"), "bad.jsonl", partial(_split, "validation")),
    (field(DataConfig, "test"), "bad.parquet", partial(_split, "test")),
    (field(UnlabelledConfig, "path"), "bad.txt", _more),
    (field(LogitsFileConfig, "path"), "bad.csv", _logits),
)
FOLDERS: tuple[tuple[Field, str, Place], ...] = (
    (field(DataConfig, "dataset"), "./bad", _hub),
    (field(TeacherConfig, "checkpoint"), "./bad", lambda path: job(teacher={"checkpoint": path})),
    (
        field(FineTuneConfig, "checkpoint"),
        "./bad",
        lambda path: job(teacher={"fine_tune": {"checkpoint": path}}),
    ),
    (field(StudentConfig, "checkpoint"), "./bad", lambda path: job(student={"checkpoint": path})),
    (field(PretrainingConfig, "checkpoint"), "./bad", _pretraining),
)


def names_of(suffix: str) -> dict[str, str]:
    """Return paths at which there is no file or folder."""
    return {
        "missing": f"./no-such{suffix}",
        "empty": "",
        "nul": f"a\0b{suffix}",
        "too-long": "x" * 5000 + suffix,
        "name-too-long": f"./{'x' * 300}{suffix}",
        "nobodys-home": f"~nobody-at-all/x{suffix}",
        "below-a-file": f"job.yaml/x{suffix}",
        "url-with-secret": f"https://user:{SECRET}@127.0.0.1:9/x{suffix}",
        "unknown-scheme": f"gopher://127.0.0.1/x{suffix}",
        "in-no-store": f"storage:cache/inputs/0/x{suffix}",
    }


def odd_things(path: str) -> dict[str, Damage]:
    """Return damages that leave no regular file at a path."""
    return {
        "pipe": fifo(path),
        "loop": link(path, path.removeprefix("./")),
        "dangling": link(path, "nowhere"),
        "endless": link(path, "/dev/zero"),
    }


def write_job(document: dict[str, Any]) -> None:
    """Write a specification as the job file of a case."""
    Path("job.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")


def _case(key: Field, how: str, document: dict[str, Any], damage: Damage) -> Case:
    def prepare() -> None:
        write_job(document)
        damage()

    return Case(
        f"path/{key.path}/{how}",
        ("run", "job.yaml"),
        names=(key.path,),
        needs=("data", "checkpoint"),
        damage=prepare,
    )


def _cases() -> Iterator[Case]:
    for key, path, place in (*FILES, *FOLDERS):
        is_file = (key, path, place) in FILES
        for how, name in names_of(Path(path).suffix).items():
            yield _case(key, how, place(name), lambda: None)
        for how, damage in odd_things(path).items():
            yield _case(key, how, place(path), damage)
        other = ("folder", folder(path)) if is_file else ("file", write(path, "text"))
        yield _case(key, other[0], place(path), other[1])


CASES: tuple[Case, ...] = tuple(_cases())
