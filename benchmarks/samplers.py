"""Compare samplers by result and by time, also TPE without its limit on the number of modelled trials.

    python benchmarks/samplers.py time [--trials 100 1000 3000 10000] [--samplers tpe all-tpe]
    python benchmarks/samplers.py search [--trials 20 50] [--samplers tpe random qmc nsga2 gp] [--seeds 20]
    python benchmarks/samplers.py search --functions hartmann rastrigin mixed --trials 1000 --samplers tpe all-tpe

Searches use distiltune's own searcher, without Ray and with a function in place of training. ``all-tpe`` is ``tpe``
with all finished trials. ``time`` prints the CPU time of a suggestion after each number of finished trials, the mean of
``NUM_TIMED``; the time of all suggestions of a search of that many trials, by the trapezoidal rule; and its exponent,
the slope between two numbers of trials in a log-log plot. ``search`` prints the median, lowest and highest result of
``--seeds`` searches: with one objective the value without noise of the trial with the best reported value, with two
objectives the hypervolume of the front. ``--at-a-time`` trials run side by side, with the searcher's window for that
number, and end in the order in which they began.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, create_trial
from simulated_trial import epoch_metrics

from distiltune.search.config import Objective
from distiltune.search.parameters import Choice, FloatRange, IntRange, Parameter
from distiltune.search.samplers.base import SAMPLERS, Sampler
from distiltune.search.samplers.tpe import Tpe
from distiltune.search.study.searcher import StudySearcher, window_of

NUM_TIMED = 40
SLOWEST_MS, LOWEST_ACCURACY = 1.6, 0.75  # reference point of the hypervolume
STUDENT = {
    "student.num_layers": IntRange(low=1, high=6),
    "student.intermediate_size": Choice(values=[384, 768, 1536]),
}
TRAINING: dict[str, Parameter] = {
    "alpha": FloatRange(low=0.0, high=1.0),
    "temperature": IntRange(low=2, high=20),
    "learning_rate": FloatRange(low=1e-5, high=1e-2, log=True),
    "num_train_epochs": IntRange(low=5, high=10),
}


class AllTpe(Tpe):
    """TPE that models all trials."""

    most_modelled = None


@dataclass(frozen=True)
class Function:
    """A function to optimise: its space, its value (higher is better) and cost, and the noise of the value."""

    space: dict[str, Parameter]
    values: Callable[[Mapping[str, Any]], list[float]]
    noise: float = 0.0


def simulated(arguments: Mapping[str, Any]) -> list[float]:
    """Return the accuracy of a simulated training after its last epoch."""
    return [epoch_metrics(dict(arguments), 0, arguments["num_train_epochs"])["validation_accuracy"]]


def front(arguments: Mapping[str, Any]) -> list[float]:
    """Return accuracy and latency of a simulated student; both grow with its size."""
    layers, rows = arguments["student.num_layers"], arguments["student.intermediate_size"] / 1536
    [accuracy] = simulated(arguments)
    return [
        accuracy - 0.08 * math.exp(-0.7 * layers) - 0.02 * (1 - rows),
        0.05 + layers * (0.07 + 0.15 * rows),
    ]


def hartmann(arguments: Mapping[str, Any]) -> list[float]:
    """Return Hartmann's function of six arguments; its maximum is 3.322."""
    scale = np.array([1.0, 1.2, 3.0, 3.2])
    widths = np.array(
        [
            [10, 3, 17, 3.5, 1.7, 8],
            [0.05, 10, 17, 0.1, 8, 14],
            [3, 3.5, 1.7, 10, 17, 8],
            [17, 8, 0.05, 10, 0.1, 14],
        ]
    )
    centres = 1e-4 * np.array(
        [
            [1312, 1696, 5569, 124, 8283, 5886],
            [2329, 4135, 8307, 3736, 1004, 9991],
            [2348, 1451, 3522, 2883, 3047, 6650],
            [4047, 8828, 8732, 5743, 1091, 381],
        ]
    )
    x = np.array([arguments[f"x{place}"] for place in range(6)])
    return [float(scale @ np.exp(-(widths * (x - centres) ** 2).sum(axis=1)))]


