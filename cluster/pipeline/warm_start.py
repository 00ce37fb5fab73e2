"""Warm start: load the trials of a former run before a search begins."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError, RunNotFoundError
from ...search.trial_record import TrialRecord
from ..specification.config import JobConfig
from ..store.records import trials_of
from ..store.runs import LATEST, Run, Storage

_COPY = "former.json"  # kept in the new run, which can be resumed after the former one is deleted


def warm_start_trials(config: JobConfig, storage: Storage, run: Run | None = None) -> list[TrialRecord]:
    """Return the finished trials of the run given as ``search.warm_start``, or an empty list if it is not set.

    Args:
        config: The job.
        storage: Storage of both runs.
        run: The run that is warm-started, which may hold a copy of the trials.

    Raises:
        ConfigError: There are no such trials, or they do not fit this search space; all reasons in one message.
        RunNotFoundError: There is no such run in this storage.
    """
    name, search = config.search.warm_start, config.search
    if name is None:
        return []
    from ...search.space.space import fixed_values, searched
    from ...search.study.warm_start import check_fits, finished

    copy = run.read(_COPY) if run is not None else None
    records = trials_of(_stored(storage, name) if copy is None else copy)
    check_fits(
        records,
        searched(search),
        list(dict.fromkeys(each.metric for each in (*search.all_objectives, *search.constraints))),
        name,
        fixed=fixed_values(search),
        conditional=[each for each, parameter in search.space.items() if parameter.when],
    )
    return finished(records)


def store_warm_start_trials(config: JobConfig, storage: Storage, run: Run) -> None:
    """Copy the trials that a run is warm-started from into it, once."""
    name = config.search.warm_start
    if name is not None and run.read(_COPY) is None:
        run.write(_COPY, {"trials": _stored(storage, name)["trials"]})


def _stored(storage: Storage, name: str) -> dict[str, Any]:
    """Return the result of a former run's search."""
    if name == LATEST:
        raise ConfigError(
            "search.warm_start: 'latest' would be this run once it has started; give the id of a run"
        )
    try:
        record = storage.open(name).stage_record("search")
    except RunNotFoundError as error:
        raise RunNotFoundError(f"search.warm_start: {error}") from None
    if record.get("state") != "finished":
        raise ConfigError(
            f"search.warm_start: the search of run {name!r} has not finished; wait for it, or choose another run"
        )
    return record["result"]
