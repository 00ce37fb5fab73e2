"""Tree-structured Parzen estimators."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from .base import SAMPLERS, Sampler, SamplerInputs

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@SAMPLERS.register
class Tpe(Sampler):
    """Tree-structured Parzen estimator: suggest what is likely among the best trials and unlikely among the others.

    Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011, section 4. Running trials count as
    poor ones ("constant liar").
    """

    type: Literal["tpe"] = "tpe"
    multivariate: bool | None = Field(
        default=None,
        description="Model all arguments together instead of each by itself. Default: together with one objective, "
        "by itself with several.",
    )

    most_modelled: ClassVar[int | None] = 300

    def create(self, inputs: SamplerInputs) -> BaseSampler:
        """Return Optuna's TPE sampler."""
        from optuna.samplers import TPESampler

        return TPESampler(
            seed=inputs.seed,
            n_startup_trials=inputs.num_results,
            multivariate=self.multivariate,
            constant_liar=True,
        )
