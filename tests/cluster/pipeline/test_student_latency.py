"""The latency and size of a searched student are measured once for every graph that it can become."""

from pathlib import Path

import datasets
from convolution_students import convolution_student
from models import tiny_classifier

from distiltune.cluster.remote import latency
from distiltune.cluster.remote.tasks import Task
from distiltune.cluster.specification.config import JobConfig
from distiltune.storage.store import Store


def task_of(directory: Path, **job) -> Task:
    config = JobConfig.model_validate({"training": {"max_length": 16}, **job})
    return Task(
        Store(str(directory)), config, "log", "told", num_threads=1, use_gpu=False, unfinished="unfinished"
    )


def test_a_convolution_is_measured_in_integers_where_the_job_exports_it_so(tmp_path: Path) -> None:
    convolution_student(tmp_path / "student", pooling="max", hidden_size=64)
    texts = datasets.Dataset.from_dict({"text": ["a b", "b", "c a"] * 4, "label": [0] * 12})
    labels = [f"label_{number}" for number in range(4)]
    sizes = {}
    for variants in (["onnx"], ["onnx", "onnx-integer-embeddings-4bit"]):
        task = task_of(tmp_path, export={"variants": variants}, benchmark={"effort": "quick"})
        measured = latency.measure_student(task, "student", "teacher", texts, labels, None)
        assert measured["latency_ms"] > 0
        sizes[variants[-1]] = measured["size_mb"]
    assert sizes["onnx"] > 1.5 * sizes["onnx-integer-embeddings-4bit"]


def test_students_that_differ_only_in_distinct_rows_are_measured_apart(tmp_path: Path, monkeypatch) -> None:
    tiny_classifier(tmp_path / "student")
    task = task_of(tmp_path)
    texts = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 0]})
    sizes = iter([1.0, 2.0, 3.0])

    def size_for(num_embeddings: int | None) -> float:
        return latency.measure_student(task, "student", "teacher", texts, ["a"], num_embeddings)["size_mb"]

    monkeypatch.setattr(latency, "_measured", lambda *_: {"latency_ms": 0.1, "size_mb": next(sizes)})
    assert [size_for(each) for each in (20, 8, 20, None, 8)] == [1.0, 2.0, 1.0, 3.0, 2.0]
