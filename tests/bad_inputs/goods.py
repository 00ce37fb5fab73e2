"""The good inputs that cases damage: made once, and copied into a case's folder under their names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import yaml

TEXT = "open early red"
RUN, OTHER_RUN, UNFINISHED = "done", "second", "broken-off"
STORAGE = "distiltune-runs"


def make_goods(base: Path) -> None:
    """Make all good inputs below ``base``, and load the checkpoint so that its libraries are loaded."""
    base.mkdir()
    for name, make in GOODS.items():
        make(base / name)
    from distiltune.training.checkpoints.load import load_classifier

    load_classifier(base / "checkpoint")


def copy_good(base: Path, name: str) -> None:
    """Copy a good input into the working directory."""
    source = base / name
    if source.is_dir():
        shutil.copytree(source, name, symlinks=True)
    else:
        shutil.copyfile(source, name)


def job(**sections: object) -> dict:
    """Return a small good specification with the good inputs as its files; ``sections`` replace its own."""
    data = {"source": "files", **{split: f"data/{split}.csv" for split in ("train", "validation", "test")}}
    return {
        "data": data,
        "teacher": {"checkpoint": "checkpoint"},
        "student": {"layers": [0]},
        "training": {"max_length": 16},
        "resources": {"num_cpus": 1},
        "benchmark": {"tune_session": False, "floors": False},
        "export": {"choose": {"max_drop_from_student": 0.5}},
        **sections,
    }


def _checkpoint(directory: Path) -> None:
    from datafiles import LABELS, rows_of
    from models import tiny_classifier

    texts = [text for text, _ in rows_of("train")]
    tiny_classifier(directory, label_names=sorted(LABELS), texts=texts)


def _data(directory: Path) -> None:
    from datafiles import clinc_document, rows_of, write

    directory.mkdir()
    for split in ("train", "validation", "test"):
        for extension in (".csv", ".jsonl", ".parquet"):
            write(directory / f"{split}{extension}", rows_of(split))
    (directory / "clinc.json").write_text(json.dumps(clinc_document()), encoding="utf-8")
    (directory / "more.txt").write_text("a further text\nand one more\n", encoding="utf-8")


def _artifact(directory: Path) -> None:
    from artifacts import tiny_artifact

    from distiltune.export.artifact.seal import seal_artifact

    made = tiny_artifact(directory.with_name("unsealed"))
    seal_artifact(made, directory, made_from={"data": "x"}, measurements={"query": TEXT})
    shutil.rmtree(made)


def _storage(directory: Path) -> None:
    from runfiles import Writer

    from distiltune.cluster.specification.config import JobConfig
    from distiltune.cluster.store.runs import Storage

    storage = Storage(str(directory), retry_s=0)
    for run_id in (RUN, OTHER_RUN):
        writer = Writer(storage, run_id, created="2026-01-02T03:04:05+00:00").finished()
        artifact = writer.run.store.local(writer.run.artifact)
        shutil.rmtree(artifact)
        shutil.copytree(directory.with_name("artifact"), artifact)
        writer.run.write("job.json", JobConfig.model_validate(job()).model_dump(mode="json"))
        search = writer.run.stage_record("search")
        search["result"]["trials"] = [
            {
                **trial,
                "checkpoint": f"runs/{run_id}/search/{trial['trial_id']}/checkpoint",
                "metrics": {"validation_accuracy": 0.9},
                "best_epoch": 3,
            }
            for trial in search["result"]["trials"]
        ]
        writer.run.write("stages/search.json", search)
    broken_off = Writer(storage, UNFINISHED, created="2026-01-01T03:04:05+00:00").state("running")
    broken_off.until("search").stage("search", "running").progress("search", "1 of 4 trials done")
    broken_off.beat(at=1.0)
    broken_off.run.write("job.json", JobConfig.model_validate(job()).model_dump(mode="json"))


def _job_file(path: Path) -> None:
    path.write_text(yaml.safe_dump(job(), sort_keys=False), encoding="utf-8")


GOODS: dict[str, Callable[[Path], None]] = {
    "data": _data,
    "checkpoint": _checkpoint,
    "artifact": _artifact,
    STORAGE: _storage,
    "job.yaml": _job_file,
}
