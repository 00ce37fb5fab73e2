"""The stage that makes the students of two kinds: each kind's trials get the same texts in its own word pieces."""

from __future__ import annotations

import shutil
from typing import Any

import datasets
import numpy as np
import pytest
from models import tiny_classifier, tiny_data

from distiltune.cluster.pipeline.stages import Stages, students_in_words
from distiltune.cluster.remote.tasks import Task
from distiltune.cluster.specification.config import JobConfig
from distiltune.cluster.store.runs import Storage
from distiltune.training import tasks
from distiltune.training.checkpoints.load import load_tokenizer
from distiltune.training.data.text_data import TextData
from distiltune.training.data.tokenized import LabelledSplit

LABELS = ["balance", "oos", "transfer", "weather"]
TEXTS = [text for text, _ in tiny_data()]
SPACE = {
    "student.kind": {"type": "choice", "values": ["layers", "checkpoint"]},
    "student.layers": {"type": "choice", "values": [[0], [0, 1]]},
}


@pytest.fixture
def stages(tmp_path, monkeypatch) -> Stages:
    """The stages of a job after its logits, whose tasks run here."""
    encoder = tiny_classifier(tmp_path / "encoder", num_layers=1, label_names=LABELS, texts=TEXTS[:5], seed=1)
    config = JobConfig.model_validate(
        {
            "student": {"checkpoint": str(encoder)},
            "search": {"space": SPACE, "points": [{"student.kind": "checkpoint"}]},
            "training": {"max_length": 16},
        }
    )
    run = Storage(str(tmp_path / "runs")).create("kinds")
    teacher = tiny_classifier(tmp_path / "teacher", label_names=LABELS)
    shutil.copytree(teacher, run.store.local("teacher"))
    run.store.publish("teacher")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=LABELS)}
    )
    rows = datasets.Dataset.from_dict(
        {"text": TEXTS, "label": [number // 12 for number in range(48)]}, features=features
    )
    data = TextData(datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), rows)), None)
    made = Stages(config, config, run, data, models=None)  # pyright: ignore[reportArgumentType]
    learned, tokenizer = tasks.get("single_label"), load_tokenizer(teacher)
    logits = np.arange(48 * 4, dtype=np.float32).reshape(48, 4)
    made._splits = {
        "train": LabelledSplit(learned.tokenize(rows, tokenizer, 16), logits),
        "validation": LabelledSplit(learned.tokenize(rows, tokenizer, 16)),
    }

    def do(stage: str, function: Any, wanted: Any, *arguments: Any, report: Any) -> Any:
        return function(Task(run.store, config, "log", "progress", 1, False, "unfinished"), *arguments)

    monkeypatch.setattr(made._dispatcher, "do", do)
    monkeypatch.setattr(made, "_teacher", lambda: "teacher")
    return made


def test_each_kind_has_the_same_texts_in_its_own_word_pieces(stages, tmp_path, monkeypatch):
    import distiltune.search.driver.run_search as driver

    record, text = stages.student(lambda progress: None)
    names = ["layers; student.layers=[0]", "layers; student.layers=[0, 1]", "checkpoint"]
    assert sorted(record["students"]) == sorted(f"student.kind={name}" for name in names)
    assert text.startswith("3: ")

    class SearchBeganError(Exception):
        pass

    def search(config: Any, training: Any, inputs: Any, **others: Any) -> None:
        raise SearchBeganError(inputs)

    monkeypatch.setattr(driver, "run_search", search)
    monkeypatch.setattr("distiltune.cluster.pipeline.stages.num_gpus", lambda _: 0)
    with pytest.raises(SearchBeganError) as raised:
        stages.search(lambda progress: None)
    [inputs] = raised.value.args
    learned, rows = tasks.get("single_label"), stages._data.splits["train"]
    for kind, folder in (("layers", "teacher"), ("checkpoint", "encoder")):
        expected = learned.tokenize(rows, load_tokenizer(tmp_path / folder), 16).input_ids
        own = inputs.of({"student.kind": kind, "student.layers": [0]})
        assert own.train["train"].tokens.input_ids.tolist() == expected.tolist()
        assert own.validation.input_ids.tolist() == expected.tolist()
        assert own.train["train"].teacher_logits.tolist() == inputs.train["train"].teacher_logits.tolist()
    assert len(inputs.respelled["checkpoint"].train["train"].tokens.input_ids) != len(
        inputs.train["train"].tokens.input_ids
    )
    student = inputs.student_of({"student.kind": "checkpoint"}).key
    assert (
        load_tokenizer(stages._run.store.fetch(student)).get_vocab()
        == load_tokenizer(tmp_path / "encoder").get_vocab()
    )


def test_of_many_students_the_summary_names_the_first_and_the_last():
    names = [f"student.num_layers={number}" for number in range(1, 7)]
    assert students_in_words(names[:2]) == "2: student.num_layers=1, student.num_layers=2"
    assert students_in_words(names) == "6, from student.num_layers=1 to student.num_layers=6"
