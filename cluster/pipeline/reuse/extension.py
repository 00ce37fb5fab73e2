"""Extend the search of a run: more trials, or a larger budget; another space or sampler needs a new run."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from ....errors import ConfigError, InputError, listed
from ....export.config import BenchmarkConfig
from ....search.driver.reopening import reopen
from ....search.space.space import THRESHOLD_METRIC, key_that_names, searched
from ....search.trial_record import is_trial_name
from ...specification.config import JobConfig
from ...specification.faults import described
from ...specification.reading import apply_overrides
from ...store.removal import check_not_cut
from ...store.runs import END_SEARCH, STAGES, Run, command

_RECORD = "extended.json"
_EXTENDS = ("search.num_trials", "search.budget", "search.max_failed_trials")
_STUDY = ("search.space", "search.sampler")  # changing them starts a new run
_BY_BEST = ("export", "benchmark")  # repeated only for another best trial, or if their sections change
# Keys that may change when a run is resumed.
_FREE = ("resources", "storage.reuse", "storage.retry_s", "storage.checkpoint_every_s", *_BY_BEST)
_ALWAYS = ("search", "gate", "report", "artifact")
_THRESHOLD = "export.out_of_scope"  # metrics of trials that use a threshold depend on its goal


@dataclass(frozen=True)
class ChangedJob:
    """A run's specification with changes.

    Attributes:
        config: The specification.
        kind: ``same`` if the run is resumed as it is, ``extended`` if its study continues with more trials or another
            budget, ``new`` if a new run is needed, warm-started from this one unless its sampler ignores trials.
        because: For ``new``, the sections that differ, such as ``search.space``.
    """

    config: JobConfig
    kind: Literal["same", "extended", "new"]
    because: str = ""


def changed_job(run: Run, config: JobConfig, overrides: list[str]) -> ChangedJob:
    """Apply the overrides of ``resume`` to the specification of a run.

    Args:
        run: A run that no process works on.
        config: Its specification.
        overrides: Items of the form ``section.key=value``.

    Raises:
        ConfigError: An override is not valid.
        InputError: The run is under way; the search cannot be extended; or a key is changed that makes old and new
            trials incomparable. The message has the key and the remedy.
    """
    if run.state in ("submitted", "running"):
        raise InputError(
            f"--set: run {run.id} is {run.state}, and is extended only once it has ended; wait for it, or stop it "
            f"first: {command('stop', run)}"
        )
    values = config.model_dump(mode="json")
    changed = _validated(run, values, overrides)
    keys = list(_differences(values, changed.model_dump(mode="json")))
    needs_new_run = any(_below(key, _STUDY) for key in keys)
    accepted = ("search", *_FREE) if needs_new_run else (*_EXTENDS, *_FREE)
    others = [key for key in keys if not _below(key, accepted)]
    if any(_below(key, _EXTENDS) for key in keys) and threshold_of_search(changed) is not None:
        others += [key for key in keys if _below(key, (_THRESHOLD,))]
    if others:
        raise _incomparable(run, others)
    if needs_new_run:
        because = ", ".join(each for each in _STUDY if any(_below(key, (each,)) for key in keys))
        former = run.id if changed.search.sampler.learns else None
        search = changed.search.model_copy(update={"warm_start": former})
        return ChangedJob(changed.model_copy(update={"search": search}), "new", because)
    extended = [key for key in keys if _below(key, _EXTENDS)]
    if extended:
        _check_extension(run, changed, extended)
    return ChangedJob(changed, "extended" if extended else "same")


def extend(run: Run, config: JobConfig) -> None:
    """Reopen the search of a run under a changed specification; the caller holds the run's lease.

    The stages before the search keep their results. Export and benchmark keep theirs, unless their sections are
    changed too, until ``drop_outdated`` finds that another trial was selected.

    Raises:
        StorageError: The storage does not respond; the call can be repeated.
    """
    exported = _best(run) if run.stage_record("search").get("state") == "finished" else None
    if exported is None:  # the search was not finished, or an extension of it was interrupted
        exported = (run.read(_RECORD) or {}).get("exported")
    run.write(_RECORD, {"exported": exported})
    reopen(run.store, run.search)
    held, wanted = run.read("job.json") or {}, config.model_dump(mode="json")
    changed = [stage for stage in _BY_BEST if held.get(stage) != wanted[stage]]
    again = STAGES[STAGES.index(changed[0]) :] if changed else ()
    for stage in dict.fromkeys((*_ALWAYS, *again)):
        run.store.delete(run.key(f"stages/{stage}.json"))
    if run.read("run.json") is not None:
        run.write("run.json", {**(run.read("run.json") or {}), "state": "stopped", "error": None})
    run.write("job.json", wanted)  # last: until then, the extension can be repeated


def is_extended(run: Run) -> bool:
    """Return whether the search of a run was extended, so that a new search may give another result."""
    return run.read(_RECORD) is not None


def drop_outdated(run: Run) -> None:
    """Delete the records of export and benchmark if an extended search has selected another trial than theirs."""
    record, best = run.read(_RECORD), _best(run)
    if record is None or record["exported"] == best:
        return
    if record["exported"] is not None:
        for stage in _BY_BEST:
            run.store.delete(run.key(f"stages/{stage}.json"))
    run.write(_RECORD, {"exported": best})


def _best(run: Run) -> list[Any] | None:
    best = (run.stage_record("search").get("result") or {}).get("best")
    return None if best is None else [best["trial_id"], best["epoch"]]


def _validated(run: Run, values: dict[str, Any], overrides: list[str]) -> JobConfig:
    changed = copy.deepcopy(values)
    faults = apply_overrides(changed, overrides)
    if isinstance(changed["benchmark"], dict):
        changed["benchmark"] = BenchmarkConfig.follow_effort(values["benchmark"], changed["benchmark"])
    try:
        config = JobConfig.model_validate(changed)
    except ValidationError as error:
        faults += described(error, JobConfig)
        raise ConfigError(f"run {run.id}: {listed(faults)}") from None
    if faults:
        raise ConfigError(f"run {run.id}: {listed(faults)}")
    return config


def _differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of the keys whose values differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            yield from _differences(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
    elif before != after:
        yield path


def _below(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in sections)


def _incomparable(run: Run, keys: list[str]) -> InputError:
    if all(_below(key, ("plan",)) for key in keys):
        why, remedy = "is fixed in run", "start a new run, which reuses this search: distiltune run CONFIG"
    elif any(_below(key, ("storage",)) for key in keys):
        keys = [key for key in keys if _below(key, ("storage",))]
        why, remedy = "is fixed in run", "name the storage with --storage, or start a new run there"
    else:
        why = "makes new trials incomparable with those of run"
        remedy = (
            f"start a new run that learns from them: distiltune run CONFIG --set search.warm_start={run.id}"
        )
    more = f" (also changed: {', '.join(keys[1:])})" if len(keys) > 1 else ""
    return InputError(
        f"--set {keys[0]}: {why} {run.id}{more}, whose search is extended by search.num_trials and search.budget "
        f"alone; {remedy}"
    )


def _check_extension(run: Run, config: JobConfig, keys: list[str]) -> None:
    record = run.stage_record("search")
    name = keys[0]
    if "reused_from" in record:
        other = Run(run.store, record["reused_from"])
        raise InputError(
            f"--set {name}: run {run.id} reused the search of run {other.id}, and has none to extend; extend that "
            f"one: {command('resume', other, f'--set {name}=N')}"
        )
    if not searched(config.search):
        raise InputError(
            f"--set {name}: every value of run {run.id} is fixed, so that it has one trial; start a new run that "
            f"searches some: distiltune run CONFIG"
        )
    check_not_cut(run, "its search cannot be extended")
    num_trials = sum(map(is_trial_name, run.store.names(run.search)))
    if config.search.num_trials < num_trials:
        if record.get("state") == "finished":
            instead = f"select one of them: {command('choose', run, 'TRIAL')}"
        else:
            instead = f"end the search with those that are done: {command('resume', run, END_SEARCH)}"
        raise InputError(
            f"--set search.num_trials: {config.search.num_trials} given, but run {run.id} has {num_trials} trials; "
            f"give a larger number, or {instead}"
        )
    ended_by = (record.get("result") or {}).get("ended_by")
    if ended_by is not None and not any(_below(key, ("search.budget",)) for key in keys):
        raise InputError(
            f"--set {name}: the budget of run {run.id} ended its search ({ended_by}), and would end it again; "
            f"change search.budget as well, for example --set search.budget={{}}"
        )


def threshold_of_search(config: JobConfig) -> dict[str, Any] | None:
    """Return the section ``export.out_of_scope`` if the search evaluates epochs with its threshold, else None."""
    by_threshold = key_that_names(THRESHOLD_METRIC, config.search) is not None
    scope = config.export.out_of_scope
    return scope.model_dump(mode="json") if by_threshold and scope is not None else None


def changed_threshold(run: Run, held: Mapping[str, Any], config: JobConfig) -> list[str]:
    """Return the key of the threshold's goal if an unfinished search began with another goal, else no key.

    Args:
        run: The run.
        held: The specification that the run began with.
        config: The specification with which it is resumed.
    """
    wanted = threshold_of_search(config)
    if wanted is None or run.stage_record("search").get("state") == "finished":
        return []
    began_with = (held.get("export") or {}).get("out_of_scope")
    return [_THRESHOLD] if began_with != wanted else []
