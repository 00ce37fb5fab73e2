"""Several teachers whose mean logits a student learns."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from remote_tasks import task
from small_job import environment

from distiltune.cluster.remote import teacher_labels as labels
from distiltune.cluster.remote.teacher_labels import (
    label_with_teacher,
    label_with_teachers,
    make_teacher,
    tokenize_for_student,
)
from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.errors import ConfigError
from distiltune.training.checkpoints.load import load_classifier
from distiltune.training.data.text_data import TextData
from distiltune.training.data.tokenized import LabelledSplit
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.models.inference import compute_logits
from distiltune.training.teacher.prepare import teacher_key

TEXTS = [
    f"{verb} {thing}" for verb in ("play", "stop", "find", "buy") for thing in ("a song", "the radio", "milk")
]
NAMES = ["play", "stop", "find", "buy"]
TINY = {
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_train_epochs": 1,
}


def job(**teacher) -> JobConfig:
    return JobConfig.model_validate({"teacher": {"scratch": TINY, **teacher}, "training": {"max_length": 16}})


def text_data(texts: list[str]) -> TextData:
    rows = datasets.Dataset.from_dict(
        {"text": texts, "label": [NAMES.index(text.split()[0]) for text in texts]},
        features=datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)}
        ),
    )
    return TextData(datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), rows)), None)


@pytest.fixture
def data() -> TextData:
    return text_data(TEXTS)


def test_the_first_of_an_ensemble_is_the_teacher_that_a_job_without_one_has(data):
    several = job(seed=3, ensemble=3).teacher
    assert [each.seed for each in several.members] == [3, 4, 5]
    alone = [job(seed=seed).teacher for seed in (3, 4, 5)]
    keys = [
        [teacher_key(each, data, TrainingConfig(max_length=16)) for each in group]
        for group in (several.members, alone)
    ]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 3


def test_a_student_learns_the_mean_of_their_logits(data, tmp_path):
    here = task(tmp_path, job(ensemble=2))
    for number in range(2):
        make_teacher(here, data, number, f"t{number}")
    assert here.store.names() == ["cache", "progress", "t0", "t1"], "nothing is left of the trainings"
    assert here.store.names("cache/work") == [], "nor of the claims to them"
    splits, record = label_with_teachers(here, data, ["t0", "t1"])
    each = []
    for number in range(2):
        model, tokenizer = load_classifier(tmp_path / f"t{number}")
        each.append(
            compute_logits(model, splits["train"].tokens, pad_token_id=tokenizer.pad_token_id, num_threads=1)
        )
    assert np.abs(each[0] - each[1]).max() > 1e-3
    np.testing.assert_allclose(splits["train"].teacher_logits, (each[0] + each[1]) / 2, atol=1e-6)
    np.testing.assert_allclose(splits["validation"].teacher_logits, (each[0] + each[1]) / 2, atol=1e-6)
    right = (each[0] + each[1]).argmax(-1) == splits["train"].tokens.labels  # the same texts in all splits
    assert record["ensemble"]["mixture"]["validation"]["accuracy"] == pytest.approx(right.mean())
    assert len(record["keys"]["train"]) == 2
    assert record["texts_computed"] == len(TEXTS)
    again, record = label_with_teachers(here, data, ["t0", "t1"])
    assert record["texts_computed"] == 0
    np.testing.assert_array_equal(again["train"].teacher_logits, splits["train"].teacher_logits)


def test_of_more_candidates_those_are_learned_that_the_teachers_are_least_certain_about(data, tmp_path):
    def labelled(**spliced: int) -> dict[str, LabelledSplit]:
        given = job(ensemble=2).model_dump() | {"data": {"augmentation": {"spliced": spliced}}}
        here = task(tmp_path, JobConfig.model_validate(given))
        for number in range(2):
            make_teacher(here, data, number, f"t{number}")
        splits = label_with_teachers(here, data, ["t0", "t1"])[0]
        own = tokenize_for_student(here, data, "t0", "t1", splits)["spliced"]  # of the same tokenizer
        np.testing.assert_array_equal(own.tokens.input_ids, splits["spliced"].tokens.input_ids)
        return splits

    every, splits = labelled(count=20), labelled(count=6, candidates=20)
    logits = np.asarray(every["spliced"].teacher_logits) / 2
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    entropy = -(shares * np.log(shares)).sum(axis=1)
    found = splits["spliced"]
    assert found.selected is not None
    rows = found.selected.tolist()
    assert rows == sorted(set(rows)) != list(range(6)), "in their order, and not the first ones"
    assert entropy[rows].min() >= np.delete(entropy, rows).max() - 1e-6
    np.testing.assert_array_equal(found.tokens.example_ids, every["spliced"].tokens.example_ids[rows])
    np.testing.assert_array_equal(found.teacher_logits, np.asarray(every["spliced"].teacher_logits)[rows])
    few = found.first(2)
    assert few.selected is not None
    assert few.selected.tolist() == rows[:2]
    assert splits["train"].selected is None
    assert len(splits["train"]) == len(TEXTS)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"data.augmentation.spliced": {"count": 8, "candidates": 7}}, ["candidates: 7 given", "8 or more"]),
        (
            {"task": "multi_label", "data.augmentation.dropped": {"count": 8, "candidates": 9}},
            ["data.augmentation.dropped.candidates", "multi_label", "remove it"],
        ),
        ({"data.augmentation.spliced": {"count": 8, "candidates": 0}}, ["candidates"]),
    ],
)
def test_a_selection_that_cannot_be_made_is_refused(given, parts):
    with pytest.raises(ConfigError) as error:
        load_config("quickstart-scratch", [f"{key}={json.dumps(value)}" for key, value in given.items()])
    for part in parts:
        assert part in str(error.value)


def test_each_teacher_may_label_in_a_task_of_its_own(data, tmp_path):
    here = task(tmp_path, job(ensemble=2))
    for number in range(2):
        make_teacher(here, data, number, f"t{number}")
    computed = [label_with_teacher(here, data, ["t0", "t1"], number) for number in range(2)]
    assert computed == [["train"], ["train"]], "the validation split has the same texts here"
    assert label_with_teacher(here, data, ["t0", "t1"], 1) == []
    splits, record = label_with_teachers(here, data, ["t0", "t1"], computed[0])
    assert record["texts_computed"] == len(TEXTS)
    assert label_with_teachers(here, data, ["t0", "t1"])[1]["texts_computed"] == 0
    assert make_teacher(here, data, 1, "t1")["reused"], "a resumed job keeps the members that are finished"
    alone = task(tmp_path / "alone", job(ensemble=2))
    for number in range(2):
        make_teacher(alone, data, number, f"t{number}")
    again, other = label_with_teachers(alone, data, ["t0", "t1"])
    assert other == record
    for name in ("train", "validation"):
        np.testing.assert_array_equal(again[name].teacher_logits, splits[name].teacher_logits)


def test_two_jobs_that_need_the_same_teacher_at_once_train_it_once(data, tmp_path, monkeypatch):
    """The second job reports what it waits for, and gets the teacher of the first."""
    prepare, reused, records, deadline = labels.prepare_teacher, [], [], time.monotonic() + 20
    first, other = (replace(task(tmp_path, job()), run_id=name, progress=name) for name in ("a", "b"))
    second = threading.Thread(target=lambda: records.append(make_teacher(other, data, 0, "t")))

    def counted(*arguments, report, **others):
        if report == first.report:
            second.start()
            while "waiting for run a" not in (other.store.read_json("b") or {}).get("text", ""):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        record = prepare(*arguments, report=report, **others)
        reused.append(record["reused"])
        return record

    monkeypatch.setattr(labels, "prepare_teacher", counted)
    records.append(make_teacher(first, data, 0, "t"))
    second.join(20)
    assert reused == [False, True]
    assert records[0]["fingerprint"] == records[1]["fingerprint"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"teacher": {"checkpoint": "a/b", "ensemble": 2}}, "ensemble is 2, but"),
        ({"teacher": {"scratch": TINY, "ensemble": 0}}, "greater than or equal to 1"),
        (
            {
                "teacher": {"scratch": TINY, "ensemble": 2},
                "search": {"space": {"alpha": {"type": "fixed", "value": 1}}},
            },
            "teacher.ensemble: 2 given, but with alpha 1",
        ),
    ],
)
def test_an_unused_ensemble_is_refused(section, message, tmp_path):
    from distiltune.cluster.specification.config import load_config

    (tmp_path / "job.json").write_text(json.dumps(section))
    with pytest.raises(ConfigError) as raised:
        load_config(str(tmp_path / "job.json"), [])
    assert message in str(raised.value)


@pytest.mark.slow
def test_one_process_runs_one_job_after_another():
    program = """
