"""The searcher: Ray's OptunaSearch, told of results in the trials' order so that a seed repeats a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.tune.search.optuna import OptunaSearch

from .config import SearchConfig

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def side_by_side(config: SearchConfig, num_slots: int) -> int:
    """How many of the search's trials run at a time where the resources hold ``num_slots``.

    TPE learns only from trials that have ended. Unless ``max_concurrent_trials`` says otherwise, it is given
    the time: at most a quarter of the trials, and 2 at least, run side by side. Without a modelled trial there
    is nothing to wait for.
    """
    if config.max_concurrent_trials is not None:
        return min(config.max_concurrent_trials, num_slots)
    modelled = config.num_trials > config.num_startup_trials
    return min(num_slots, max(2, config.num_trials // 4)) if modelled else num_slots


def window_of(num_trials: int, num_side_by_side: int) -> int:
    """The window of a search: half as many again as run side by side, but no more than half of all trials.

    More would leave TPE blind, fewer than run side by side would leave resources idle, and with no room at all
    every suggestion would wait for the slowest trial.
    """
    roomy = num_side_by_side + num_side_by_side // 2
    return max(num_side_by_side, min(roomy, num_trials // 2))


class OrderedOptunaSearch(OptunaSearch):
    """TPE whose suggestion number n knows the results of trials 0 … n - ``window``, never of later ones.

    Trials that run side by side end in an order that differs between runs. Telling Optuna as they end would
    make every suggestion after the random ones depend on that order; telling it in the trials' own order,
    with a window, makes suggestion n a function of the seed and the results alone. Trials inside the window
    count as running for TPE ("constant liar"). A suggestion waits for a trial that is too far behind. The study
    stays in memory: with a stored one, a search whose driver was killed cannot be restored.

    Args:
        space: Optuna distribution by argument name; not empty.
        fixed: Arguments of one value, added to every suggestion.
        metric: Reported metric; a trial's value is its best epoch's.
        mode: ``max`` or ``min``.
        seed: Seed of the sampler.
        num_startup_trials: Random trials before TPE begins.
        window: See above; 1 tells every result before the next suggestion.
        max_concurrent: Most trials at a time; also keeps Tune from asking before a trial can start.
    """

    def __init__(
        self,
        space: dict[str, BaseDistribution],
        fixed: dict[str, Any],
        *,
        metric: str,
        mode: str,
        seed: int,
        num_startup_trials: int,
        window: int,
        max_concurrent: int,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # Optuna counts results; of the random trials so many are told when the first modelled one is asked for.
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=max(1, num_startup_trials - window + 1), constant_liar=True
        )
        super().__init__(space=space, metric=metric, mode=mode, sampler=sampler)
        self._fixed = fixed
        self._num_startup_trials = num_startup_trials
        self._window = window
        self._max_concurrent = max_concurrent
        self._order: list[str] = []
        self._best: dict[str, float] = {}
        self._ended: dict[str, bool] = {}
        self._num_told = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return ``{"number": int, "arguments": {name: value}}`` of the next trial; None: ask again later."""
        number = len(self._order)
        if number - len(self._ended) >= self._max_concurrent:
            return None
        if number >= self._num_startup_trials and not self._tell(number - self._window + 1):
            return None
        searched = super().suggest(trial_id)
        assert searched is not None
        self._order.append(trial_id)
        return {"number": number, "arguments": {**self._fixed, **searched}}

    def _tell(self, num_trials: int) -> bool:
        """Tell Optuna of the first ``num_trials`` trials in order; False when one of them has not ended."""
        while self._num_told < num_trials:
            trial_id = self._order[self._num_told]
            if trial_id not in self._ended:
                return False
            failed = self._ended[trial_id] or trial_id not in self._best
            super().on_trial_complete(
                trial_id, None if failed else {self.metric: self._best[trial_id]}, error=failed
            )
            self._num_told += 1
        return True

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Remember the best epoch; Optuna is told when the trial has ended and its turn has come."""
        if result.get("failure"):
            self._ended[trial_id] = True
            return
        better = max if self.mode == "max" else min
        self._best[trial_id] = better(self._best.get(trial_id, result[self.metric]), result[self.metric])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Remember how the trial ended."""
        self._ended[trial_id] = self._ended.get(trial_id, False) or error
