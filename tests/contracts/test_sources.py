"""The contract of every data source, and a source registered from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Literal

import datasets
import pytest
from pydantic import Field, ValidationError

from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.cluster.store.input_files import data_is_local, ship_inputs, with_local_inputs
from distiltune.errors import ConfigError, DataError
from distiltune.storage.store import Store
from distiltune.training.data.config import DataConfig, data_config
from distiltune.training.data.rows import RawSplit
from distiltune.training.data.sources.base import DATA_SOURCES
from distiltune.training.data.sources.files import existing_file
from distiltune.training.data.text_data import load_data
from distiltune.training.section import Name

SPLITS = ("train", "validation", "test")
ROWS = [
    ("play a song", "music"),
    ("stop the music", "music"),
    ("set an alarm", "alarm"),
    ("wake me", "alarm"),
]


def made(source: str, folder: Path) -> DataConfig:
    """The section of a source that has ``ROWS`` in each split; the embedded corpus is unchanged."""
    if source == "clinc_json":
        path = folder / "clinc.json"
        path.write_text(json.dumps(dict.fromkeys(("train", "val", "test"), ROWS)))
        return data_config(source=source, path=str(path))
    if source == "hub":
        rows = datasets.Dataset.from_dict(
            dict(zip(("text", "label"), map(list, zip(*ROWS, strict=True)), strict=True))
        )
        datasets.DatasetDict(dict.fromkeys(SPLITS, rows)).save_to_disk(folder / "hub")
        return data_config(source=source, dataset=str(folder / "hub"))
    if source == "files":
        for split in SPLITS:
            lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS]
            (folder / f"{split}.jsonl").write_text("\n".join(lines))
        return data_config(source=source, **{split: str(folder / f"{split}.jsonl") for split in SPLITS})
    return data_config(source=source)


class LinesData(DataConfig):
    """One file of ``split<TAB>label<TAB>text`` lines."""

    source: Literal["lines"] = "lines"
    file: Name = Field(description="lines: the file.")

    local_files: ClassVar[tuple[str, ...]] = ("file",)

    def read(self) -> list[RawSplit]:
        path = existing_file(self.file, "data.file")
        rows = [line.split("\t") for line in path.read_text().splitlines()]
        return [
            RawSplit(
                split,
                str(path),
                [text for name, _, text in rows if name == split],
                [label for name, label, _ in rows if name == split],
                lambda index: f"row {index + 1}",
            )
            for split in SPLITS
        ]


def test_the_sources():
    assert DATA_SOURCES.names[0] == "embedded", "the default is listed first"
    assert set(DATA_SOURCES.names) == {"embedded", "clinc_json", "files", "hub"}


@pytest.mark.parametrize("source", DATA_SOURCES.names)
def test_a_source_gives_three_checked_splits_and_its_section_survives_json(source, tmp_path):
    config = made(source, tmp_path)
    assert type(config) is DATA_SOURCES[source]
    data = load_data(config)
    assert list(data.splits) == list(SPLITS) and all(len(data.splits[name]) for name in SPLITS)
    if source != "embedded":
        assert data.splits["test"]["text"][:] == [text for text, _ in ROWS]
    assert data_config(**json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize("source", DATA_SOURCES.names)
def test_the_local_files_of_a_source_are_keys_that_it_needs_and_travel_with_a_job(source, tmp_path):
    config = made(source, tmp_path)
    for key in config.local_files:
        with pytest.raises(ValidationError, match=key):
            data_config(**{**config.model_dump(), key: None})
    job = load_config("quickstart", []).model_copy(update={"data": config})
    assert data_is_local(job) == (not config.is_remote)
    store = Store(str(tmp_path / "store"))
    sent = ship_inputs(job, store)
    assert all(getattr(sent.data, key).startswith("storage:") for key in config.local_files)
    there = with_local_inputs(sent, store).data
    assert load_data(there).fingerprint == load_data(config).fingerprint


@pytest.mark.parametrize("source", DATA_SOURCES.names)
def test_a_source_is_described_and_ignores_the_valid_keys_of_others(source, tmp_path):
    section = DATA_SOURCES[source]
    schema = JobConfig.model_json_schema()["$defs"][section.__name__]
    assert all("description" in each for each in schema["properties"].values())
    config = made(source, tmp_path)
    for other in DATA_SOURCES:
        for key in set(other.model_fields) - set(section.model_fields):
            value = {
                "delimiter": ";",
                "text_template": "{x}",
                "slice_columns": ["x"],
                "label_columns": ["x"],
            }.get(key, "x")
            assert data_config(**config.model_dump(), **{key: value}) == config
            with pytest.raises(ValidationError, match=key):
                data_config(**config.model_dump(), **{key: 5})
    with pytest.raises(ValidationError, match="speed"):
        data_config(**config.model_dump(), speed=3)


def test_a_source_that_is_added_from_outside_is_read_and_sent(tmp_path):
    path = tmp_path / "all.tsv"
    path.write_text("\n".join(f"{split}\t{label}\t{text}" for split in SPLITS for text, label in ROWS))
    given = ["data.source=lines", f"data.file={path}"]
    with pytest.raises(ConfigError, match=r"data\.source: 'lines'"):
        load_config("quickstart", given)
    with DATA_SOURCES.temporarily(LinesData):
        job = load_config("quickstart", given)
        with pytest.raises(ConfigError, match=r"data\.file: .*required"):
            load_config("quickstart", given[:1])
    assert load_data(job.data).label_names == ["alarm", "music"]
    store = Store(str(tmp_path / "store"))
    sent = ship_inputs(job, store)
    path.unlink()
    with pytest.raises(DataError, match=r"data\.file"):
        load_data(job.data)
    assert load_data(with_local_inputs(sent, store).data).splits["test"]["text"][:] == [
        text for text, _ in ROWS
    ]
