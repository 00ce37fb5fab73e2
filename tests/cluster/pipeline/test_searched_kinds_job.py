"""The job that searches the kind of its student: layers, a convolution, a static and a pruned model in one front."""

import json

import pytest
import yaml
from convolution_students import convolution_student
from models import tiny_classifier
from small_job import JOB

from distiltune.training.data.config import data_config
from distiltune.training.data.text_data import load_data

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEARCH = {
    "num_trials": 5,
    "num_startup_trials": 5,
    "space": {
        "num_train_epochs": 1,
        "student.kind": {"type": "choice", "values": ["layers", "convolution", "static", "pruned"]},
        "student.num_layers": {"type": "int", "low": 1, "high": 2},
        "student.num_filters": {"type": "choice", "values": [8]},
        "student.hidden_size": {"type": "choice", "values": [8]},
        "student.kept_filters": {"type": "choice", "values": [4]},
    },
    "points": [
        {"student.kind": "layers", "student.num_layers": 1},
        {"student.kind": "convolution"},
        {"student.kind": "static"},
        {"student.kind": "layers", "student.num_layers": 2},
        {"student.kind": "pruned"},
    ],
    "objectives": [{"metric": "size_mb", "mode": "min"}, {"metric": "latency_ms", "mode": "min"}],
}
NAMES = [
    "student.kind=layers; student.num_layers=1",
    "student.kind=convolution; student.hidden_size=8; student.num_filters=8",
    "student.kind=static; student.hidden_size=8",
    "student.kind=layers; student.num_layers=2",
    "student.kind=pruned; student.kept_filters=4",
]


def test_students_of_every_kind_are_one_front(here, tmp_path, capsys):
    data = load_data(data_config(**JOB["data"]))
    texts = data.splits["train"]["text"][:]
    checkpoint = tiny_classifier(
        tmp_path / "teacher", num_layers=2, texts=texts, label_names=data.label_names
    )
    export = {**JOB["export"], "variants": ["onnx-fused-int8", "onnx", "onnx-int8"]}
    job = {
        **JOB,
        "teacher": {"checkpoint": str(checkpoint)},
        "student": {"trained": str(convolution_student(tmp_path / "trained", hidden_size=8))},
        "search": SEARCH,
        "export": export,
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    assert here("run", "job.yaml", "--run-id", "kinds", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    store = tmp_path / "distiltune-runs"
    students = json.loads((store / "runs/kinds/stages/student.json").read_text())["result"]["students"]
    assert sorted(students) == sorted(NAMES)
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * 5
    for trial, name in zip(found["trials"], NAMES, strict=True):
        assert {metric: trial["metrics"][metric] for metric in ("size_mb", "latency_ms")} == {
            metric: students[name][metric] for metric in ("size_mb", "latency_ms")
        }
    # The teacher has read its word pieces once, for the convolution and the static model.
    assert students[NAMES[1]]["pieces"] == students[NAMES[2]]["pieces"]
    rates = {
        begun["arguments"]["student.kind"]: begun["training"]["by_kind"]
        for begun in map(json.loads, (path.read_text() for path in store.rglob("begun.json")))
    }
    assert set(rates) == {"layers", "convolution", "static", "pruned"}
    assert students[NAMES[4]]["shape"] == "4 filters over 3 word pieces of 8 dimensions"
    assert all(set(each) == {"convolution", "static", "pruned"} for each in rates.values())
    assert found["best"]["trial_id"] in found["front"]