def rastrigin(arguments: Mapping[str, Any]) -> list[float]:
    """Return minus Rastrigin's function of four arguments, which has many local optima; its maximum is 0."""
    x = np.array([arguments[f"x{place}"] for place in range(4)])
    return [float(-(10 * len(x) + (x**2 - 10 * np.cos(2 * math.pi * x)).sum()))]


def mixed(arguments: Mapping[str, Any]) -> list[float]:
    """Return a function with a choice of three kinds, and an argument that only two of them have; its maximum is 0."""
    kind, x = arguments["kind"], arguments["x"]
    depth, place = {"a": (0.3, 0.2), "b": (0.1, 0.8), "c": (0.0, 0.55)}[kind]
    inner = 0.0 if kind == "a" else (arguments["y"] - {"b": 0.3, "c": 0.9}[kind]) ** 2
    return [-(depth + (x - place) ** 2 + inner + 0.05 * (math.log10(arguments["rate"]) + 3) ** 2)]


FUNCTIONS = {
    "simulated": Function(TRAINING, simulated, noise=0.002),
    "front": Function({**TRAINING, **STUDENT}, front, noise=0.002),
    "hartmann": Function({f"x{place}": FloatRange(low=0.0, high=1.0) for place in range(6)}, hartmann),
    "rastrigin": Function({f"x{place}": FloatRange(low=-5.12, high=5.12) for place in range(4)}, rastrigin),
    "mixed": Function(
        {
            "kind": Choice(values=["a", "b", "c"]),
            "x": FloatRange(low=0.0, high=1.0),
            "y": FloatRange(low=0.0, high=1.0, when={"kind": ["b", "c"]}),
            "rate": FloatRange(low=1e-5, high=1e-1, log=True),
        },
        mixed,
    ),
}


def sampler_named(name: str) -> Sampler:
    return AllTpe() if name == "all-tpe" else SAMPLERS[name]()


def run_search(
    sampler: Sampler,
    function: Function,
    num_trials: int,
    seed: int,
    at_a_time: int,
    known: list[FrozenTrial] | None = None,
) -> tuple[list[list[float]], list[list[float]], list[float]]:
    """Run a search; return the values of every trial without and with noise, and the CPU seconds of its suggestion."""
    noise = np.random.default_rng(seed)
    objectives = [Objective(metric="value", mode="max"), Objective(metric="cost", mode="min")]
    several = function.values is front
    searcher = StudySearcher(
        function.space,
        objectives=objectives if several else objectives[:1],
        seed=seed,
        num_trials=num_trials,
        num_startup_trials=10,
        window=window_of(num_trials, at_a_time),
        max_concurrent=at_a_time,
        sampler=sampler,
        known=known,
    )
    true: list[list[float]] = []
    reported: list[list[float]] = []
    seconds: list[float] = []
    ended = 0
    while ended < num_trials:
        began = time.thread_time()
        suggested = searcher.suggest(f"t{len(true)}") if len(true) < num_trials else None
        if isinstance(suggested, dict):
            seconds.append(time.thread_time() - began)
            values = function.values(suggested["arguments"])
            true.append(values)
            reported.append([values[0] + noise.normal(0.0, function.noise or 1e-12), *values[1:]])
            continue
        result = {**dict(zip(("value", "cost"), reported[ended], strict=False)), "progress": 1.0, "curve": []}
        searcher.on_trial_result(f"t{ended}", result)
        searcher.on_trial_complete(f"t{ended}", result)
        ended += 1
    return true, reported, seconds


