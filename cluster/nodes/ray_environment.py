"""Environment variables that are set for every Ray process."""

from __future__ import annotations

from ...search.driver.nodes import RAY_WORKER_ENV

PROCESS_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    **RAY_WORKER_ENV,
}
"""Variables of Ray's daemons, of drivers and of submitted jobs."""
