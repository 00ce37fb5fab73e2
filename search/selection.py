"""Select the trial to export: the best one that meets the constraints, or one of the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .config import Objective, SearchConfig
from .trial_record import TrialRecord, is_selectable


@dataclass(frozen=True)
class TrialSelection:
    """The selected trial, and the reason.

    Attributes:
        best: The selected trial.
        front: Ids of the trials on the Pareto front, in the trials' order.
        text: Why it was selected, for display; empty if one metric alone decided.
    """

    best: TrialRecord
    front: list[str]
    text: str = ""


def choose_trial(trials: Sequence[TrialRecord], config: SearchConfig) -> TrialSelection:
    """Select a trial among those that have a checkpoint and did not fail; pruned trials are eligible.

    Args:
        trials: The trials; at least one is finished or pruned, with a checkpoint.
        config: Objectives, constraints, and the tolerance in the first objective for the choice from the front.
    """
    candidates = [trial for trial in trials if trial.state != "failed" and trial.checkpoint is not None]
    done = [trial for trial in candidates if is_selectable(trial.metrics)]
    feasible, text = _feasible(done or candidates, config)
    if not done:
        text = "; ".join(filter(None, ("no trial completed its pruning", text)))
    front = pareto_front(feasible, config.all_objectives)
    first, *others = config.all_objectives
    if not others:
        best = max(feasible, key=lambda trial: (_score(trial, first), -trial.number))
        return TrialSelection(best, [trial.trial_id for trial in front], text)
    top = max(_score(trial, first) for trial in front)
    near = [trial for trial in front if _score(trial, first) >= top - config.choose]
    best = max(near, key=lambda trial: (*(_score(trial, each) for each in others), -trial.number))
    second = others[0]
    why = (
        f"trial {best.trial_id} of the {len(front)} on the Pareto front: the best {second.metric} "
        f"({best.metrics[second.metric]:.4g}) with {first.metric} at most {config.choose:g} from the best "
        f"({best.metrics[first.metric]:.4f}, best {abs(top):.4f})"
    )
    return TrialSelection(best, [trial.trial_id for trial in front], "; ".join(filter(None, (text, why))))


def pareto_front(trials: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[TrialRecord]:
    """Return the trials that no other trial dominates; of trials with equal values, only the first."""
    scores = [tuple(_score(trial, each) for each in objectives) for trial in trials]

    def is_dominated(place: int) -> bool:
        own = scores[place]
        return any(
            (other != own or rival < place) and all(a >= b for a, b in zip(other, own, strict=True))
            for rival, other in enumerate(scores)
            if rival != place
        )

    return [trial for place, trial in enumerate(trials) if not is_dominated(place)]


def _feasible(trials: Sequence[TrialRecord], config: SearchConfig) -> tuple[list[TrialRecord], str]:
    """Return the trials that meet every constraint; if there are none, the closest one, with an explanation."""

    def excess(trial: TrialRecord) -> float:
        relative = (each.excess(trial.metrics) / max(abs(each.bound), 1e-9) for each in config.constraints)
        return sum(max(0.0, each) for each in relative)

    kept = [trial for trial in trials if excess(trial) <= 0]
    if kept:
        return kept, ""
    nearest = min(trials, key=lambda trial: (excess(trial), trial.number))
    missed = ", ".join(
        f"{each} (it has {nearest.metrics[each.metric]:.4g})"
        for each in config.constraints
        if each.excess(nearest.metrics) > 0
    )
    reason = f"no trial satisfies every constraint; {nearest.trial_id} is closest and violates {missed}"
    return [nearest], reason


def _score(trial: TrialRecord, objective: Objective) -> float:
    value = trial.metrics[objective.metric]
    return value if objective.mode == "max" else -value
