"""Compare the searches of ``search.py``, and print the tables of docs/results/search.md."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

TARGETS = {"trials": 6.0, "accuracy": -0.003, "target": 10.0}


def seconds_to(side: dict[str, Any], target: float) -> float | None:
    """Return the seconds until a search had an epoch at least as good as ``target``; None if it had none."""
    known = side.get("best_over_time") or [epoch for trial in side["trials"] for epoch in trial["epochs"]]
    return min((seconds for seconds, accuracy in known if accuracy >= target), default=None)


def machine(cpus: int) -> dict[str, Any]:
    from distiltune.export.machine import describe_machine

    found = describe_machine()
    names = ("torch", "transformers", "ray", "optuna", "accelerate", "datasets")
    found["versions"] = {name: metadata.version(name) for name in names}
    return {**found, "cpus_used": cpus}


def compare(sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the ratios to the peer, and which targets are met."""
    peer, ours, early = sides["peer"], sides["ours"], sides["early"]
    target = peer["best_accuracy"]
    ratios: dict[str, Any] = {
        name: {key: side[key] / peer[key] for key in ("trials_per_hour", "epochs_per_hour", "examples_per_s")}
        | {"accuracy_difference": side["best_accuracy"] - target}
        | time_to_target(side, peer, target)
        for name, side in (("ours", ours), ("early", early))
    }
    same = [each["parameters"] for each in ours["trials"]] == [each["parameters"] for each in peer["trials"]]
    speedup = ratios["early"]["target_ratio"]
    met = {
        "trials": ratios["ours"]["trials_per_hour"] >= TARGETS["trials"],
        "accuracy": round(ratios["ours"]["accuracy_difference"], 9) >= TARGETS["accuracy"],
        "target": speedup is not None and speedup >= TARGETS["target"],
    }
    return {"target": target, "same_suggestions": same, **ratios, "met": met}


def time_to_target(side: dict[str, Any], peer: dict[str, Any], target: float) -> dict[str, Any]:
    seconds, near = seconds_to(side, target), seconds_to(side, target + TARGETS["accuracy"])
    peer_near = seconds_to(peer, target + TARGETS["accuracy"])
    assert peer_near is not None, "the peer reached its own best, and therefore lower values"
    return {
        "target_s": seconds,
        # The stricter ratio: the peer went on searching after its best epoch.
        "target_ratio": None if seconds is None else peer["best_after_s"] / seconds,
        "target_ratio_to_whole_search": None if seconds is None else peer["wall_s"] / seconds,
        "near_ratio": None if near is None else peer_near / near,
    }


def show(result: dict[str, Any]) -> None:
    sides, ratios, spec = result["sides"], result["ratios"], result["spec"]
    print(f"\n{headline(result)}\n")
    if result["peer_from"]:
        print(f"The peer's figures are of an earlier run with the same settings: {result['peer_from']}.\n")
    titles = {
        "peer": "transformers + Ray Tune (peer)",
        "ours": "distiltune",
        "early": f"distiltune, {spec['scheduler']}",
    }
    print("| | " + " | ".join(titles[name] for name in sides) + " |")
    print("| --- |" + " ---: |" * len(sides))
    for title, text in side_rows(ratios["target"]):
        print(f"| {title} | " + " | ".join(text(side) for side in sides.values()) + " |")
    print("\n| against the peer | distiltune | " + titles["early"] + " |\n| --- | ---: | ---: |")
    for title, key, form in (
        ("trials/hour", "trials_per_hour", "{:.2f}x"),
        ("epochs/hour", "epochs_per_hour", "{:.2f}x"),
        ("examples trained/s", "examples_per_s", "{:.2f}x"),
        ("best validation accuracy", "accuracy_difference", "{:+.4f}"),
        ("time to the peer's best, against the peer's time to it", "target_ratio", "{:.2f}x"),
        ("time to it, against the peer's whole search", "target_ratio_to_whole_search", "{:.2f}x"),
        (
            f"time to {-TARGETS['accuracy']:g} below it, against the peer's time to that",
            "near_ratio",
            "{:.2f}x",
        ),
    ):
        values = [ratios[name][key] for name in ("ours", "early")]
        shown = ["not reached" if value is None else form.format(value) for value in values]
        print(f"| {title} | " + " | ".join(shown) + " |")
    alike = "the same" if ratios["same_suggestions"] else "not the same"
    print(f"\nThe first two searches tried {alike} hyperparameters. Targets:")
    for name, description in (
        ("trials", f"at least {TARGETS['trials']:g}x the peer's trials/hour with the same epochs"),
        ("accuracy", f"best accuracy not lower by more than {-TARGETS['accuracy']:g}"),
        ("target", f"with early stopping at least {TARGETS['target']:g}x to reach the peer's best accuracy"),
    ):
        print(f"- {description}: {'met' if ratios['met'][name] else 'NOT met'}")


