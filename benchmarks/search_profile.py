"""Measure where the time of a search's slots goes, for ``search.py --profile``; a slot runs one trial at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any


class Laps:
    """Seconds of one trial by activity; each lap is the time since the previous one."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self._last
        self._last = now

    def around(self, owner: Any, function: str, before: str, after: str) -> None:
        """Wrap a function: count the time up to each call as ``before``, and the call itself as ``after``."""
        original = getattr(owner, function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.lap(before)
            try:
                return original(*args, **kwargs)
            finally:
                self.lap(after)

        setattr(owner, function, timed)


LOAD, BUILD, LOOP = "student loaded, arguments", "trainer, optimizer and loader built", "trainer's loop"
DATA, FORWARD, BACKWARD = "data loaded and collated", "forward and loss", "backward"
CLIP, STEP, EVALUATE = "gradients clipped", "optimizer and schedule", "evaluation"
LOG, SAVE, REPORT = "logs and event files", "checkpoint saved", "report to Tune, and its answer"
UPLOAD = "waiting for the last upload"
END = "end of a trial"


def time_trials(directory: str) -> None:
    """Replace the ``run_trial`` that the search sends to workers by one that also writes its laps to a file."""
    from ray import cloudpickle

    from distiltune.search.trial import run as trial

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import it

    def run_trial(config: dict[str, Any], inputs: Any, settings: Any) -> None:
        # Runs on a worker, to which this function was sent by value; its module `trial` is unchanged.
        from distiltune.search.trial import run as trial

        began, laps = time.time(), laps_of(trial)
        laps.start()
        try:
            trial.run_trial(config, inputs, settings)
        finally:
            laps.lap(END)
            record = {"from": began, "to": time.time(), "pid": os.getpid(), "laps": laps.seconds}
            Path(directory, f"{config['number']}.json").write_text(json.dumps(record), encoding="utf-8")

    trial.run_trial = run_trial


def laps_of(module: Any) -> Laps:
    """Return the clock of this process; the first call wraps the functions that a trial calls."""
    if hasattr(module, "laps"):
        return module.laps
    from accelerate import Accelerator
    from transformers import TrainerCallback

    from distiltune.search.trial import reporter
    from distiltune.training.tasks import SINGLE_LABEL

    module.laps = laps = Laps()

    class Steps(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            laps.lap(BUILD)

        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            laps.lap(CLIP)

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            laps.lap(STEP)

    class TimedTrainer(module.ReportedTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            laps.lap(LOAD)
            super().__init__(*args, **kwargs)
            self.add_callback(Steps())

    laps.around(TimedTrainer, "get_batch_samples", LOOP, DATA)
    laps.around(TimedTrainer, "compute_loss", LOOP, FORWARD)
    laps.around(Accelerator, "backward", LOOP, BACKWARD)
    laps.around(reporter.EpochReporter, "on_log", LOOP, LOG)
    laps.around(reporter.EpochReporter, "on_save", SAVE, SAVE)
    laps.around(type(SINGLE_LABEL), "measured_on", EVALUATE, EVALUATE)
    laps.around(reporter.EpochReporter, "settle", SAVE, UPLOAD)
    laps.around(reporter.tune, "report", SAVE, REPORT)
    module.ReportedTrainer = TimedTrainer
    return laps


def shares(
    side: dict[str, Any], records: Path, slots: int, search_from: float, search_to: float
) -> dict[str, Any]:
    """Return the slot-seconds by activity; their sum is ``slots`` x wall time."""
    trials = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(records.glob("*.json"))]
    assert len(trials) == side["num_trials"], "every trial has written its laps"
    parts = side["parts"]
    rows = {
        "Ray started": slots * parts["ray_s"],
        "texts tokenized": slots * parts["tokenize_s"],
        "teacher's logits": slots * parts["logits_s"],
        **idle_slots([(each["from"], each["to"]) for each in trials], slots, search_from, search_to),
    }
    for trial in trials:
        for name, seconds in trial["laps"].items():
            rows[name] = rows.get(name, 0.0) + seconds
    rows["not accounted for"] = slots * side["wall_s"] - sum(rows.values())
    return {
        "slot_seconds": rows,
        "num_workers": len({each["pid"] for each in trials}),
        "import_s": seconds_of_import(),
    }


def idle_slots(
    trials: list[tuple[float, float]], slots: int, search_from: float, search_to: float
) -> dict[str, float]:
    """Return the slot-seconds without a trial: before all slots had one, between trials, and when none was left."""
    last_start = max(start for start, _ in trials)
    moments = sorted({search_from, search_to, *(moment for trial in trials for moment in trial)})
    starting, between, ending = "workers started, imports", "between trials", "no trial left to start"
    idle: dict[str, float] = dict.fromkeys((starting, between, ending), 0.0)
    filled = False
    for moment, following in pairwise(moments):
        running = sum(start <= moment < end for start, end in trials)
        filled = filled or running >= slots
        kind = ending if moment >= last_start else between if filled else starting
        idle[kind] += max(0, slots - running) * (following - moment)
    return idle


def seconds_of_import() -> float:
    """Return the seconds of a new worker's imports, with nothing else running and files in the page cache."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import distiltune.search.trial.run"], check=True)
    return time.monotonic() - started
