"""Measure what a search costs its driver and its store by the number of trials, with simulated trials.

    python benchmarks/scale.py [--trials 100 300 1000] [--to 10000] [--nodes 8] [--cpus 2] [--epochs 3]
        [--epoch-seconds 1.5] [--scheduler none] [--limit-s 600] [--json FILE]

Everything but the training is distiltune's own: ``run_search`` with its searcher, callbacks, snapshots, checkpoints,
TensorBoard files, logs and records, on a Ray cluster of ``--nodes`` raylets with ``--cpus`` nominal CPUs each, all on
this machine. Instead of ``run_trial``, a function sleeps ``--epoch-seconds`` per epoch, and reports an accuracy that
depends on the arguments, with a checkpoint of the usual files, 1 KiB each. A trial should take longer than the start of
a worker; otherwise Tune keeps starting workers that it never uses.

Each number of trials is a search in a new driver process. Its CPU time is that of all its threads, from the start of
the first trial until the outcome is available (without imports and connecting); the parts are CPU time of the thread
that runs Tune's event loop. A search that would take longer than ``--limit-s``, judging by the smaller ones, is not
run. The column of ``--to`` trials is then extrapolated, by the exponent of the last two searches: the slope in a
log-log plot, 1 for linear and 2 for quadratic growth. Totals with an exponent above 1.2 are marked.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import psutil
from simulated_trial import simulated_trial

from distiltune.export.benchmark.memory import peak_memory_mb
from distiltune.export.machine import describe_machine

CLEARLY_ABOVE_LINEAR = 1.2
HUNDRED = 100
KINDS = {
    r"search/[^/]+/checkpoint_\d+/.*": "checkpoints",
    r"search/[^/]+/.*": "results of trials",
    r"search/.*": "snapshot",
    r"tensorboard/.*": "TensorBoard",
    r"logs/.*": "logs",
    r"study/.*": "Optuna journal",
}


# ---- One search, in a process of its own ----------------------------------------------------------------


class Parts:
    """CPU seconds of the controller's thread in each call of the parts of Tune's event loop."""

    def __init__(self) -> None:
        self.calls: dict[str, list[float]] = defaultdict(list)
        self.suggestions: list[float] = []
        self.wall: dict[str, float] = defaultdict(float)

    def total(self, part: str) -> float:
        return sum(self.calls[part])

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Time these functions of Ray's developer interfaces; raise AttributeError if one no longer exists."""
        from ray.tune.callback import CallbackList
        from ray.tune.execution.tune_controller import TuneController
        from ray.tune.search import SearchGenerator

        from distiltune.search.schedulers.tune_schedulers import InOrderScheduler

        hooks = ("on_step_begin", "on_step_end", "on_trial_start", "on_trial_result", "on_trial_complete")
        watched: list[tuple[type, str, str]] = [
            (TuneController, "step", "event loop"),
            (TuneController, "checkpoint", "snapshots"),
            (TuneController, "save_to_dir", "state written"),
            (SearchGenerator, "next_trial", "suggestions"),
            (SearchGenerator, "on_trial_result", "searcher told"),
            (SearchGenerator, "on_trial_complete", "searcher told"),
            (InOrderScheduler, "choose_trial_to_run", "next trial to run"),
            *((CallbackList, hook, "callbacks") for hook in hooks),
        ]
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in watched]
        for owner, name, part in watched:
            setattr(owner, name, self._timed(getattr(owner, name), part))
        try:
            yield
        finally:
            for owner, name, original in before:
                setattr(owner, name, original)

    def _timed(self, original: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began, began_wall = time.thread_time(), time.perf_counter()
            result = original(*args, **kwargs)
            seconds = time.thread_time() - began
            self.calls[part].append(seconds)
            self.wall[part] += time.perf_counter() - began_wall
            if part == "suggestions" and result is not None:
                self.suggestions.append(seconds)
            return result

        return timed


class DriverClock:
    """Records the driver's clocks and memory when the first trial starts, and whenever a trial has ended."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.moments: list[dict[str, float]] = []
        self._done = -1

    def __call__(self, progress: Any) -> None:
        if progress.values["done"] > self._done:
            self._done = progress.values["done"]
            self.moments.append(self.now())

    def now(self) -> dict[str, float]:
        return {
            "done": self._done,
            "cpu_s": time.process_time(),
            "wall_s": time.perf_counter(),
            "rss_mb": self._process.memory_info().rss / 2**20,
            # Only Linux counts characters, and the type checker reads the types of all systems.
            "written_mb": self._process.io_counters().write_chars / 2**20,  # pyright: ignore[reportAttributeAccessIssue]
        }


def search_once(given: argparse.Namespace) -> dict[str, Any]:
    """Run a search of ``given.one`` trials on the cluster at ``given.address``; return its costs."""
    from ray import cloudpickle

    import distiltune.search.trial.run as trial_module
    from distiltune.cluster.session.ray_session import ray_session
    from distiltune.cluster.specification.resources import ResourcesConfig
    from distiltune.search.config import SearchConfig
    from distiltune.search.driver.run_search import TrialInputs, run_search
    from distiltune.search.space.students import ONLY_STUDENT, Student
    from distiltune.storage.store import Store
    from distiltune.training.data.tokenized import LabelledSplit
    from distiltune.training.distillation.config import TrainingConfig

    cloudpickle.register_pickle_by_value(sys.modules[simulated_trial.__module__])  # workers cannot import it
    space: dict[str, Any] = {
        "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
        "num_train_epochs": given.epochs,
    }
    scheduler = {} if given.scheduler == "none" else {"scheduler": given.scheduler}
    config = SearchConfig.model_validate({"num_trials": given.one, "space": space, **scheduler})
    texts = cast(Any, range(1000))  # only their number is used
    inputs = TrialInputs(
        {ONLY_STUDENT: Student("student")}, {"train": LabelledSplit(texts)}, texts, None, ["a", "b"]
    )
    parts, clock = Parts(), DriverClock()
    with (
        ray_session(ResourcesConfig(address=given.address)),
        patch.object(trial_module, "run_trial", simulated_trial(given.epoch_seconds)),
        parts.watched(),
    ):
        outcome = run_search(
            config,
            TrainingConfig(),
            inputs,
            store=Store(str(given.directory)),
            experiment="search",
            tensorboard="tensorboard",
            logs="logs",
            cpus_per_trial=1,
            gpus_per_trial=0,
            journal="study/optuna.journal",
            report=clock,
        )
        end = clock.now()
    assert len(outcome.trials) == given.one, "every trial has a record"
    # Only simulated trials report `process`.
    processes = {trial.metrics["process"] for trial in outcome.trials}
    worker_cpu = sum(trial.metrics["process_cpu_s"] for trial in outcome.trials)
    found = costs(parts, clock.moments, end, given.directory)
    return {**found, "processes": len(processes), "worker_cpu_ms_a_trial": 1000 * worker_cpu / given.one}


def costs(
    parts: Parts, moments: list[dict[str, float]], end: dict[str, float], directory: Path
) -> dict[str, Any]:
    """Return the figures of one search; those in ``totals`` are sums over all its trials."""
    num_trials = int(end["done"])
    start, last = moments[0], moments[-1]
    files, sizes = census(directory)
    loop = parts.total("event loop")
    named = ("suggestions", "snapshots", "searcher told", "next trial to run", "callbacks")
    cpu = end["cpu_s"] - start["cpu_s"]
    closing = end["cpu_s"] - last["cpu_s"]
    middle = next(each for each in moments if each["done"] >= num_trials / 2)
    return {
        "trials": num_trials,
        "totals": {
            "driver CPU s": cpu,
            **{f"  {part}": parts.total(part) for part in named},
            "  rest of the event loop": loop - sum(parts.total(part) for part in named),
            "  other threads": cpu - closing - loop,
            "  after the last trial": closing,
            "wall s": end["wall_s"] - start["wall_s"],
            "  waited for snapshots": parts.wall["snapshots"],
            "driver memory MB, growth": last["rss_mb"] - start["rss_mb"],
            "driver wrote MB": end["written_mb"] - start["written_mb"],
            "store files": sum(files.values()),
            **{f"  files of {kind}": count for kind, count in sorted(files.items())},
            "store KB": sum(sizes.values()) / 1024,
            **{f"  KB of {kind}": size / 1024 for kind, size in sorted(sizes.items())},
        },
        "driver_cpu_ms_a_trial": {
            "first hundred": _cpu_ms(moments, 0, min(HUNDRED, num_trials)),
            "last hundred": _cpu_ms(moments, max(0, num_trials - HUNDRED), num_trials),
        },
        "suggestion_ms": _means_of_ends([1000 * seconds for seconds in parts.suggestions]),
        "steps_a_trial": len(parts.calls["event loop"]) / num_trials,
        "snapshots": len(parts.calls["state written"]),
        "last_snapshot_ms": 1000 * parts.calls["state written"][-1],
        "snapshot_kb": sizes["snapshot"] / 1024,
        "driver_peak_mb": peak_memory_mb(),
        "driver_start_mb": start["rss_mb"],
        "driver_kb_a_trial": 1024 * (last["rss_mb"] - middle["rss_mb"]) / max(1, num_trials - middle["done"]),
    }


def census(directory: Path) -> tuple[Counter[str], Counter[str]]:
    """Return the number of files and their bytes in the run store, by kind."""
    files, sizes = Counter[str](), Counter[str]()
    for path in directory.rglob("*"):
        if path.is_file():
            name = path.relative_to(directory).as_posix()
            kind = next((kind for pattern, kind in KINDS.items() if re.fullmatch(pattern, name)), "others")
            files[kind] += 1
            sizes[kind] += path.stat().st_size
    return files, sizes


def _cpu_ms(moments: list[dict[str, float]], first: int, last: int) -> float:
    """Return the driver's CPU milliseconds per trial, between the ends of ``first`` and ``last`` trials."""
    began = next(each for each in moments if each["done"] >= first)
    ended = next(each for each in moments if each["done"] >= last)
    return 1000 * (ended["cpu_s"] - began["cpu_s"]) / max(1, ended["done"] - began["done"])


def _means_of_ends(values: list[float]) -> dict[str, float]:
    """Return the means of the first and the last hundred values."""
    first, last = values[:HUNDRED], values[-HUNDRED:]
    return {"first hundred": sum(first) / len(first), "last hundred": sum(last) / len(last)}


# ---- All searches, and how their costs grow -------------------------------------------------------------


@contextmanager
def cluster(num_nodes: int, num_cpus: int) -> Iterator[str]:
    """Start a Ray cluster of several raylets on this machine; yield its address, and stop it after the block."""
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(num_nodes):
            nodes.add_node(num_cpus=num_cpus)
        nodes.wait_for_nodes()
        address = nodes.address
        assert address is not None, "the cluster has a head"
        yield address
    finally:
        nodes.shutdown()


def search_in_process(num_trials: int, address: str, given: argparse.Namespace) -> dict[str, Any]:
    """Run ``search_once`` in a new driver process; delete its store afterwards."""
    with tempfile.TemporaryDirectory(prefix="scale-") as work:
        found = Path(work) / "found.json"
        options = {
            "--one": num_trials,
            "--address": address,
            "--directory": Path(work) / "store",
            "--json": found,
            "--epochs": given.epochs,
            "--epoch-seconds": given.epoch_seconds,
            "--scheduler": given.scheduler,
        }
        words = [str(word) for option in options.items() for word in option]
        subprocess.run([sys.executable, __file__, *words], check=True)
        return json.loads(found.read_text(encoding="utf-8"))


def exponent(smaller: dict[str, Any], larger: dict[str, Any], name: str) -> float | None:
    """Return the slope between two searches in a log-log plot; None if a total is not positive."""
    low, high = smaller["totals"].get(name, 0), larger["totals"].get(name, 0)
    if low <= 0 or high <= 0:
        return None
    return math.log(high / low) / math.log(larger["trials"] / smaller["trials"])


def expected(searches: list[dict[str, Any]], name: str, num_trials: int) -> float | None:
    """Extrapolate a total to ``num_trials`` trials, by the exponent of the last two searches."""
    slope = exponent(searches[-2], searches[-1], name)
    if slope is None:
        return None
    return searches[-1]["totals"][name] * (num_trials / searches[-1]["trials"]) ** slope


def measure(given: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """Run the searches; return their costs, and a line about the first one that would have taken too long."""
    searches: list[dict[str, Any]] = []
    left_out: list[str] = []
    with cluster(given.nodes, given.cpus) as address:
        for num_trials in sorted({*given.trials, given.to}):
            seconds = expected(searches, "wall s", num_trials) if len(searches) > 1 else None
            if seconds is not None and seconds > given.limit_s:
                left_out.append(f"{num_trials:,} trials were not run: they would take {seconds:,.0f} s")
                break
            began = time.monotonic()
            searches.append(search_in_process(num_trials, address, given))
            line = f"{num_trials:,} trials took {time.monotonic() - began:.0f} s with the start of driver and workers"
            print(line, file=sys.stderr, flush=True)
    return searches, left_out


def show(result: dict[str, Any], to: int) -> None:
    machine, searches = result["machine"], result["searches"]
    print(
        f"{machine['cpu']}, {machine['cores']} cores; Ray {machine['ray']}, Optuna {machine['optuna']}; "
        f"{machine['nodes']} nodes of {machine['cpus']} CPUs in name, {machine['epochs']} epochs of "
        f"{machine['epoch_seconds']:g} s a trial, scheduler {machine['scheduler']}\n"
    )
    counts = "".join(f"{each['trials']:>11,}" for each in searches)
    print(f"{'total of all trials':28}{counts}{'a trial':>11}{'exponent':>10}{f'{to:,}':>13}")
    for name in searches[-1]["totals"]:
        values = "".join(_formatted(each["totals"].get(name), 11) for each in searches)
        a_trial = searches[-1]["totals"][name] / searches[-1]["trials"]
        slope = exponent(searches[-2], searches[-1], name) if len(searches) > 1 else None
        at_end = expected(searches, name, to) if len(searches) > 1 else None
        mark = " !" if slope is not None and slope > CLEARLY_ABOVE_LINEAR else ""
        shown = f"{slope:>10.2f}" if slope is not None else f"{'-':>10}"
        print(f"{name:28}{values}{_formatted(a_trial, 11)}{shown}{_formatted(at_end, 13)}{mark}")
    print(f"\n{'by the number of trials':48}{counts}")
    for name in _figures_by_number(searches[-1]):
        print(f"{name:48}" + "".join(_formatted(_figures_by_number(each)[name], 11) for each in searches))
    for line in result["left_out"]:
        print(line)
    marked = [name.strip() for name in result["above_linear"]]
    print(f"! exponent above {CLEARLY_ABOVE_LINEAR}: {', '.join(marked) or 'none'}")


def _figures_by_number(search: dict[str, Any]) -> dict[str, float]:
    return {
        "driver CPU ms a trial, first hundred": search["driver_cpu_ms_a_trial"]["first hundred"],
        "driver CPU ms a trial, last hundred": search["driver_cpu_ms_a_trial"]["last hundred"],
        "CPU ms a suggestion, first hundred": search["suggestion_ms"]["first hundred"],
        "CPU ms a suggestion, last hundred": search["suggestion_ms"]["last hundred"],
        "steps of the event loop a trial": search["steps_a_trial"],
        "worker CPU ms a trial": search["worker_cpu_ms_a_trial"],
        "worker processes": search["processes"],
        "snapshots": search["snapshots"],
        "CPU ms of the last snapshot": search["last_snapshot_ms"],
        "KB of a snapshot": search["snapshot_kb"],
        "driver memory MB at the first trial": search["driver_start_mb"],
        "driver memory MB, peak": search["driver_peak_mb"],
        "driver memory KB a trial, second half": search["driver_kb_a_trial"],
    }


def _formatted(value: float | None, width: int) -> str:
    if value is None:
        return f"{'-':>{width}}"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 4
    return f"{value:>{width},.{digits}f}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--trials", type=int, nargs="+", default=[100, 300, 1000], help="trials of each search"
    )
    parser.add_argument("--to", type=int, default=10_000, help="trials of a last search, run or extrapolated")
    parser.add_argument("--nodes", type=int, default=8, help="raylets of the cluster")
    parser.add_argument(
        "--cpus", type=int, default=2, help="nominal CPUs, and so parallel trials, of each raylet"
    )
    parser.add_argument("--epochs", type=int, default=3, help="epochs per trial")
    parser.add_argument("--epoch-seconds", type=float, default=1.5, help="duration of a simulated epoch")
    parser.add_argument("--scheduler", default="none", choices=["none", "asha", "median"])
    parser.add_argument("--limit-s", type=float, default=600, help="maximum expected duration of a search")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    # Of the driver of one search.
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.one is not None:
        given.json.write_text(json.dumps(search_once(given)), encoding="utf-8")
        return
    searches, left_out = measure(given)
    above = [
        name
        for name in searches[-1]["totals"]
        if len(searches) > 1 and (exponent(searches[-2], searches[-1], name) or 0) > CLEARLY_ABOVE_LINEAR
    ]
    machine = {
        "cpu": describe_machine()["cpu"],
        "cores": os.cpu_count(),
        "ray": version("ray"),
        "optuna": version("optuna"),
        **{name: getattr(given, name) for name in ("nodes", "cpus", "epochs", "epoch_seconds", "scheduler")},
    }
    result = {"machine": machine, "searches": searches, "left_out": left_out, "above_linear": above}
    show(result, given.to)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
