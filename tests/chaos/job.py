"""The search that is disturbed: tiny, with suggestions that depend on results."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from searches import split
from stored_searches import KEYS, publish_student

from distiltune.search.config import SearchConfig
from distiltune.search.driver.run_search import TrialInputs, run_search
from distiltune.search.space.students import ONLY_STUDENT, Student
from distiltune.storage.store import Store
from distiltune.training.data.tokenized import LabelledSplit
from distiltune.training.distillation.config import TrainingConfig

JOURNAL = "runs/a/study/optuna.journal"
NUM_ROWS, NUM_VALIDATION = 448, 64
LABEL_NAMES = ["a", "b", "c", "oos"]
SEARCH: dict[str, Any] = {
    "num_trials": 5,
    "num_startup_trials": 2,
    "max_concurrent_trials": 2,
    "seed": 4,
    "space": {
        "num_train_epochs": {"type": "int", "low": 2, "high": 5},
        "learning_rate": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True},
        "weight_decay": 0.0,
    },
}
TRAINING = TrainingConfig(batch_size=16)


def make_inputs(store: Store) -> TrialInputs:
    student = "runs/a/student"
    if not store.has_folder(student):
        publish_student(store)
    train = split(NUM_ROWS, 1)
    logits = (4 * np.eye(len(LABEL_NAMES), dtype=np.float32))[train.labels]
    return TrialInputs(
        students={ONLY_STUDENT: Student(student)},
        train={"train": LabelledSplit(train, logits)},
        validation=split(NUM_VALIDATION, 2),
        out_of_scope_id=3,
        label_names=LABEL_NAMES,
    )


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Run the search twice: the second call only reads the search that has ended."""
    store = Store(job["url"], retry_s=job["retry_s"])
    config = SearchConfig.model_validate(job["search"])
    inputs = make_inputs(store)

    def search() -> dict[str, Any]:
        return run_search(
            config,
            TRAINING,
            inputs,
            store=store,
            **KEYS,
            cpus_per_trial=1,
            gpus_per_trial=0,
            checkpoint_every_s=job["checkpoint_every_s"],
            journal=JOURNAL,
        ).to_json()

    outcome = search()
    ended = time.time()
    return {"outcome": outcome, "ended": ended, "again": search() == outcome, "grid": read_grid(store)}


def read_grid(store: Store) -> list[dict[str, Any]]:
    """Return the trials as Tune's own reader finds them in the store."""
    from ray.tune import ExperimentAnalysis, ResultGrid

    analysis = ExperimentAnalysis(store.at(KEYS["experiment"]), storage_filesystem=store.filesystem)
    grid = ResultGrid(analysis)
    return [
        {
            "trial_id": result.path.rpartition("/")[2],
            "number": (result.config or {}).get("number"),
            "error": None if result.error is None else str(result.error),
        }
        for result in grid
    ]