def result_of(true: Sequence[Sequence[float]], reported: Sequence[Sequence[float]]) -> float:
    """Return the result of a search: the best trial's value without noise, or the hypervolume of the front."""
    if len(true[0]) == 1:
        return true[max(range(len(true)), key=lambda place: reported[place][0])][0]
    volume, best = 0.0, LOWEST_ACCURACY
    for accuracy, latency in sorted(true, key=lambda each: each[1]):
        if accuracy > best and latency < SLOWEST_MS:
            volume += (accuracy - best) * (SLOWEST_MS - latency)
            best = accuracy
    return volume


def measure_searches(given: argparse.Namespace) -> None:
    for name in given.functions:
        function = FUNCTIONS[name]
        several = function.values is front
        for num_trials in given.trials:
            print(f"{name}, {num_trials} trials, {given.seeds} seeds")
            for sampler in given.samplers:
                if not several and not sampler_named(sampler).one_objective:
                    continue
                found, began = [], time.thread_time()
                for seed in range(given.first_seed, given.first_seed + given.seeds):
                    true, reported, _ = run_search(
                        sampler_named(sampler), function, num_trials, seed, given.at_a_time
                    )
                    found.append(result_of(true, reported))
                low, middle, high = min(found), statistics.median(found), max(found)
                mean = (time.thread_time() - began) / given.seeds
                print(
                    f"  {sampler:8} median {middle:9.5f}  mean {statistics.fmean(found):9.5f}  "
                    f"from {low:9.5f} to {high:9.5f}  {mean:6.2f} s of CPU a search",
                    flush=True,
                )
                if given.values:
                    print(f"    {' '.join(f'{value:.6f}' for value in found)}", flush=True)


def measure_time(given: argparse.Namespace) -> None:
    for sampler in given.samplers:
        numbers, means, totals = [0], [0.0], [0.0]
        for num_trials in sorted(given.trials):
            mean = statistics.fmean(suggestion_seconds(sampler_named(sampler), num_trials, given.at_a_time))
            totals.append(totals[-1] + (num_trials - numbers[-1]) * (mean + (means[-1] or mean)) / 2)
            slope = ""
            if numbers[-1]:
                slope = f"{math.log(totals[-1] / totals[-2]) / math.log(num_trials / numbers[-1]):.2f}"
            print(
                f"{sampler:8} {num_trials:6,} trials: {1000 * mean:7.2f} ms a suggestion, {totals[-1]:8.2f} s in all"
                f"  {slope}",
                flush=True,
            )
            numbers.append(num_trials)
            means.append(mean)


def suggestion_seconds(sampler: Sampler, num_trials: int, at_a_time: int) -> list[float]:
    """Return the CPU seconds of each suggestion after ``num_trials`` finished trials with random arguments."""
    function, random = FUNCTIONS["simulated"], np.random.default_rng(0)
    distributions = {name: each.distribution() for name, each in function.space.items()}
    known = []
    for _ in range(num_trials):
        arguments = {
            "alpha": random.uniform(),
            "temperature": int(random.integers(2, 21)),
            "learning_rate": 10 ** random.uniform(-5, -2),
            "num_train_epochs": int(random.integers(5, 11)),
        }
        [value] = function.values(arguments)
        known.append(create_trial(params=arguments, distributions=distributions, values=[value]))
    _, _, seconds = run_search(sampler, function, NUM_TIMED, 0, at_a_time, known)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("what", choices=["time", "search"], help="measure the time of suggestions, or results of searches")
    add("--samplers", nargs="+", choices=[*SAMPLERS.names, "all-tpe"], default=["tpe"])
    add("--functions", nargs="+", choices=list(FUNCTIONS), default=["simulated", "front"])
    add("--trials", nargs="+", type=int, default=[20, 50], help="numbers of trials")
    add("--seeds", type=int, default=20, help="number of seeds")
    add("--first-seed", type=int, default=0, help="first seed")
    add("--values", action="store_true", help="also print the result of each seed")
    add("--at-a-time", type=int, default=2, help="trials side by side")
    given = parser.parse_args()
    measure_time(given) if given.what == "time" else measure_searches(given)


if __name__ == "__main__":
    main()
