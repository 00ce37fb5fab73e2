"""Check that the sampler, the early stopping and the other keys of a search can be combined."""

from __future__ import annotations

from ..config import SearchConfig
from ..samplers.base import SAMPLERS, Sampler
from ..schedulers.base import EARLY_STOPPING


def combination_faults(config: SearchConfig) -> list[str]:
    """Return the faults of keys that are valid alone, but not together."""
    faults = []
    if config.objectives and config.scheduler.is_active:
        rule = EARLY_STOPPING.name_of(type(config.scheduler))
        faults.append(
            f"search.scheduler: {rule!r} compares trials by one metric during training, but search.objectives has "
            f"more; use a bound in search.constraints instead, or scheduler: none"
        )
    name = SAMPLERS.name_of(type(config.sampler))
    reasons = _unmet(config, type(config.sampler))
    able = ", ".join(each for each in SAMPLERS.names if not _unmet(config, SAMPLERS[each])) or "none of them"
    faults += [
        f"search.sampler: {name!r} {reason}; accepted for this search: {able}; or {remedy}"
        for reason, remedy in reasons
    ]
    startup = config.sampler.num_startup_trials(config.num_startup_trials, config.num_trials)
    if "population_size" in type(config.sampler).model_fields and startup >= config.num_trials:
        is_given = "population_size" in config.sampler.model_fields_set
        faults.append(
            f"search.sampler.population_size: {startup} {'given' if is_given else 'by default'}, but search.num_trials "
            f"is {config.num_trials}, so that all trials would be random; accepted: from 4, and fewer than "
            f"search.num_trials; {'give fewer, or ' if is_given else ''}raise search.num_trials"
        )
    if config.warm_start is not None and not config.sampler.learns:
        learning = ", ".join(SAMPLERS.name_of(each) for each in SAMPLERS if each.learns)
        faults.append(
            f"search.warm_start: {config.warm_start!r} given, but the sampler {name!r} learns from no trials; "
            f"accepted with it: {learning}; remove search.warm_start, or set search.sampler"
        )
    return faults


def _unmet(config: SearchConfig, sampler: type[Sampler]) -> list[tuple[str, str]]:
    """Return the needs of a search that a sampler does not support, each with a remedy in another key."""
    conditional = [name for name, each in config.space.items() if each.when]
    rule = EARLY_STOPPING.name_of(type(config.scheduler))
    needs = [
        (
            not config.objectives and not sampler.one_objective,
            "breeds trials for several objectives, but search.objectives has none",
            "add search.objectives",
        ),
        (
            bool(config.objectives) and not sampler.several_objectives,
            "optimises one metric, but search.objectives has more",
            "use a bound in search.constraints instead",
        ),
        (
            bool(config.constraints) and not sampler.constraints,
            "does not take search.constraints into account",
            "remove them",
        ),
        (
            bool(conditional) and not sampler.conditions,
            f"does not support conditional arguments, such as search.space.{(conditional or [''])[0]}",
            "remove its `when`",
        ),
        (
            config.scheduler.is_active and not config.objectives and not sampler.pruned_trials,
            f"learns nothing from trials that search.scheduler, {rule!r}, stops early",
            "set scheduler: none",
        ),
    ]
    return [(reason, remedy) for is_unmet, reason, remedy in needs if is_unmet]
