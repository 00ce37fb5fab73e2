"""Baselines of a job: which of them are available, and the texts that they are trained on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigError, shown
from ...export.baselines import BASELINES
from ...export.baselines.fit import TEXTS_FILE, BaselineTexts, write_texts
from ...export.benchmark.measure_models import MeasurementSpec
from ...export.benchmark.targets.baseline import BASELINE
from ...export.config import BenchmarkConfig
from ...storage.folders import file_sha256
from ...storage.temporary import temporary_directory
from ...texts import joined, texts_of
from ..specification.config import JobConfig
from ..store.input_files import REFERENCE, with_local_inputs

if TYPE_CHECKING:
    from ...storage.store import Store
    from ...training.data.text_data import TextData

logger = logging.getLogger(__name__)

_WHOLE_TEXTS = 0  # maximum length of a baseline, which does not truncate texts


def left_out(config: JobConfig) -> dict[str, str]:
    """Map each baseline of a job that is not available here to the reason, with the remedy."""
    section = config.benchmark
    reasons = {name: BASELINES[name].why_not(config.task, section.model2vec) for name in section.baselines}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def baseline_specs(config: JobConfig) -> list[MeasurementSpec]:
    """Return the baselines that a job measures; they have no folder in the store."""
    without = left_out(config)
    return [
        MeasurementSpec(name, BASELINE, "", _WHOLE_TEXTS)
        for name in config.benchmark.baselines
        if name not in without
    ]


def check_baselines(config: JobConfig) -> None:
    """Reject a baseline that the job cannot have; skip one of the defaults with a warning instead.

    Args:
        config: The specification with paths of this machine.

    Raises:
        ConfigError: It does not support the task, or its package or model is missing; the message has the remedy.
        ModelError: The model of ``benchmark.model2vec`` cannot be found.
    """
    defaults = BenchmarkConfig().baselines
    for name, reason in left_out(config).items():
        if name not in defaults:
            raise ConfigError(f"benchmark.baselines: {shown(name)} given, but {reason}")
        logger.warning("benchmark.baselines: %s is left out: %s", name, reason)
    _model(config)


@contextmanager
def with_training_texts(
    specs: Sequence[MeasurementSpec], config: JobConfig, store: Store, data: TextData
) -> Iterator[list[MeasurementSpec]]:
    """Yield the models to measure, with a temporary folder of training texts as the directory of each baseline.

    Args:
        specs: Models to measure.
        config: The specification.
        store: The run store, which may have the model of ``benchmark.model2vec``.
        data: The texts.
    """
    if not any(spec.kind == BASELINE for spec in specs):
        yield list(specs)
        return
    if config.benchmark.model2vec is not None:
        config = with_local_inputs(config, store)
    with temporary_directory("baselines") as folder:
        write_texts(baseline_texts(config, data), folder / TEXTS_FILE)
        yield [replace(spec, directory=str(folder)) if spec.kind == BASELINE else spec for spec in specs]


def baseline_texts(config: JobConfig, data: TextData) -> BaselineTexts:
    """Return the labelled texts of baselines: they train on the same split as the students."""
    train, validation = data.splits["train"], data.splits["validation"]
    return BaselineTexts(
        [joined(text) for text in texts_of(train)],
        train["label"][:],
        [joined(text) for text in texts_of(validation)],
        validation["label"][:],
        data.label_names,
        data.out_of_scope_label,
        is_balanced=config.training.balance != "none",
        seed=config.training.seed,
        model=_model(config),
    )


def _model(config: JobConfig) -> str | None:
    """Return the folder of the model for Model2Vec, after downloading it from the hub if needed; None without one."""
    from ...training.checkpoints.load import local_directory, resolve_checkpoint
    from ...training.checkpoints.loading import naming

    name = config.benchmark.model2vec
    if name is None or not any(BASELINES[each].model_key for each in config.benchmark.baselines):
        return None
    with naming("benchmark.model2vec"):
        return str(local_directory(resolve_checkpoint(name)).absolute())


def baseline_content(config: JobConfig, name: str) -> str:
    """Return a JSON text of everything besides the data that determines a baseline: settings, model and versions."""
    baseline, model = BASELINES[name], None
    if baseline.model_key is not None:
        model = config.benchmark.model2vec
        if model is not None and not model.startswith(REFERENCE):  # a reference names content already
            folder = Path(_model(config) or "")
            model = [file_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()]
    settings = [config.training.balance != "none", config.training.seed, model]
    return json.dumps([name, baseline.version, baseline.package_version, *settings])
