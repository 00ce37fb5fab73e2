"""The latency and size of a searched student are measured once for every graph that it can become."""

from pathlib import Path

import datasets
from models import tiny_classifier

from distiltune.cluster.remote import latency
from distiltune.cluster.remote.tasks import Task
from distiltune.cluster.specification.config import JobConfig
from distiltune.storage.store import Store


def test_students_that_differ_only_in_distinct_rows_are_measured_apart(tmp_path: Path, monkeypatch) -> None:
    tiny_classifier(tmp_path / "student")
    job = JobConfig.model_validate({"training": {"max_length": 16}})
    task = Task(
        Store(str(tmp_path)), job, "log", "told", num_threads=1, use_gpu=False, unfinished="unfinished"
    )
    texts = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 0]})
    sizes = iter([1.0, 2.0, 3.0])

    def size_for(num_embeddings: int | None) -> float:
        return latency.measure_student(task, "student", "teacher", texts, ["a"], num_embeddings)["size_mb"]

    monkeypatch.setattr(latency, "_measured", lambda *_: {"latency_ms": 0.1, "size_mb": next(sizes)})
    assert [size_for(each) for each in (20, 8, 20, None, 8)] == [1.0, 2.0, 1.0, 3.0, 2.0]
