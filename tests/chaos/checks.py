"""Checks that a disturbed search must pass, whatever the fault."""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path
from typing import Any

from job import NUM_ROWS, NUM_VALIDATION, SEARCH
from look import Sight, last_weights, look, optuna_trials, shown_run, trained_again, trials_below
from searches import accuracy_of, split
from stored_searches import KEYS

from distiltune.search.trial.checkpoints import download_checkpoint
from distiltune.storage.store import Store

STEPS_PER_EPOCH = math.ceil(NUM_ROWS / 16)


def check(
    store: Store,
    found: dict[str, Any],
    reference: dict[str, Any],
    before: dict[str, Sight],
    *,
    all_points: bool,
) -> dict[str, str]:
    """Return ``ok``, or the fault, for each check by its name.

    Args:
        store: Store of the search.
        found: Results of its last driver.
        reference: Results of an undisturbed search, with its ``weights``.
        before: The trials at the fault.
        all_points: Whether TensorBoard must show every epoch.
    """
    trials = found["outcome"]["trials"]
    after = look(store)
    again = trained_again(before, after, STEPS_PER_EPOCH)
    return {
        "finished once": _finished_once(trials, found["again"]),
        "ResultGrid": _grid(found["grid"], trials),
        "Optuna": _optuna(store, trials),
        "run store": _folders(store, trials),
        "TensorBoard": _tensorboard(store, trials, all_points),
        "trained again": _result(not any(again.values()), again),
        "best reproduced": _best(store, found["outcome"]["best"]),
        "as undisturbed": _undisturbed(found, reference, weights_of(store, trials)),
    }


def weights_of(store: Store, trials: list[dict[str, Any]]) -> dict[str, str | None]:
    """Return the SHA-256 of each trial's last weights, by the trial's number."""
    return {str(trial["number"]): last_weights(store, trial["trial_id"]) for trial in trials}


def _result(good: bool, otherwise: Any) -> str:
    return "ok" if good else str(otherwise)


def _finished_once(trials: list[dict[str, Any]], same_again: bool) -> str:
    seen = [(trial["number"], trial["state"], trial["reason"]) for trial in trials]
    wanted = [(number, "finished", None) for number in range(SEARCH["num_trials"])]
    if seen != wanted or len({trial["trial_id"] for trial in trials}) != len(trials):
        return f"trials {seen}"
    return _result(same_again, "a second call returns another outcome")


def _grid(grid: list[dict[str, Any]], trials: list[dict[str, Any]]) -> str:
    expected = {(trial["trial_id"], trial["number"], None) for trial in trials}
    seen = [(row["trial_id"], row["number"], row["error"]) for row in grid]
    return _result(len(seen) == len(trials) and set(seen) == expected, seen)


def _optuna(store: Store, trials: list[dict[str, Any]]) -> str:
    mirrored = optuna_trials(store)
    searched = [name for name, value in SEARCH["space"].items() if isinstance(value, dict)] + [
        "alpha",
        "temperature",
    ]

    def key(values: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(round(float(values[name]), 12) for name in sorted(searched))

    seen = sorted((key(trial.params), trial.state.name) for trial in mirrored)
    return _result(seen == sorted((key(trial["parameters"]), "COMPLETE") for trial in trials), seen)


def _folders(store: Store, trials: list[dict[str, Any]]) -> str:
    ids = {trial["trial_id"] for trial in trials}
    for name in ("experiment", "tensorboard", "logs"):
        seen = trials_below(store, KEYS[name])
        if seen != ids:
            return f"{KEYS[name]} holds {sorted(seen)}, the trials are {sorted(ids)}"
    for trial in ids:
        kept = [
            name for name in store.names(f"{KEYS['experiment']}/{trial}") if re.match("checkpoint_", name)
        ]
        if not 1 <= len(kept) <= 2:
            return f"trial {trial} keeps {kept}"
    return "ok"


def _tensorboard(store: Store, trials: list[dict[str, Any]], all_points: bool) -> str:
    for trial in trials:
        steps, end = shown_run(store, trial["trial_id"])
        expected = [STEPS_PER_EPOCH * (n + 1) for n in range(trial["parameters"]["num_train_epochs"])]
        complete = (
            steps == expected if all_points else steps == sorted(set(steps)) and set(steps) <= set(expected)
        )
        if not complete or end != "finished":
            return f"trial {trial['number']} is {end}, with steps {steps} of {expected}"
    return "ok"


def _best(store: Store, best: dict[str, Any]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        names = ("model.safetensors", "config.json")
        checkpoint = download_checkpoint(store, best["checkpoint"], Path(folder), names)
        accuracy = accuracy_of(checkpoint, split(NUM_VALIDATION, 2))
    recorded = best["metrics"]["validation_accuracy"]
    return _result(abs(accuracy - recorded) < 1e-9, f"evaluated {accuracy}, recorded {recorded}")


def _undisturbed(found: dict[str, Any], reference: dict[str, Any], weights: dict[str, str | None]) -> str:
    """Check for the same suggestions, best epochs and values, and the same last weights bit for bit."""

    def summary(each: dict[str, Any]) -> list[Any]:
        return [
            (trial["parameters"], trial["metrics"].get("validation_accuracy"), trial["best_epoch"])
            for trial in each["outcome"]["trials"]
        ]

    for one, other in zip(summary(found), summary(reference), strict=False):
        if one != other:
            return f"{one} instead of {other}"
    return _result(weights == reference["weights"], "other weights after the last epoch")
