"""Runs in a store, written as the pipeline writes them."""

import threading
import time
from contextlib import contextmanager

from distiltune.cluster.store.runs import STAGES, now
from distiltune.search.trial_record import TrialRecord

PARAMETERS = {"alpha": 0.25, "temperature": 4, "num_train_epochs": 3}
SEARCH = {"num_trials": 4, "done": 1, "running": 2, "failed": 1, "pruned": 0}
SUBMISSION = {"address": "http://127.0.0.1:8265", "submission_id": "a", "attempt": 1}
BEST = {"best_value": 0.91234, "best_parameters": PARAMETERS, "best_trial_id": "0007"}


def times(p50):
    return {"mean": p50, "std": 0.1, "p50": p50, "p90": p50, "p99": p50}


def row(name, kind, size, p50):
    return {
        "name": name,
        "kind": kind,
        "size_mb": size,
        "latency_ms": times(p50),
        "sample_latency_ms": times(p50),
        "throughput": {"1": 100.0, "32": 400.0},
        "peak_memory_mb": 200.0,
        "num_threads": 1,
        "query": "how much is left",
        "accuracy": 0.9,
        "in_scope_accuracy": 0.9,
        "oos_recall": None,
        "validation_accuracy": 0.9,
        "gate": None if kind == "pytorch" else "passed",
    }


class Writer:
    """Write one run; while it is running, its lease is that of a driver on another machine."""

    def __init__(self, storage, run_id="a", created=None):
        self.run = storage.create(run_id)
        self.created = created or now()

    def state(self, state, error=None):
        ended = {} if state == "running" else {"ended": now()}
        record = {
            "run_id": self.run.id,
            "name": "job",
            "created": self.created,
            "state": state,
            "error": error,
        }
        self.run.write("run.json", {**record, **ended})
        if state == "running":
            self.beat()
        return self

    def beat(self, at=None):
        held = {
            "owner": "other",
            "host": "far",
            "machine": "far",
            "pid": 1,
            "process_started": 0.0,
            "beats": 1,
        }
        self.run.write("lease.json", {**held, "at": at or time.time()})

    def submitted(self, pending=True):
        self.run.write("submission.json", {**SUBMISSION, "created": self.created, "pending": pending})
        return self

    def stage(self, stage, state, text="", seconds=1.5, **more):
        times = {} if state == "running" else {"seconds": seconds, "ended": now()}
        self.run.write(
            f"stages/{stage}.json",
            {"stage": stage, "state": state, "started": now(), "text": text, **times, **more},
        )
        return self

    def progress(self, stage, text, **more):
        self.run.write(self.run.progress(stage), {"text": text, **more, "at": time.time()})
        return self

    def until(self, last):
        """Every stage before `last` is finished."""
        for stage in STAGES[: STAGES.index(last)]:
            self.stage(stage, "finished", f"text of {stage}", result=self.result(stage))
        return self

    def searching(self):
        self.state("running").until("search").stage("search", "running")
        return self.progress("search", "1 of 4 trials done, 2 running", **SEARCH, **BEST)

    def finished(self):
        self.state("running").until("artifact").progress("search", "4 of 4", **{**SEARCH, "done": 4}, **BEST)
        self.stage("artifact", "finished", "sealed", result={})
        self.folder(self.run.report, {"report.md": "# Report of job\n", "latency.png": "picture"})
        self.folder(self.run.artifact, {"artifact.json": "{}"})
        return self.state("finished")

    def folder(self, key, files):
        folder = self.run.store.local(key)
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        self.run.store.publish(key)

    @staticmethod
    def result(stage):
        if stage == "search":
            best = {
                **PARAMETERS,
                "metric": "accuracy",
                "value": 0.91234,
                "validation_accuracy": 0.91234,
                "trial_id": "0007",
                "epoch": 3,
                "parameters": PARAMETERS,
                "metrics": {},
            }
            trials = [
                TrialRecord(trial_id="0007", number=7, parameters=PARAMETERS, state="finished"),
                TrialRecord(
                    trial_id="77aa0b02",
                    number=2,
                    parameters=PARAMETERS,
                    state="failed",
                    reason="the loss is [nan]",
                ),
            ]
            return {"best": best, "trials": [trial.to_json() for trial in trials]}
        if stage == "gate":
            variants = [
                row("teacher-pytorch", "pytorch", 400.0, 40.0),
                row("student-onnx-int8", "onnx", 10.0, 2.0),
            ]
            return {"variants": variants, "chosen": "student-onnx-int8"}
        others = {
            "data": {"fingerprint": "f"},
            "teacher": {"key": "cache/teachers/t"},
            "export": {"variants": [{"name": "student-onnx-int8"}]},
            "benchmark": {
                "measurements": [],
                "machine": {},
                "label_names": ["no", "yes"],
                "out_of_scope_id": None,
            },
        }
        return others.get(stage, {})


@contextmanager
def meanwhile(work):
    """Run ``work`` in a thread while the block runs; fail if it raises."""
    faults = []

    def guarded():
        try:
            work()
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert not faults, faults[0]