def side_rows(target: float) -> list[tuple[str, Callable[[dict[str, Any]], str]]]:
    def trials(side: dict[str, Any]) -> str:
        other = [f"{side[f'num_{what}']} {what}" for what in ("pruned", "failed") if side[f"num_{what}"]]
        return f"{side['num_trials']}" + (f" ({', '.join(other)})" if other else "")

    def reached(side: dict[str, Any], accuracy: float) -> str:
        seconds = seconds_to(side, accuracy)
        return "not reached" if seconds is None else f"{seconds:.0f}"

    return [
        ("batch, precision", lambda side: f"{side['batch_size']}, {side['precision']}"),
        ("learning rate", lambda side: f"{side['learning_rate']:g}"),
        ("threads a trial", lambda side: str(side["threads_per_trial"])),
        ("trials", trials),
        ("epochs trained", lambda side: str(side["num_epochs"])),
        ("wall time, s", lambda side: f"{side['wall_s']:.0f}"),
        ("of it the teacher's logits, s", lambda side: f"{side['parts'].get('logits_s', 0):.0f}"),
        ("examples trained/s", lambda side: f"{side['examples_per_s']:.0f}"),
        ("trials/hour", lambda side: f"{side['trials_per_hour']:.1f}"),
        ("best validation accuracy", lambda side: f"{side['best_accuracy']:.4f}"),
        (f"s until {target:.4f}, the peer's best", lambda side: reached(side, target)),
        (
            f"s until {target + TARGETS['accuracy']:.4f}, that less {-TARGETS['accuracy']:g}",
            lambda side: reached(side, target + TARGETS["accuracy"]),
        ),
    ]


def show_profile(result: dict[str, Any]) -> None:
    side = result["sides"]["profile"]
    print(f"\n{headline(result)}\n")
    print(
        f"{side['num_trials']} trials, {side['num_epochs']} epochs in {side['wall_s']:.0f} s: "
        f"{side['examples_per_s']:.0f} examples/s, {side['trials_per_hour']:.1f} trials/hour; "
        f"{side['num_workers']} worker processes, whose imports take {side['import_s']:.1f} s (measured alone)\n"
    )
    total = result["spec"]["cpus"] * side["wall_s"]
    print(
        "| where the time of the slots goes | s | share | ms a trained batch |\n| --- | ---: | ---: | ---: |"
    )
    steps = side["num_epochs"] * -(-result["prepared"]["num_train"] // side["batch_size"])
    for name, seconds in sorted(side["slot_seconds"].items(), key=lambda each: -each[1]):
        print(f"| {name} | {seconds:.1f} | {seconds / total:.1%} | {1000 * seconds / steps:.2f} |")


def headline(result: dict[str, Any]) -> str:
    spec, found, prepared = result["spec"], result["machine"], result["prepared"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{found['cpu']}, {spec['cpus']} of {found['num_cores']} cores, no GPU, load {found['load_average']} at "
        f"the start; Python {found['python']}, {versions}.\n"
        f"{prepared['num_train']:,} training and {prepared['num_validation']:,} validation texts; student: layers "
        f"{spec['layers']} of {spec['encoder']} ({prepared['student_parameters'] / 1e6:.1f} M parameters); teacher's "
        f"validation accuracy {prepared['teacher_accuracy']:.4f}.\n"
        f"Space: alpha 0 to 1, temperature 2 to 20, {spec['epochs'][0]} to {spec['epochs'][1]} epochs; seed "
        f"{spec['seed']}; {spec['cpus']} trials side by side, each on 1 CPU with 1 thread."
    )
