"""The trials of a former run that a search learns from before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigError
from .config import JobConfig
from .runs import LATEST, Storage

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def former_trials(config: JobConfig, storage: Storage) -> list[FrozenTrial]:
    """The finished trials of the run that ``search.warm_start`` names; none where it names none.

    Raises:
        ConfigError: It has none, or its trials do not fit this space; all reasons in one message.
        RunNotFoundError: There is no such run in this storage.
    """
    name, search = config.search.warm_start, config.search
    if name is None:
        return []
    from ..search.space import distributions, fixed_values
    from ..search.warm_start import trials_from

    if name == LATEST:
        raise ConfigError(
            "search.warm_start: 'latest' would be this run by the time it begins; give a run's id"
        )
    record = storage.open(name).stage_record("search")
    if record.get("state") != "finished":
        raise ConfigError(
            f"search.warm_start: the search of run {name!r} is not finished; wait for it, or name another run"
        )
    return trials_from(
        record["result"]["trials"],
        distributions(search),
        [each.metric for each in search.all_objectives],
        name,
        fixed=fixed_values(search),
        conditional=[each for each, parameter in search.space.items() if parameter.when],
        constraints=search.constraints,
    )
