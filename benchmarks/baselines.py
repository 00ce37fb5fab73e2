"""Train the baselines of a job on its data, and measure them like the job's benchmark, without running the job.

    python benchmarks/baselines.py clinc150-offline --set data.path=DIR/data_oos_plus.json

Prints a Markdown table. The threshold is selected on the validation split, as in the job; all figures are of the test
split.
"""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Any

from distiltune.cluster.remote.baselines import baseline_specs, left_out, with_training_texts
from distiltune.cluster.remote.tasks import benchmark_texts
from distiltune.cluster.specification.config import load_config
from distiltune.cluster.specification.goal import goal_of
from distiltune.cluster.store.runs import Storage
from distiltune.export.benchmark.measure_models import Measurement, measure_models
from distiltune.export.markdown import fixed, table
from distiltune.training.data.text_data import load_data

HEADERS = (
    *("baseline", "accuracy", "in-scope", "with threshold", "in-scope with", "calibration error"),
    *("10^6 bytes", "p50 ms", "texts/s", "memory MB", "training s"),
)


def main() -> None:
    """Measure the baselines of a job."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("job", help="job file or preset")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="a key of the job"
    )
    arguments = parser.parse_args()
    config = load_config(arguments.job, arguments.overrides)
    data = load_data(config.data)
    reasons = left_out(config)
    store = Storage(config.storage.path).store
    with with_training_texts(baseline_specs(config), config, store, data) as specs:
        rows = measure_models(
            specs,
            benchmark_texts(config, data),
            config.benchmark,
            goal=goal_of(config, data),
            report=lambda progress: logging.info("%s", progress.message),
            leave_out=reasons.__setitem__,
        )
    sys.stdout.write(table(HEADERS, [cells(row) for row in rows]))
    lines = [f"{row.name}: {(row.training or {})['features']}" for row in rows]
    lines += [f"{name}: not measured: {reason}" for name, reason in reasons.items()]
    sys.stdout.write("".join(f"{line}\n" for line in ["", *lines]))


def cells(row: Measurement) -> list[Any]:
    """Return a baseline's row of the table."""
    with_threshold, training = row.with_threshold or {}, row.training or {}
    assert row.latency_ms is not None, "only a model with known answers has no times, and no baseline is one"
    return [
        row.name,
        *(fixed(value, 4) for value in (row.accuracy, row.in_scope_accuracy)),
        *(fixed(with_threshold.get(name), 4) for name in ("accuracy", "in_scope_accuracy")),
        fixed((row.calibration or {}).get("in_scope_error_after"), 4),
        fixed(training["bytes"] / 1e6, 1),
        fixed(row.latency_ms["p50"], 3) + ("?" if row.is_disturbed else ""),
        fixed(list(row.throughput.values())[-1], 0),
        fixed(row.peak_memory_mb, 0),
        fixed(training["seconds"], 1),
    ]


if __name__ == "__main__":
    main()
