"""Measure how many times faster the selected variant is than teacher and reference, or reuse another run's ratios."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import RunFailedError
from ...export.benchmark.measure_models import Measurement, MeasurementSpec
from ...export.benchmark.targets import CPU
from ...export.report.report import REFERENCE
from ...export.selection.gate import TEACHER
from ...progress import Progress, ReportProgress
from ..remote.tasks import ratios_of, time_models
from ..specification.config import JobConfig
from ..store.runs import Run
from ..store.stage_index import find_result, write_result
from .dispatch import Dispatcher
from .reuse.models import ModelReuse
from .reuse.search import hash_of
from .reuse.specs import measurement_specs

if TYPE_CHECKING:
    from ...training.data.text_data import TextData

logger = logging.getLogger(__name__)

Ratios = dict[str, dict[str, Any]]
"""``LatencyRatio`` as JSON values by the model's name; with ``reused`` if it was measured before."""
_Timed = tuple[MeasurementSpec, Measurement]


class RatioMeasurement:
    """Measures the ratios that a job's report states.

    Args:
        config: The specification.
        run: The run, whose benchmark is finished.
        data: Texts of the run.
        models: Computes the keys of the run's measurements.
    """

    def __init__(self, config: JobConfig, run: Run, data: TextData, models: ModelReuse) -> None:
        self._config = config
        self._run = run
        self._data = data
        self._models = models

    def measure(self, chosen: str, measured: Mapping[str, Measurement], report: ReportProgress) -> Ratios:
        """Return the ratio of the selected variant to each other model that the report compares it with.

        Args:
            chosen: Name of the selected variant.
            measured: The measurements by name.
            report: Called with the progress.

        Returns:
            The ratios; empty if ``benchmark.interleaved`` is off, a model cannot be timed again, or the variant was
            measured on a GPU.
        """
        if not self._config.benchmark.interleaved or measured[chosen].place != CPU:
            return {}
        specs = {spec.name: spec for spec in measurement_specs(self._config, self._run)}
        variant = specs[chosen], measured[chosen]
        bases = [
            (specs[name], measured[name])
            for name in (TEACHER, REFERENCE)
            if name in measured and measured[name].latency_ms is not None
        ]
        if not bases:
            return {}
        key = self._key(variant, bases)
        found = self._found(key)
        if found is not None:
            return found
        report(Progress(f"timing {chosen} in turns with {' and '.join(spec.name for spec, _ in bases)}"))
        try:
            ratios = self._timed(variant, bases, report)
        except RunFailedError as error:  # the report has ratios without an interval instead
            logger.warning("ratios were not measured: %s", error)
            return {}
        if key is not None:
            write_result(self._run, f"measurements/{chosen}.ratios.json", key, ratios)
        return ratios

    def _timed(self, variant: _Timed, bases: list[_Timed], report: ReportProgress) -> Ratios:
        config, labels = self._config, self._data.label_names
        if config.resources.address is None:  # nothing else of this job runs here now
            return ratios_of(self._run.store, config, labels, variant, bases)
        arguments = (labels, variant, bases)
        dispatcher = Dispatcher(config, self._run)
        return dispatcher.do_alone("gate", time_models, config.resources.benchmark, *arguments, report=report)

    def _key(self, variant: _Timed, bases: list[_Timed]) -> str | None:
        models = (variant, *bases)
        keys = self._models.measurement_keys([spec for spec, _ in models])
        if not keys:
            return None
        opened = {spec.name: [each.session, each.num_threads, each.query] for spec, each in models}
        return hash_of({"in_turns": keys, "opened": opened})

    def _found(self, key: str | None) -> Ratios | None:
        if key is None or not (self._config.storage.reuse and self._config.benchmark.reuse):
            return None
        found = find_result(self._run.store, key)
        if found is None:
            return None
        source, record = found
        origin = None if source == self._run else {name: record[name] for name in ("run_id", "at")}
        return {name: {**ratio, "reused": origin} for name, ratio in record["result"].items()}