import ray
from distiltune.cluster.specification.resources import ResourcesConfig
from distiltune.cluster.session.ray_session import ray_session
for number in range(2):
    with ray_session(ResourcesConfig(num_cpus=1)):
        print(ray.get(ray.put(number)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.split() == ["0", "1"], done.stderr


SIDE_BY_SIDE = """
import json, sys
from small_job import JOB
from distiltune.cluster.pipeline.stages import Stages
from distiltune.cluster.session.ray_session import ray_session
from distiltune.cluster.specification.config import JobConfig
from distiltune.cluster.store.runs import Storage, now
from distiltune.storage.folders import file_sha256
from distiltune.training.data.text_data import load_data

config = JobConfig.model_validate({**JOB, "resources": {"num_cpus": int(sys.argv[2]), "teacher": {"cpu": 1}}})
data, run = load_data(config.data), Storage(sys.argv[1]).create("a")
at_once = 0

def report(progress):
    global at_once
    at_once = max(at_once, len(progress.values.get("parts", [])))  # of those that have a place

with ray_session(config.resources):
    stages = Stages(config, config, run, data, None)
    result, _ = stages.teacher(report)
    finished = {"stage": "teacher", "state": "finished", "started": now(), "result": result}
    run.write("stages/teacher.json", finished)
    record, _ = stages.logits(report)
files = {key: file_sha256(run.store.fetch(key) / "model.safetensors") for key in result["keys"]}
logits = {name: split.teacher_logits.tobytes().hex() for name, split in stages._splits.items()}
logs = sorted(run.store.names(run.key("logs/stages/teacher")))
unfinished = run.store.sizes(run.key("unfinished"))
print(json.dumps([at_once, files, logits, record["keys"], record["texts_computed"], logs, unfinished]))
"""


@pytest.mark.slow
def test_members_that_train_in_parallel_get_the_same_bits(tmp_path):
    found = []
    for num_cpus in (1, 2):
        program = [sys.executable, "-c", SIDE_BY_SIDE, str(tmp_path / f"store-{num_cpus}"), str(num_cpus)]
        done = subprocess.run(
            program,
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
            env={**environment(), "PYTHONPATH": str(Path(__file__).parents[2] / "support")},
        )
        assert done.returncode == 0, done.stderr
        at_once, *rest = json.loads(done.stdout.splitlines()[-1])
        assert num_cpus == 1 or at_once == 2
        found.append(rest)
    assert found[0] == found[1]
    assert found[0][3] == 300 and found[0][4:] == [["1", "2"], {}]
