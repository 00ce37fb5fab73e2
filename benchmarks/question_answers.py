"""Compare the answers of a run's variants with those of its teacher on the test split, beside a trivial baseline.

    distiltune run benchmarks/tasks/xquad.yaml --run-id xquad
    python benchmarks/question_answers.py distiltune-runs/runs/xquad

The variants answer one question at a time. The baseline answers with the sentence of the context that has most words
in common with the question.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distiltune import TextClassifier
from distiltune.cluster.store.runs import Run, Storage
from distiltune.export.benchmark import targets
from distiltune.export.benchmark.targets.base import OpenOptions
from distiltune.export.markdown import table
from distiltune.texts import texts_of
from distiltune.training.data.text_data import load_data
from distiltune.training.tasks import get as get_task
from distiltune.training.tasks.spans.scoring import (
    normalised_words,
    scores,
    words_of_answers,
)

HEADERS = ("model", "F1", "exact match", "spans equal to the teacher's")
TEACHER_BATCH_SIZE = 8


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of a finished run on questions")
    directory = parser.parse_args().run
    run = Run(Storage(str(directory.parent.parent)).store, directory.name)
    job = run.specification()
    task = get_task(job.task)
    test = load_data(job.data, task.label_kind).splits["test"]
    pairs = [(question, context) for question, context in texts_of(test)]
    gate = run.stage_record("gate")["result"]
    names = [row["name"] for row in gate["variants"] if targets.get(row["kind"]).is_onnx]
    artifacts = {name: TextClassifier.load(run.store.fetch(run.variant(name))) for name in names}
    teacher = Path(run.store.fetch(run.stage_record("teacher")["result"]["key"]))
    options = OpenOptions(str(teacher), artifacts[gate["chosen"]].max_length, None, 1, None, job.task)
    taught = targets.get("pytorch").open(options).pipeline(pairs, batch_size=TEACHER_BATCH_SIZE)
    models = {"teacher, PyTorch": ([each["answer"] for each in taught], "")}
    for name, artifact in artifacts.items():
        found = [artifact(pair) for pair in pairs]
        equal = sum(
            (own["start"], own["end"]) == (other["start"], other["end"])
            for own, other in zip(found, taught, strict=True)
        )
        shown = f"{name} (selected)" if name == gate["chosen"] else name
        models[shown] = ([each["answer"] for each in found], f"{equal / len(pairs):.4f}")
    models["sentence nearest to the question"] = ([nearest_sentence(*pair) for pair in pairs], "")
    labels = task.measured_labels(pairs, test["label"][:])
    rows = [[name, *f1_and_exact(answers, labels), same] for name, (answers, same) in models.items()]
    sys.stdout.write(table(HEADERS, rows))


def f1_and_exact(answers: Sequence[str], labels: np.ndarray) -> list[str]:
    """Return the mean F1 and exact match of answers; labels are the task's ``measured_labels``."""
    return [f"{value:.4f}" for value in scores(words_of_answers(answers), labels).mean(axis=0)]


def nearest_sentence(question: str, context: str) -> str:
    """Return the sentence of the context with most of the question's words, the shortest of several."""
    words = set(normalised_words(question))
    sentences = re.split(r"(?<=[.!?])\s+", context)
    return max(sentences, key=lambda each: (len(words & set(normalised_words(each))), -len(each)))


if __name__ == "__main__":
    main()
